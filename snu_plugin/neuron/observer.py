"""Who watches the layers of a network while it runs, and may run them in a way of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.engine import Engine
from snu_plugin.neuron.reference import State


class Observer(Protocol):
    """What ``observed`` calls instead of a scan, and after a product."""

    def snu(
        self,
        x: Tensor,
        config: SNUConfig,
        *,
        decay: Tensor | None,
        threshold: Tensor | None,
        recurrent: Tensor | None,
        state: State | None,
        impl: str | Engine | None,
    ) -> tuple[Tensor, State]:
        """Return what ``snu_scan`` returns for these arguments."""

    def dense(self, weight: Tensor) -> bool:
        """Return whether this weight is to be multiplied by ``torch.nn.functional.linear``."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        """Take note of the product ``y = x @ weight.T + bias``."""

    def refuse(self, what: str) -> None:
        """Say that a network holds what the observer cannot follow."""


OBSERVER: ContextVar[Observer | None] = ContextVar("observer", default=None)
"""Who watches; ``observer()`` where a compiler may be looking."""


@contextmanager
def observed(observer: Observer | None) -> Iterator[None]:
    """Let ``observer`` see scans and products inside the block; ``None``: nobody."""
    before = OBSERVER.set(observer)
    try:
        yield
    finally:
        OBSERVER.reset(before)


def observer() -> Observer | None:
    """Return who watches now; nobody watches what is being compiled."""
    return None if torch.compiler.is_compiling() else OBSERVER.get()
