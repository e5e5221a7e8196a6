"""What a command of ``snu`` is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple


class Command(NamedTuple):
    """A word that can be typed after ``snu``.

    Args:
        name: the word.
        text: what it does, in a line of ``snu --help``.
        example: what its own help shows to be typed after the name.
        arguments: adds its arguments to a parser. It is asked before every command, so it and its
            module import nothing that takes time.
        run: does it with what was typed, and returns the exit status: 0, 1 for a negative verdict.
    """

    name: str
    text: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
