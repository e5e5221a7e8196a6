"""What is known of a tensor on its way from one module to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]

STEPS_OF = "steps of "
"""How it is said of a stack that it holds no sequence in order."""


class Source(NamedTuple):
    """What a tensor comes from."""

    name: str | None
    """Name of a call of a module; ``None``: the model's input."""
    state: str = ""
    """Name of the state that it is; empty: the module's first output."""
    late: bool = False
    """Whether it is what the step before gave: feedback, which is nothing in the first step."""


SUMS = frozenset({"add", "__add__", "__radd__", "add_", "__iadd__"})
DIFFERENCES = frozenset({"sub", "__sub__", "subtract", "sub_", "__isub__"})
JOINS = frozenset({"cat", "concat", "concatenate"})
COPIES = frozenset({"flatten", "reshape", "view", "contiguous", "clone", "detach"})
STACKS = frozenset({"stack", "__setitem__"})
REPEATS = frozenset({"repeat", "expand", "expand_as", "tile", "broadcast_to", "stack"})
CASTS = frozenset({"float", "double", "half", "bfloat16", "int", "long", "to", "type", "type_as"})
"""Functions that give their first argument in another type, which another may tell."""


@dataclass(frozen=True)
class TracedTensor:
    """What is known of one tensor."""

    tensor: Tensor
    sources: tuple[Source, ...]
    whole: Shape
    """Its shape before any reshape, with the leading axes."""
    lead: int | None
    """How many axes of ``whole`` are batch and time; ``None``: whoever receives it knows."""
    step: int
    """Time step it belongs to, as far as the run shows."""
    least: int = 0
    """Axes of ``whole`` that must be batch or time, since one of them was cut."""
    problem: str = ""
    """Why it cannot be received, if it cannot."""
    parts: tuple[TracedTensor, ...] = ()
    """What lies side by side along ``axis``, if it was put together."""
    axis: int = -1
    """Counted from the last."""
    late: str = ""
    """Of which steps its parts are, if they are of several."""
    static: bool = False
    """Whether it is the same in every step: made of the whole input, by layers without a state."""
    turn: int = 0
    """How often it was made before: once in a step of a loop, or twice in the same."""
    origin: Tensor | None = None
    """The tensor that a module gave or holds, of which it is an untouched copy."""
    time: int | None = None
    """Axis of the model's input along which it was cut into steps."""
    swapped: bool = False
    """Whether its first two axes are those of the model's input the other way round."""
    cut: tuple[TracedTensor, int, int] | None = None
    """What it was cut out of, the axis, and where it begins; of batch, time, or features."""
    constant: tuple[Source, ...] = ()
    """Those of its sources that are the same in every step, beside others that are not."""
    start: bool = False
    """Whether a layer made it of zeros that stand for feedback before the first step."""
    repeated: bool = False
    """Whether it is a sequence that the model made of what is the same in every step."""
    summed: bool = False
    """Whether it is a sum, also one to which nothing but zeros was added yet."""
    version: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", self.tensor._version)


def fresh(value: TracedTensor) -> TracedTensor:
    if value.version == value.tensor._version:
        return value
    problem = value.problem or f"the output of {named(value.sources)}, changed in place"
    return replace(value, problem=problem, origin=None)


def propagate(
    name: str,
    known: list[TracedTensor],
    several: bool,
    out: Tensor,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> TracedTensor:
    """Return what is known of ``out``, made from ``known`` by the function ``name``."""
    first = known[0]
    problem = next((v.problem for v in known if v.problem), "")
    value = None
    if len(known) == 1 and out is not first.tensor and _copied(name, first.tensor, out):
        return replace(first, tensor=out)
    if name in REPEATS and not problem:
        value = _repeated(known, out)
    if value is None and not problem and not several:
        if name in SUMS and len(args) == 2 and not kwargs:
            value = _sum(known, out)
        elif name == "stack":
            value = stack(known, out, kwargs.get("dim", args[1] if len(args) > 1 else 0))
        elif name in JOINS:
            axis = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
            value = _appended(known, out, axis) or _joined(known, out, axis)
        elif len(known) == 1 and out is not first.tensor:
            copied = name in COPIES and out.numel() == first.tensor.numel()
            value = _reshaped(first, out, None) if copied else _view(first, out)
    if value is None:
        everything = tuple(dict.fromkeys(s for v in known for s in v.sources))
        problem = (
            problem or _unstacked(name, known) or f"{name.strip('_')}() of {named(everything)}"
        )
        value = replace(
            first, tensor=out, sources=everything, problem=problem, origin=None, cut=None
        )
    return value


def _copied(name: str, old: Tensor, out: Tensor) -> bool:
    """Tell whether ``out`` is all of ``old`` as it is: a copy, or another name of its memory."""
    if name in COPIES or out.shape != old.shape:
        return out.shape == old.shape
    if name in CASTS and old.dtype == torch.bool:
        return out.dtype != torch.bool
    if name in CASTS and out.dtype.itemsize >= old.dtype.itemsize:
        return out.is_floating_point()
    return out.data_ptr() == old.data_ptr() and _layout(out) == _layout(old)


def _sum(known: list[TracedTensor], out: Tensor) -> TracedTensor | None:
    known = [_spread(value, known, out) for value in known]
    if len(known) != 2 or len({v.whole for v in known}) > 1 or any(v.parts for v in known):
        return None
    a, b = met = in_one_step(known)
    sources = a.sources + b.sources
    leads = {v.lead for v in known if v.lead is not None}
    if len(set(sources)) < len(sources) or len(leads) > 1 or a.tensor.shape != b.tensor.shape:
        return None
    return replace(
        a,
        tensor=out,
        sources=sources,
        lead=next(iter(leads), None),
        step=max(a.step, b.step),
        least=max(a.least, b.least),
        late=a.late or b.late or (" + ".join(map(_when, known)) if _apart(met) else ""),
        static=a.static and b.static,
        constant=a.constant
        + b.constant
        + (() if a.static == b.static else (a if a.static else b).sources),
        start=a.start and b.start,
        origin=None,
        summed=True,
    )


def _spread(value: TracedTensor, known: Sequence[TracedTensor], out: Tensor) -> TracedTensor:
    """Return what stands for feedback in the shape of what it is added to."""
    other = next((v for v in known if not v.start and v.tensor.shape == out.shape), None)
    if other is None or not value.start:
        return value
    return replace(value, tensor=other.tensor, whole=other.whole)


def in_one_step(known: Sequence[TracedTensor]) -> list[TracedTensor]:
    """Return values that meet in a step: what the step before it made is late in it."""
    now = max((value.step for value in known if not value.start), default=None)
    return [value if now is None else late(value, now) for value in known]


def late(value: TracedTensor, now: int) -> TracedTensor:
    """Return a value as it is received in the step ``now``; what is older still stays as it is.

    What is the same in every step is never late.
    """
    before = value.start or (value.step == now - 1 and not value.static)
    if not before or any(source.late for source in value.sources):
        return value
    return replace(
        value,
        sources=tuple(s._replace(late=s not in value.constant) for s in value.sources),
        parts=tuple(late(replace(part, step=now - 1), now) for part in value.parts),
        step=now,
        start=False,
        origin=None,
    )


def _apart(known: Sequence[TracedTensor]) -> bool:
    return len({value.step for value in known if not (value.static or value.start)}) > 1


def _when(value: TracedTensor) -> str:
    return f"{named(value.sources)} of step {value.step + 1}"


def _unstacked(name: str, known: Sequence[TracedTensor]) -> str:
    """Return what steps are that a stack of them is no sequence of; empty for anything else."""
    if name != "stack":
        return ""
    other = next((v for v in known if v.sources != known[0].sources), None)
    if other is None:
        return f"{STEPS_OF}{named(known[0].sources)} that are no sequence in order"
    return (
        f"steps that are not made alike: {_when(known[0])} and {_when(other)}, one behind the other"
    )


def stack(known: Sequence[TracedTensor], out: Tensor, axis: int) -> TracedTensor | None:
    """Return steps put one behind the other along a new axis, else ``None``."""
    first = known[0]
    in_order = all(b.step + b.turn == a.step + a.turn + 1 for a, b in pairwise(known))
    alike = len({(v.sources, v.whole, v.lead) for v in known}) == 1 and not first.parts
    kept = first.whole[:axis] == tuple(first.tensor.shape[:axis])
    if axis not in (0, 1) or not (in_order and alike and kept):
        return None
    if first.lead is not None and axis > first.lead:
        return None
    whole = (*first.whole[:axis], len(known), *first.whole[axis:])
    lead = None if first.lead is None else first.lead + 1
    least = max(first.least, axis) + 1
    return replace(first, tensor=out, whole=whole, lead=lead, least=least, origin=None)


def _repeated(known: Sequence[TracedTensor], out: Tensor) -> TracedTensor | None:
    """Return a sequence of what is the same in every step, else ``None``."""
    first = known[0]
    if not first.static or first.parts or any(v.tensor is not first.tensor for v in known):
        return None
    for axis in (0, 1):
        once, lead = first.whole, first.lead
        if len(once) == out.dim() and once[axis] == 1 and lead != 0:  # made longer
            once, lead = (*once[:axis], *once[axis + 1 :]), None if lead is None else lead - 1
        if (*out.shape[:axis], *out.shape[axis + 1 :]) != once:
            continue
        if torch.equal(out, first.tensor.reshape(once).unsqueeze(axis).expand_as(out)):
            return replace(
                first,
                tensor=out,
                whole=tuple(out.shape),
                lead=None if lead is None else lead + 1,
                least=max(first.least, axis + 1),
                static=False,
                origin=None,
                repeated=True,
            )
    return None


def _appended(known: list[TracedTensor], out: Tensor, axis: int) -> TracedTensor | None:
    """Return parts of a sequence put one behind the other along their axis of time, else None."""
    first = known[0]
    axis = axis + out.dim() if axis < 0 else axis
    if first.parts or axis not in (0, 1) or first.lead is None or axis >= first.lead:
        return None
    step, rest = first.step, (*first.whole[:axis], *first.whole[axis + 1 :])
    for value in known:
        whole = value.whole
        alike = (value.sources, value.lead) == (first.sources, first.lead)
        kept = whole == tuple(value.tensor.shape) and (*whole[:axis], *whole[axis + 1 :]) == rest
        if not (alike and kept and value.step == step):
            return None
        step += whole[axis]
    least = max(first.least, axis + 1)
    return replace(first, tensor=out, whole=tuple(out.shape), least=least, origin=None)


def _joined(known: list[TracedTensor], out: Tensor, axis: int) -> TracedTensor | None:
    """Return tensors of one step put side by side along an axis, else ``None``."""
    axis = axis - out.dim() if axis >= 0 else axis
    joined = [v for v in known if v.parts]
    changed = any(v.whole != tuple(v.tensor.shape) or v.axis != axis for v in joined)
    known = in_one_step(known)
    steps = {v.step for v in known if not v.static}
    if out.dim() + axis < 1 or _apart(known) or changed:
        return None
    parts = tuple(part for v in known for part in (v.parts or (v,)))
    sources = tuple(dict.fromkeys(s for part in parts for s in part.sources))
    static, step = not steps, max(steps, default=known[0].step)
    leads, time = {p.lead for p in parts if p.lead is not None}, {p.time for p in parts} - {None}
    seen = all(p.whole[: p.lead] == tuple(p.tensor.shape[: p.lead]) for p in parts if p.lead)
    lead = leads.pop() if len(leads) == 1 and seen else None
    whole = tuple(out.shape)
    return TracedTensor(
        out,
        sources,
        whole,
        lead,
        step,
        parts=parts,
        axis=axis,
        static=static,
        time=time.pop() if len(time) == 1 else None,
    )


def _reshaped(value: TracedTensor, out: Tensor, origin: Tensor | None) -> TracedTensor:
    """Return ``out``, the same values in another shape; new axes of batch and time are seen."""
    shape, features = tuple(out.shape), value.whole[value.lead :]
    lead = len(shape) - len(features)
    if value.lead is None or value.parts or lead < 0 or shape[lead:] != features:
        return replace(value, tensor=out, origin=origin)
    least = min(value.least, lead)
    return replace(value, tensor=out, whole=shape, lead=lead, least=least, origin=origin)


def _view(value: TracedTensor, out: Tensor) -> TracedTensor | None:
    """Return ``out`` as a reshape or as a part in time of ``value``, ``None`` if it is neither."""
    old = value.tensor
    if not share_memory(old, out):
        return None
    offset = out.storage_offset() - old.storage_offset()
    if out.numel() == old.numel() and offset == 0:
        alike = _layout(out) == _layout(old)
        if not alike and old.dim() > 1 and _layout(out) == _layout(old.transpose(0, 1)):
            return _swapped(value, out)
        if not alike and not (out.is_contiguous() and old.is_contiguous()):
            return None
        return _reshaped(value, out, value.origin if out.shape == old.shape else None)
    for axis in range(old.dim()):
        dropped = out.dim() < old.dim()
        length = 1 if dropped else out.shape[axis] if axis < out.dim() else 0
        expected = old.narrow(axis, 0, min(length, old.shape[axis]))
        expected = expected.squeeze(axis) if dropped else expected
        place, left = divmod(int(offset), old.stride(axis) or 1)
        kept = value.whole[: axis + 1] == tuple(old.shape[: axis + 1])
        if not kept or left or place >= old.shape[axis] or _layout(expected) != _layout(out):
            continue
        if axis > 1:
            if dropped:
                return None
            problem = f"a part of the features of {named(value.sources)}"
            return replace(
                value, tensor=out, problem=problem, cut=(value, axis, place), origin=None
            )
        middle = () if dropped else (length,)
        whole = (*value.whole[:axis], *middle, *value.whole[axis + 1 :])
        lead = None if value.lead is None else value.lead - dropped
        least = max(value.least - dropped, axis + (not dropped))
        return replace(
            value,
            tensor=out,
            whole=whole,
            lead=lead,
            step=value.step + place,
            least=least,
            static=False,
            origin=None,
            time=None if value.repeated else 1 - axis if value.swapped else axis,
            cut=None if dropped else (value, axis, place),
        )
    return None


def _swapped(value: TracedTensor, out: Tensor) -> TracedTensor | None:
    """Return ``out``, of which the first two axes changed places: batch and time."""
    whole = value.whole
    few = value.lead is not None and value.lead < 2
    if value.parts or few or whole[:2] != tuple(value.tensor.shape[:2]):
        return None
    whole, least = (whole[1], whole[0], *whole[2:]), max(value.least, 2)
    swapped = not value.swapped
    return replace(value, tensor=out, whole=whole, least=least, origin=None, swapped=swapped)


def share_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _layout(tensor: Tensor) -> list[tuple[int, int]]:
    return [(n, s if n > 1 else 0) for n, s in zip(tensor.shape, tensor.stride(), strict=True)]


def same(a: TracedTensor, b: TracedTensor) -> bool:
    return (
        a.tensor.data_ptr() == b.tensor.data_ptr()
        and _layout(a.tensor) == _layout(b.tensor)
        and a.version == b.version
    )


def matching(shape: Shape, size: int, rest: Shape, like: int) -> int | None:
    """Return how many axes of ``shape`` hold ``size`` items; the split that fits best of several.

    Best is the split that leaves ``rest``, then the one with ``like`` axes, then the shortest.
    """
    found = [n for n in range(len(shape) + 1) if prod(shape[:n]) == size]
    return min(found, key=lambda n: (shape[n:] != rest, n != like, n), default=None)


NAMED = 4
"""How many sources are named in an error."""


def named(sources: tuple[Source, ...]) -> str:
    names = [_name(source) for source in sources]
    more = len(names) - NAMED
    return " + ".join([*names[:NAMED], f"{more} more"] if more > 1 else names)


def _name(source: Source) -> str:
    if source.name is None:
        return "the model's input" + (f" {source.state!r}" if source.state else "")
    module = repr(source.name or "the model")
    called = f"a state of {module} ({source.state})" if source.state else module
    return f"{called} of the step before" if source.late else called


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
