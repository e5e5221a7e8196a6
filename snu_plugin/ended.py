"""What ends a command before its time: Ctrl-C and SIGTERM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED, TERMINATED = 130, 143


class Ended(Exception):
    """A command that was stopped: what is left, in a line, and the exit status."""

    def __init__(self, left: str, status: int) -> None:
        super().__init__(left)
        self.status = status


class Terminated(KeyboardInterrupt):
    """SIGTERM, answered as Ctrl-C is: what was written so far is whole."""


def stopped(left: str, error: KeyboardInterrupt) -> Ended:
    """Return what ``snu`` says of a command that a signal ended, and its exit status."""
    if isinstance(error, Terminated):
        return Ended(f"terminated; {left}", TERMINATED)
    return Ended(f"interrupted; {left}", INTERRUPTED)


@contextmanager
def signals_as_themselves() -> Iterator[None]:
    """Raise the signal itself out of an error that came of it.

    Compiled code that a signal meets while it calls Python, such as Numba's, answers with an error
    of its own.
    """
    try:
        yield
    except Ended:
        raise
    except Exception as error:
        behind: BaseException | None = error
        while behind is not None and not isinstance(behind, KeyboardInterrupt):
            behind = behind.__cause__ or behind.__context__
        if behind is None:
            raise
        raise behind from None
