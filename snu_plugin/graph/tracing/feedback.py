"""Feedback that a model writes by hand: what it feeds back, and what stands for it at first.

In the first step there is nothing to feed back. Models then leave it out, or put zeros in its
place. A graph has an edge in every step, which delivers nothing in the first. So a call may lack in
the first step what is late in all others, and zeros that nothing made are nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from snu_plugin.graph.tracing.traced_calls import Call
from snu_plugin.graph.tracing.traced_tensor import SUMS, Shape, Source, TracedTensor, named

DIFFERENCES = frozenset({"sub", "__sub__", "subtract", "sub_", "__isub__"})

SHAPES_ALONE = frozenset(
    {"zeros_like", "new_zeros", "ones_like", "new_ones", "full_like", "new_full"}
)
"""Functions of a tensor whose result hangs on its shape alone."""


PRODUCTS = frozenset({"linear", "conv1d", "conv2d", "matmul", "mm", "__matmul__"})
"""Functions that may make something of zeros that stand for feedback, by a bias."""


@dataclass(frozen=True)
class Pattern:
    """What a call receives; the same in every step, but for feedback in the first."""

    sources: tuple[str, ...]
    """Sorted, as a sum has no order."""
    late: tuple[str, ...]
    """Those of the step before."""
    parts: tuple[tuple[tuple[str, ...], tuple[str, ...], int], ...]
    """Sources, late sources and width of each of the tensors that lie side by side."""
    source_shape: Shape
    shape: Shape
    received: tuple[Source, ...] = field(compare=False)
    """All sources, in their order: to be told."""

    def told(self) -> str:
        return f"{named(self.received)} {self.shape}"

    def lacks_feedback(self, other: Pattern) -> bool:
        """Tell whether it is ``other`` without some of what that receives of the step before."""
        mine, others = (((p.sources, p.late, 0), *p.parts) for p in (self, other))
        return (
            (self.source_shape, self.shape) == (other.source_shape, other.shape)
            and len(self.parts) == len(other.parts)
            and all(
                now == then and set(late) <= set(more) and width == wide
                for (now, late, width), (then, more, wide) in zip(mine, others, strict=True)
            )
            and self != other
        )


def pattern(value: TracedTensor, call: Call) -> Pattern:
    """Return what a call receives of ``value`` in a step."""
    parts = tuple((*_sorted(part.sources), part.tensor.shape[value.axis]) for part in value.parts)
    now, late = ((), ()) if parts else _sorted(call.sources)
    return Pattern(now, late, parts, call.source_shape, call.shape, call.sources)


def _sorted(sources: Sequence[Source]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a step itself makes, and what the step before made."""
    now, late = (
        tuple(sorted(str(source) for source in sources if source.late == which))
        for which in (False, True)
    )
    return now, late


def is_silence(x: Tensor) -> bool:
    """Tell whether a tensor that nothing made may stand for feedback before there is any."""
    return bool(x.numel()) and not isinstance(x, nn.Parameter) and not bool(x.any())


def silence(x: Tensor) -> TracedTensor:
    """Return zeros as what is fed back before there is anything."""
    return TracedTensor(x, (), tuple(x.shape), None, 0, start=True)


def adds_nothing(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], value: TracedTensor
) -> bool:
    """Tell whether a function adds zeros to ``value`` that nothing made from the model's input."""
    if kwargs or len(args) != 2 or name not in SUMS | DIFFERENCES:
        return False
    if name in DIFFERENCES and args[0] is not value.tensor:
        return False
    other = args[1] if args[0] is value.tensor else args[0]
    if isinstance(other, Tensor):
        return other is not value.tensor and is_silence(other)
    return isinstance(other, (int, float)) and not other


def bias_with_signal(modules: Sequence[nn.Module], parts: Sequence[TracedTensor]) -> None:
    """Let the bias of a layer whose input lies side by side act in the first step, too.

    Changes ``modules``, a layer for each of ``parts``, of which one has the bias: it goes to one
    whose part is made in the step itself.
    """
    owner = next((m for m in modules if getattr(m, "bias", None) is not None), None)
    now = [m for m, part in zip(modules, parts, strict=True) if not _is_late(part)]
    if owner is not None and now and not any(owner is module for module in now):
        now[0].register_parameter("bias", owner.get_parameter("bias"))
        owner.register_parameter("bias", None)


def _is_late(value: TracedTensor) -> bool:
    return not value.sources or any(source.late for source in value.sources)
