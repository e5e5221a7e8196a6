"""The command ``snu`` from its first line on: also a signal while it loads is one line."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as typing says it, which takes long to load
if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
else:
    import _signal as signal  # the same without enum, which loads longer than all the rest here

ENDS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def _end(number: int, *_: object) -> None:
    """End the process at once: an exception in the middle of an import may go lost there."""
    os.write(2, f"snu: {ENDS[number]}; what was written so far is whole\n".encode())
    os._exit(128 + number)


def _take_signals() -> None:
    for number in ENDS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as in the background, under nohup
            signal.signal(number, _end)


def _is_the_command(typed: Sequence[str]) -> bool:
    """Tell whether Python was started with the script ``snu``, not as a process of a pool of it.

    That has the arguments of the first in ``sys.argv``, and imports its script.
    """
    script = sys.argv[0]
    return os.path.basename(script).startswith("snu") and script in typed


if _is_the_command(sys.orig_argv):
    _take_signals()  # before main is called, as the script is read further in between


def main() -> int:
    """Run ``snu``; returns the exit status, see ``cli.main``."""
    _take_signals()
    from snu_plugin.cli import main as run

    try:
        try:
            if signal.getsignal(signal.SIGINT) is _end:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            return run()
        finally:
            _take_signals()  # while Python ends
    except KeyboardInterrupt:  # between two lines of those that answer it
        _end(signal.SIGINT)
        raise


if __name__ == "__main__":
    raise SystemExit(main())
