"""Models that take time as the last axis of their input, (B, ..., T), as models of whole sequences.

A step is then a slice along that axis. What lies so in memory is the same as (T, B, ...) seen from
another side: views of it are followed as views of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


class TimeLast(nn.Module):
    """A model that gets (T, B, ...) as it takes it, (B, ..., T); its modules have its names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x.movedim(0, -1))

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        yield from self.model.named_modules(*args, **kwargs)

    def get_submodule(self, target: str) -> nn.Module:
        return self.model.get_submodule(target)


def is_turned(name: str, args: tuple[Any, ...]) -> bool:
    """Tell whether a function lays time last."""
    return name == "movedim" and args[1:] == (0, -1)
