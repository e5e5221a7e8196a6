"""What makes snnTorch's ``utils.reset`` and ``backprop`` find a neuron that is not its own."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import snntorch
import torch
from torch import Tensor, nn


class _Left(NamedTuple):
    """The states that a step left in a neuron, and whether gradients run through ``mem``."""

    states: tuple[Tensor, ...]
    followed: bool


class Stateful(snntorch.Lapicque):
    """A neuron whose states snnTorch zeroes and cuts from their gradients.

    snnTorch 1.0 looks for neurons of its own classes: ``utils.reset`` and ``backprop`` replace
    their ``mem`` by zeros or call its ``detach_()``. Nothing else is taken from ``Lapicque``, not
    its constructor either. It is ``Lapicque`` and not ``Leaky`` because snnTorch's own export
    writes every ``Leaky`` as a plain LIF; a ``Lapicque`` it cannot export, and fails.
    """

    states: ClassVar[tuple[str, ...]] = ("mem",)
    """Names of the states, ``mem`` among them; buffers that no checkpoint has."""

    mem: Tensor

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self._init_mem()
        self.instances.append(self)

    def _init_mem(self) -> None:
        for name in self.states:
            self.register_buffer(name, torch.zeros(0), persistent=False)
        self._left: _Left | None = None

    def reset_mem(self) -> Any:
        """Set the states to zero and return them."""
        for name in self.states:
            setattr(self, name, torch.zeros_like(getattr(self, name)))
        return self.mem if len(self.states) == 1 else self._now()

    def _now(self) -> tuple[Any, ...]:
        buffers = self._buffers  # asked directly: attributes of modules take their time
        return tuple([buffers[name] for name in self.states])

    def touched(self) -> bool:
        """Tell whether ``mem``, and it alone, is another one than the last step left."""
        if self._left is None:
            return False
        now, left = self._now(), self._left.states
        return [n for n, a, b in zip(self.states, now, left, strict=True) if a is not b] == ["mem"]

    def kept(self) -> tuple[Tensor, ...]:
        """Return the states to go on from: what snnTorch did to ``mem`` holds for the others too.

        Others that were set since the last step stay as they are.
        """
        now, left = self._now(), self._left
        if left is None:
            return now
        if self.touched():
            return tuple(state if state is self.mem else torch.zeros_like(state) for state in now)
        cut = left.followed and not self.mem.requires_grad
        return tuple(state.detach() for state in now) if cut else now

    def leave(self, *states: Tensor) -> None:
        """Keep the states after a step."""
        self._buffers.update(zip(self.states, states, strict=True))
        self._left = _Left(states, self.mem.requires_grad)

    @classmethod
    def reset_hidden(cls) -> None:
        """Zero the states of every neuron of this class, as those of snnTorch do."""
        for neuron in cls.instances:
            if isinstance(neuron, cls):
                neuron.reset_mem()

    @classmethod
    def detach_hidden(cls) -> None:
        """Cut the states of every neuron of this class from their gradients, likewise."""
        for neuron in cls.instances:
            if isinstance(neuron, cls):
                for state in neuron._now():
                    state.detach_()

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle states without their graph of gradients, which neither could take."""
        buffers = {k: None if b is None else b.detach() for k, b in self._buffers.items()}
        return {**vars(self), "_buffers": buffers, "_left": None}
