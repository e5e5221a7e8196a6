"""Parameters of which a few stand for all in a quick run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few_of(values: Iterable[Any], *quick: Any) -> list[Any]:
    """Return the values as parameters of a test, all but the quick ones marked slow."""
    listed = list(values)
    assert all(value in listed for value in quick), "of values that are not there"
    return [v if v in quick else _slow(v) for v in listed]


def _slow(value: Any) -> Any:
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.slow)
