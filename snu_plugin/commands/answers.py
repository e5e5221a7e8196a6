"""How a command answers: what it says, how far it is, what is left where it is stopped."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snu_plugin.ended import signals_as_themselves, stopped

if TYPE_CHECKING:
    from snu_plugin.experiments.progress import Say

SHORTEST = 16
"""Columns that a line of an answer takes at least."""


def say(options: argparse.Namespace, record: Any, text: object) -> None:
    """Print an answer: as JSON where that is asked for, else as text that a terminal can hold."""
    if options.json:
        print(json.dumps(record, indent=1))
    elif sys.stdout.isatty():
        print(broken(str(text), shutil.get_terminal_size().columns))
    else:
        print(text)


def broken(text: str, columns: int) -> str:
    r"""Return a text whose sentences go on below, between two words, where a terminal ends.

    >>> print(broken("so it is\n  two words and two more", columns=16))
    so it is
      two words and
        two more
    """
    lines = []
    for line in text.splitlines():
        inside = " " * (len(line) - len(line.lstrip()) + 2)
        lines += textwrap.wrap(
            line, max(columns, SHORTEST), subsequent_indent=inside, break_long_words=False,
            break_on_hyphens=False,
        ) or [""]  # fmt: skip
    return "\n".join(lines)


@contextmanager
def followed(left: Callable[[], str]) -> Iterator[Say]:
    """Show how far a command is; where it is stopped, ``main`` says what is ``left``."""
    from snu_plugin.experiments.progress import Progress

    with Progress() as progress:
        try:
            with signals_as_themselves():
                yield progress
        except KeyboardInterrupt as error:
            raise stopped(left(), error) from error


def left_at(checkpoint: Path, what: str) -> str:
    kept = checkpoint.exists()
    return f"--resume goes on after the last whole {what}" if kept else "nothing was kept"
