"""What tests of several rooms measure with."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def peak_bytes() -> Callable[[Callable[[], None]], int]:
    """Return what tells how many bytes of tensors were alive at most while a function ran."""
    from alive_tensors import Alive  # and torch, which what only shares tests does without

    def measure(function: Callable[[], None]) -> int:
        alive = Alive()
        with alive:
            function()
        return alive.most

    return measure
