"""How a command answers: what it says, how far it is, what is left where it is stopped."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snu_plugin.ended import signals_as_themselves, stopped

if TYPE_CHECKING:
    from snu_plugin.experiments.progress import Say


def say(options: argparse.Namespace, record: Any, text: object) -> None:
    print(json.dumps(record, indent=1) if options.json else text)


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
