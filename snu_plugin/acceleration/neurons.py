"""What accelerate knows of a host's neurons: one rule a class, which adapters add."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from snu_plugin import simulators


class Rule:
    """How neurons of a class are called for a step, and run over all.

    As it stands, one that holds no states and has no compiled loop: ``take``, ``results`` and
    ``own_calls`` are a host's, ``how`` and ``fused`` a class's.
    """

    kind: type[nn.Module]
    states: tuple[str, ...]
    """Names of the states, in the order of ``take``."""
    parts: dict[str, int]
    """Place of each state and output among what ``run`` returns."""
    over_time: bool = False
    """Whether one call takes a sequence ``(T, ...)``."""

    def take(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return the input of a call and the states that it starts from, ``None`` if reset."""
        raise NotImplementedError

    def results(self, module: nn.Module, out: Any) -> Iterator[tuple[int, Tensor]]:
        """Return every tensor that a call gave, returned or held, with its part."""
        raise NotImplementedError

    def weights(self, module: nn.Module, x: Tensor) -> Tensor | None:
        """Return what a call multiplies ``x`` by ahead of its neurons, ``(features, inputs)``.

        ``run`` is given the product then. ``None``: it is given ``x``.
        """
        return None

    def run(
        self, module: nn.Module, x: Tensor, begin: Sequence[Tensor | None], wanted: frozenset[int]
    ) -> tuple[Tensor | None, ...]:
        """Return the parts of all steps of ``x``, ``(T, B, ...)``, each of that shape.

        States in ``begin`` of another shape than a step are a reset state, as ``None`` is. Of parts
        that are not in ``wanted`` the last step is enough, ``(1, B, ...)``.
        """
        if self.how(module, x):
            return self.own_calls(module, x, begin)
        return self.fused(module, x, begin, wanted)

    def fused(
        self, module: nn.Module, x: Tensor, begin: Sequence[Tensor | None], wanted: frozenset[int]
    ) -> tuple[Tensor | None, ...]:
        """Run in one scan, where ``how`` names no reason against it."""
        raise NotImplementedError

    def own_calls(
        self, module: nn.Module, x: Tensor, begin: Sequence[Tensor | None]
    ) -> tuple[Tensor, ...]:
        """Run by a call for each step."""
        raise NotImplementedError

    def pooled(
        self, module: nn.Module, x: Tensor, begin: Sequence[Tensor | None], size: tuple[int, int]
    ) -> tuple[Tensor | None, ...] | None:
        """Return the parts of images with the pools of outputs in place of these.

        Windows lie side by side, ``size`` are their rows and columns; of states the last step is
        enough. ``None``: ``run`` is to be called, and then the pool.
        """
        return None

    def how(self, module: nn.Module, x: Tensor) -> str:
        """Return why neurons are stepped by their own call, ``""`` where they run fused."""
        return f"no compiled loop for {self.kind.__name__}"

    def keep(self, module: nn.Module, parts: tuple[Tensor | None, ...]) -> None:
        """Have the module hold the states after the last step, as its own calls do."""

    def reset(self, module: nn.Module) -> None:
        """Have a module of a copied network hold no state."""

    def reached(self, module: nn.Module) -> AbstractContextManager[None]:
        """Have functions of the host for all neurons of a class reach a copied module, too."""
        return nullcontext()


def neurons_of(model: nn.Module) -> Iterator[tuple[str, nn.Module, Rule]]:
    """Return every neuron of a network, its name and its rule.

    Adapters know them. Those are asked whose host is imported; others have no neuron here.
    """
    for path, module in model.named_modules():
        rules = (_ask(name)(module) for name in _names() if name in sys.modules)
        if (rule := next((rule for rule in rules if rule is not None), None)) is not None:
            yield path, module, rule


@functools.cache
def _names() -> tuple[str, ...]:
    return simulators.adapters()


@functools.cache
def _ask(name: str) -> Callable[[nn.Module], Rule | None]:
    # An adapter need not have it; its neurons are followed like any module then.
    return getattr(simulators.adapter(name), "neuron_rule", lambda module: None)
