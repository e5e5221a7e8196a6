"""What ends a command before its time: Ctrl-C and SIGTERM."""

from __future__ import annotations

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
