"""The life of a chip: written, aged, and looked at again and again."""

from __future__ import annotations

from typing import NamedTuple


class Score(NamedTuple):
    """One run of the data on one chip."""

    case: str
    age: str
    age_s: float
    chip: int
    """Number of the chip, which is its seed."""
    read: int
    score: float
