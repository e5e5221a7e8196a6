"""Layers of Spiking Neural Units and of Spiking Recurrent Cells as torch modules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.accepted import by_known_names, shown
from snu_plugin.neuron.cells import src_scan
from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.engine import Engine
from snu_plugin.neuron.linear import EventLinear, Linear, snu_linear
from snu_plugin.neuron.pool import max_pool2d, snu_pooled
from snu_plugin.neuron.precision import wide
from snu_plugin.neuron.reference import State
from snu_plugin.neuron.scan import check_sequence, checked_config, run_units
from snu_plugin.neuron.src import SRCConfig, SRCState

LARGEST_DECAY = 1 - 2**-24
"""The largest float32 below 1: where a trained decay is held."""


class _Hold(torch.autograd.Function):
    """Clamp; block only the gradient that would push a held value further out."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, low: float, high: float) -> Tensor:
        return value.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        value, ctx.low, ctx.high = inputs
        ctx.save_for_backward(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        outwards = ((value <= ctx.low) & (grad > 0)) | ((value >= ctx.high) & (grad < 0))
        return grad.masked_fill(outwards, 0), None, None


def hold_decay(decay: Tensor) -> Tensor:
    """Return a trained decay held inside [0, 1); a gradient pointing back inside still passes.

    One of half precision, which has no number next to 1, is held in float32.
    """
    held: Tensor = _Hold.apply(wide(decay), 0.0, LARGEST_DECAY)
    return held


def held_parameters(results: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the parameters that results depend on through a hold, each with where it is held.

    There a hold made at every step blocks other gradients than one made for the whole sequence: a
    step's own sign decides, or that of the sum.
    """
    waiting: list[Any] = [result.grad_fn for result in results]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        sources = [source for source, _ in node.next_functions]
        waiting += sources
        if node.name() == "_HoldBackward":
            (value,) = node.saved_tensors
            leaf = sources[0]
            while leaf is not None and not hasattr(leaf, "variable"):
                leaf = leaf.next_functions[0][0]
            if leaf is not None:
                yield leaf.variable, (value <= node.low) | (value >= node.high)


def at_most(value: Tensor, limit: float) -> Tensor:
    """Return a trained value held at or below ``limit``; a gradient pointing down still passes."""
    held: Tensor = _Hold.apply(value, -math.inf, limit)
    return held


def _trailing_shape(features: int | tuple[int, ...]) -> tuple[int, ...]:
    shape = tuple(features) if isinstance(features, (tuple, list)) else (features,)
    if not shape or any(not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(
            f"features is {shown(features)}; it must be one or more positive whole numbers"
        )
    return shape


def _hooked(module: nn.Module) -> bool:
    """Tell whether somebody waits for the calls of a module."""
    own = module._forward_hooks or module._forward_pre_hooks
    back = module._backward_hooks or module._backward_pre_hooks
    of_all: bool = torch.nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]
    return of_all or bool(own or back)


def _of_config(name: str) -> str:
    """Say where a setting belongs that is given to a layer itself."""
    known = {f.name for f in fields(SNUConfig)}
    return f"it is a setting: give config=SNUConfig({name}=...)" if name in known else ""


@partial(by_known_names, otherwise=_of_config)
class Unit(nn.Module):
    """What ``SNU`` and ``sSNU`` share; use one of these."""

    _soft = False
    threshold: Tensor
    decay: Tensor

    def __init__(
        self,
        features: int | tuple[int, ...],
        config: SNUConfig | None = None,
        *,
        recurrent: bool = False,
        impl: str | Engine | None = None,
    ) -> None:
        config = checked_config(config)
        if self._soft:
            config = replace(config, soft=True)
        elif config.soft:
            raise ValueError("config.soft is True; SNU fires steps, use sSNU for soft outputs")
        super().__init__()
        self.features = _trailing_shape(features)
        if recurrent and len(self.features) > 1:
            raise ValueError(f"features is {shown(features)}; a recurrent layer takes one number")
        self.config = config
        self.impl = impl
        for name, learn in (("threshold", config.learn_threshold), ("decay", config.learn_decay)):
            value = torch.full(self.features, float(getattr(config, name)))
            if learn:
                setattr(self, name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.recurrent = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(2 * self.features)))
            if recurrent
            else None
        )

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run the sequence ``x``, ``(T, B, ..., features)``, from ``state`` (``None``: zero)."""
        decay = hold_decay(self.decay) if self.config.learn_decay else self.decay
        constants = decay, self.threshold, self.recurrent
        return run_units(x, self.features, self.config, *constants, state, self.impl)

    def pooled(
        self, x: Tensor, size: tuple[int, int], state: State | None = None
    ) -> tuple[Tensor, State]:
        """Run a sequence of images; return the pools of its outputs, and the last state.

        Pools are the largest outputs of windows side by side, as ``torch``'s ``max_pool2d`` of
        every step: for spikes, whether one of a window fires. Where ``x`` is channels last on a
        processor with Numba, hard units with the published surrogate are pooled while they are
        updated: the outputs themselves, and their gradients, never reach memory. All else is two
        calls. Numbers and gradients of inputs are the same.

        Args:
            x: Weighted inputs, ``(T, B, channels, rows, columns)``, the last three the features.
            size: Rows and columns of a window.
            state: State to start from; ``None`` starts at zero.

        Returns:
            ``(T, B, channels, rows // size[0], columns // size[1])`` and the state after the last
            step.

        Raises:
            ValueError: For units that are no images, or an ``x`` of another shape.

        >>> layer = SNU((1, 2, 4))
        >>> y, state = layer.pooled(torch.ones(3, 5, 1, 2, 4), (2, 2))
        >>> y.shape, state.s.shape
        (torch.Size([3, 5, 1, 1, 2]), torch.Size([5, 1, 2, 4]))
        """
        if len(self.features) != 3:
            raise ValueError(
                f"features is {self.features}; pools are of (channels, rows, columns), "
                "so call the layer itself"
            )
        check_sequence(x, self.features)
        if (constants := self._nothing_else()) is not None:
            found = snu_pooled(x, size, self.config, *constants, state, self.impl)
            if found is not None:
                return found
        y, last = self(x, state)
        pools = max_pool2d(y.flatten(0, -4), size)
        return pools.view(*x.shape[:-3], *pools.shape[1:]), last

    def into(self, layer: nn.Linear, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run a sequence, and its outputs through a linear layer; return these, and the last state.

        It is ``layer(self(x)[0])``, for outputs that nobody else takes. With a surrogate of bounded
        support, such as a rectangle or a triangle, most units are so far from the threshold that
        what their outputs receive on the way back is multiplied by 0. Where enough are, on a
        processor with Numba, the product for it is taken at the other places alone: the gradients
        are the same, up to the order of sums. All else is two calls.

        Args:
            layer: A linear layer of torch's or of ours.
            x: Weighted inputs of the units, ``(T, B, ..., features)``.
            state: State to start from; ``None`` starts at zero.

        Returns:
            The layer's outputs ``(T, B, ..., layer.out_features)``, and the state after the last
            step.

        Raises:
            ValueError: If ``x`` has another shape.

        >>> layer = SNU(3, SNUConfig(surrogate=lambda v: (v.abs() < 0.5).to(v.dtype)))
        >>> y, state = layer.into(nn.Linear(3, 2), torch.ones(4, 5, 3))
        >>> y.shape, state.s.shape
        (torch.Size([4, 5, 2]), torch.Size([5, 3]))
        """
        check_sequence(x, self.features)
        known = type(layer) is nn.Linear or (
            type(layer) in (Linear, EventLinear) and layer.impl is None
        )
        constants = self._nothing_else() if known and not _hooked(layer) else None
        if constants is not None and self.recurrent is None:
            found = snu_linear(
                x, layer.weight, layer.bias, self.config, *constants, state, self.impl
            )
            if found is not None:
                return found
        y, last = self(x, state)
        return layer(y), last

    def _nothing_else(self) -> tuple[Tensor, Tensor] | None:
        """Return decays and thresholds if a call is the scan alone, so that another may be it."""
        if type(self).forward is not Unit.forward or _hooked(self):
            return None
        decay = hold_decay(self.decay) if self.config.learn_decay else self.decay
        return decay, self.threshold

    def extra_repr(self) -> str:
        features = self.features[0] if len(self.features) == 1 else self.features
        recurrent = ", recurrent=True" if self.recurrent is not None else ""
        return f"{features}, {self.config}{recurrent}"


class SNU(Unit):
    """A layer of Spiking Neural Units: 0/1 outputs, reset to zero by the last output.

    ``y, state = layer(x, state=None)`` with ``x`` the weighted input, ``(T, B, ..., *features)``;
    the state is a value, never kept in the module. Equations: see ``snu_step``.

    Under autocast outputs have the precision of ``x`` and the state is float32. So it is where the
    layer itself was made ``half()`` or ``bfloat16()``, but that rounds its decays and thresholds:
    0.999 becomes 1 in bfloat16.

    Args:
        features: Units, or the trailing shape of the layer, e.g. ``(channels, height, width)``.
        config: Settings, ``soft=False``.
        recurrent: Add trained weights H from every unit to every unit, acting on the last step.
        impl: As in ``snu_scan``: a name, an ``Engine``; ``None`` takes the fastest that can run.

    Raises:
        ValueError: For features that are not positive, or a soft ``config``.

    >>> layer = SNU(3, SNUConfig(decay=0.5))
    >>> y, state = layer(torch.ones(4, 2, 3))
    >>> y.shape, state.s.shape
    (torch.Size([4, 2, 3]), torch.Size([2, 3]))
    """


class sSNU(Unit):
    """A layer of soft SNU: outputs ``sigmoid(s - threshold)`` and a proportional reset.

    Called as ``SNU`` is; whatever ``config.soft`` says, the layer is soft.
    """

    _soft = True


class SRC(nn.Module):
    """A layer of Spiking Recurrent Cells.

    ``y, state = layer(x, state=None)`` with ``x`` the weighted input, ``(T, B, ..., *features)``.
    Equations: see ``src_step``.

    Args:
        features: Cells, or the trailing shape of the layer, e.g. ``(channels, height, width)``.
        config: Settings; ``None`` is ``SRCConfig()``.
        impl: Implementation of the scan; ``None`` takes the fastest that can run.

    >>> layer = SRC(3)
    >>> y, state = layer(torch.ones(4, 2, 3))
    >>> y.shape, state.h.shape
    (torch.Size([4, 2, 3]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        features: int | tuple[int, ...],
        config: SRCConfig | None = None,
        *,
        impl: str | None = None,
    ) -> None:
        super().__init__()
        self.features = _trailing_shape(features)
        self.config = config or SRCConfig()
        self.impl = impl
        self.free_bias = nn.Parameter(torch.full(self.features, float(self.config.bias)))

    @property
    def bias(self) -> Tensor:
        """What the cells use: the trained value, held at or below ``config.bias_max``."""
        return at_most(self.free_bias, self.config.bias_max)

    def forward(self, x: Tensor, state: SRCState | None = None) -> tuple[Tensor, SRCState]:
        """Run the sequence ``x``, ``(T, B, ..., *features)``, from ``state`` (``None``: zero)."""
        check_sequence(x, self.features)
        return src_scan(x, self.config, bias=self.bias, state=state, impl=self.impl)

    def extra_repr(self) -> str:
        return f"{self.features}, {self.config}"
