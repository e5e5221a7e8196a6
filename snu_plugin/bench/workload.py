"""The sizes that are timed, and one forward and backward pass through a network of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Call = Callable[[], object]
"""One forward and backward pass."""
Layer = Callable[[int], nn.Module]
"""What comes after a product: for a number of features, ``(T, B, N)`` to ``(T, B, N)``."""


class Workload(NamedTuple):
    """Sizes of linear layers with neurons, and where they run."""

    steps: int
    batch: int
    sizes: tuple[int, ...]
    """Inputs, then the neurons of each layer."""
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.steps} x {self.batch}, {' -> '.join(map(str, self.sizes))}"

    @property
    def tensor_bytes(self) -> int:
        """Bytes of one float32 tensor ``(T, B, N)`` of the last layer."""
        return 4 * self.steps * self.batch * self.sizes[-1]

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return seeded inputs in [0, 1) and a gradient of the outputs, both float32."""
        random = torch.Generator().manual_seed(0)
        x = torch.rand(self.steps, self.batch, self.sizes[0], generator=random)
        gradient = torch.randn(self.steps, self.batch, self.sizes[-1], generator=random)
        return x.to(self.device), gradient.to(self.device)

    def stack(self, layer: Layer | None) -> nn.Sequential:
        """Return linear layers, each followed by ``layer`` where there is one."""
        parts: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(self.sizes):
            parts += [nn.Linear(inputs, outputs), *([layer(outputs)] if layer else [])]
        return nn.Sequential(*parts).to(self.device)

    def train(self, net: nn.Module) -> Call:
        """Return a pass through ``net`` with the gradients of all its parameters."""
        x, gradient = self.draw()
        return self._pass(net.to(self.device), x, gradient, [])

    def train_alone(self, layer: Layer) -> Call:
        """Return a pass through the last layer's neurons alone, with the gradient of the input."""
        _, gradient = self.draw()
        net = layer(self.sizes[-1]).to(self.device)
        x = gradient.clone().requires_grad_()
        return self._pass(net, x, gradient, [x])

    def _pass(self, net: nn.Module, x: Tensor, gradient: Tensor, wanted: list[Tensor]) -> Call:
        wanted = [*wanted, *(value for value in net.parameters() if value.requires_grad)]

        def forward_and_backward() -> None:
            torch.autograd.grad(net(x), wanted, gradient)
            if self.device != "cpu":
                torch.cuda.synchronize()

        return forward_and_backward


class First(nn.Module):
    """The outputs of a layer that returns outputs and state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[0]
        return y


Cell = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""``y, state = cell(x, state)`` for one step; ``None`` starts a state."""


class Stepped(nn.Module):
    """Cells in a row, run over time by Python: all of them in each step."""

    def __init__(self, *cells: Cell) -> None:
        super().__init__()
        self.cells = cells
        self.parts = nn.ModuleList(cell for cell in cells if isinstance(cell, nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        states: list[Any] = [None] * len(self.cells)
        outputs = []
        for y in x:
            for place, cell in enumerate(self.cells):
                y, states[place] = cell(y, states[place])
            outputs.append(y)
        return torch.stack(outputs)


class Stateless(nn.Module):
    """A module as a cell that has no state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, state: None) -> tuple[Tensor, None]:
        return self.layer(x), None
