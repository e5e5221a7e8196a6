"""The command ``snu`` from its first line on: also a signal while it loads is one line."""

import os
import signal

from snu_plugin.ended import INTERRUPTED, TERMINATED

ENDS = {signal.SIGINT: ("interrupted", INTERRUPTED), signal.SIGTERM: ("terminated", TERMINATED)}


def main() -> int:
    """Run ``snu``; returns the exit status, see ``cli.main``."""
    for number in ENDS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as in the background, under nohup
            signal.signal(number, _end)
    from snu_plugin.cli import main as run

    try:
        if signal.getsignal(signal.SIGINT) is _end:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:  # between two lines of those that answer it
        _end(signal.SIGINT)
        raise


def _end(number: int, *_: object) -> None:
    """End the process at once: an exception in the middle of an import may go lost there."""
    said, status = ENDS[signal.Signals(number)]
    os.write(2, f"snu: {said}; what was written so far is whole\n".encode())
    os._exit(status)


if __name__ == "__main__":
    raise SystemExit(main())
