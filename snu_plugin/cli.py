"""The command ``snu``: one line for every error and signal, and the exit status."""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from snu_plugin.commands import COMMANDS, check_graph, parser
from snu_plugin.usage import (
    Ended,
    Misuse,
    Parser,
    Terminated,
    again,
    signals_as_themselves,
    stopped,
)

BAD_INPUT = 2
WAYS_OUT = {
    errno.EACCES: "give one that you may read, and write where something is left",
    errno.EPERM: "give one that you may read, and write where something is left",
    errno.EROFS: "give a place that can be written",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "give one that is there",
    errno.ENOTDIR: "give one that is below folders only",
    errno.ELOOP: "give one that is there",
}
"""What to do about a path that the system refuses."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``snu``; returns the exit status: 0, 1 for a negative verdict, 2 for bad input."""
    typed = sys.argv[1:] if arguments is None else list(arguments)
    command = next((word for word in typed if word in COMMANDS), "")
    fail = partial(_fail, as_json="--json" in typed)
    try:
        with _terminable(), signals_as_themselves(), _one_line_warnings(command):
            options = parser().parse_args(typed, argparse.Namespace(again=again(typed)))
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="replace")  # a terminal without µ costs no answer
            _check_places(options)
            status = COMMANDS[options.command].run(options)
    except Misuse as error:
        return fail(error.command, str(error), BAD_INPUT)
    except Ended as error:
        return fail(command, str(error), error.status)
    except KeyboardInterrupt as error:
        ended = stopped("what was written so far is whole", error)
        return fail(command, str(ended), ended.status)
    except BrokenPipeError:
        # The reader of a pipe has enough; nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        why = "there is not enough memory for it; give less data or a smaller graph"
        return fail(command, why, BAD_INPUT)
    except (ValueError, TypeError, OSError, LookupError, ImportError) as error:
        return fail(command, _as_typed(command, _one_line(error)), BAD_INPUT)
    return status


def _as_typed(command: str, message: str) -> str:
    """Return an error of Python in the words of a command, if there is one."""
    if command not in COMMANDS:
        return message
    options = Parser(prog=f"snu {command}")
    COMMANDS[command].arguments(options)
    return options.as_typed(message)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: open files are closed, drafts removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread may handle signals
        return

    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_places(options: argparse.Namespace) -> None:
    """Refuse a graph that is not there, and a page that could not be written, at once."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise FileNotFoundError("the folder that you are in is gone; change to another") from None
    if getattr(options, "graph", None) is not None:
        check_graph(options.graph)
    if getattr(options, "report", None) is not None:
        from snu_plugin.report import page

        page.check(options.report)


def _fail(command: str, message: str, status: int, as_json: bool = False) -> int:
    """Say what is wrong in one line of standard error, and as JSON where that is asked for."""
    if sys.stderr is not None:  # closed, and print takes None for what is printed on
        print(f"{' '.join(filter(None, ('snu', command)))}: {message}", file=sys.stderr)
    if as_json:
        error = {"command": command, "message": message, "status": status}
        print(json.dumps({"error": error}, indent=1))
    return status


@contextmanager
def _one_line_warnings(command: str) -> Iterator[None]:
    """Show a warning as errors are shown, without the place in the code."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        said = _as_typed(command, " ".join(str(message).split()))
        print(f"snu {command}: {said}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"there is no room left on the disk ({error}); what was written so far is whole: make "
            "room and run it again, with --resume where the command has it"
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}; {WAYS_OUT.get(error.errno, 'give another')}"
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return f"{error}; the installation is not whole: install snu-plugin again"
    if isinstance(error, KeyError):
        return " ".join(str(error.args[0]).split())
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
