"""What a run of a model shows: its calls of layers, and how they are wired."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from snu_plugin.graph.tracing.layer_state import Path
from snu_plugin.graph.tracing.traced_tensor import Shape, Source

BatchAxes = Callable[[nn.Module, Tensor], int | None]

SplitInput = Callable[[nn.Module, Sequence[int]], Sequence[nn.Module]]

Start = Callable[[nn.Module, Tensor], Any]


class Call(NamedTuple):
    """One module, a part of it, or a function as a layer, at work in the first step."""

    name: str
    """The module's; numbered if a module without a state works in several places."""
    module: nn.Module
    sources: tuple[Source, ...]
    """What it receives, summed."""
    source_shape: Shape
    """Shape that each source gives in a step."""
    shape: Shape
    """Shape that it receives in a step: ``source_shape``, or a reshape of it."""
    out: Shape
    """Shape of its output in a step."""


class Trace(NamedTuple):
    """The wiring of a model; all shapes are of one step, without batch and time."""

    calls: list[Call]
    """In the order in which they ran."""
    input_shapes: dict[str, Shape]
    """By the name of the input; the only one is ``input``."""
    outputs: list[Call]
    """What the model returns, each as if a module of that name received it."""
    required: int
    """How many of them must leave, the first ones."""
    left_out: dict[str, str]
    """Why what it returns beside its first output does not leave, where it does not."""
    last: dict[str, int]
    """Step that the first of each of them belongs to."""
    time: int | None
    """Axis of the sample that the model cuts into steps; ``None`` where it cuts none."""
    steps: int
    """How many steps the model makes in one call of what it does not cut into steps itself."""
    states: Mapping[str, Collection[Path]]
    """What each module holds that it changes itself."""
    begun: Collection[str]
    """Modules whose calls are not one in each step: zeros before there is feedback come first, so
    that all are late, or the same is asked for twice."""
    at_first: Mapping[str, Tensor]
    """What calls make of such zeros, where that is something."""
    biased: Collection[str]
    """Those of which that acts in the first step."""
