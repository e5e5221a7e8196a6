"""Products of spikes, and potentials that a model resets itself where it made spikes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snu_plugin.graph.tracing.function_layers import (
    Above,
    Below,
    Elementwise,
    Excess,
    Held,
    Reset,
    Together,
)
from snu_plugin.graph.tracing.layer_state import StepError
from snu_plugin.graph.tracing.receiver import Applied, Receiver, added
from snu_plugin.graph.tracing.traced_tensor import DIFFERENCES, TracedTensor, propagate
from snu_plugin.graph.tracing.traced_values import is_silence
from snu_plugin.graph.tracing.wiring import Call

TIMES = "mul", "multiply"
PRODUCTS = frozenset({"mul", "multiply", "and", "logical_and", "bitwise_and", "minimum", "min"})
UNIONS = frozenset({"or", "logical_or", "bitwise_or", "maximum", "max"})
DIFFERENT = frozenset({"ne", "not_equal", "xor", "logical_xor", "bitwise_xor"})


class Resetting(NamedTuple):
    """A potential, what is made of it, and what resets it."""

    potential: TracedTensor
    reset: Reset | Excess
    then: list[Elementwise]
    """What it is multiplied by."""


class _Gated(NamedTuple):
    """A value, and spikes that tell where another comes in its place."""

    value: TracedTensor
    spikes: TracedTensor
    fill: Any = 0.0
    leaves: bool = True
    """Whether it is left where no spikes are; else where they are."""


def resetting(receiver: Receiver, f: Applied) -> Resetting | None:
    """Return what a function does to a potential where spikes that it made are; else ``None``.

    That is a product with 1 - spikes or with spikes, or another value put in the place of spikes.
    """
    if len(f.known) == 2 and f.plain in TIMES:
        for potential, gate in (f.known, f.known[::-1]):
            below = _before(receiver, gate, Below)
            if below is None or below[1].tensor is not potential.tensor:
                continue
            if potential.tensor.is_floating_point():
                level = below[0].threshold.to(potential.tensor.dtype)
                level = torch.nextafter(level, torch.full_like(level, -torch.inf))
                return Resetting(potential, Reset(level, 0.0), [])  # above it is not below
    found = _gated(receiver, f)
    if found is None:
        return None
    for threshold, potential in _fired(receiver, found.spikes):
        then = _then(receiver, found.value, potential)
        if then is not None and not (then and torch.as_tensor(found.fill).any()):
            reset = Reset(threshold, found.fill) if found.leaves else Excess(threshold)
            return Resetting(potential, reset, then)
    return None


def held(receiver: Receiver, f: Applied) -> str:
    """Return the call that holds a potential at 0 in the step after it fired; empty if it is none.

    In the first step nothing has fired: the potential is multiplied by ones that nothing made.
    """
    if len(f.known) == 1 and f.plain in TIMES and len(f.args) == 2:
        x, other = f.known[0].tensor, f.other()
        alike = isinstance(other, Tensor) and other.shape == x.shape and other.is_floating_point()
        ones = alike and not isinstance(other, nn.Parameter) and bool((other == 1).all())
        return _hold(receiver, f.known[0], None) if ones else ""
    found = _gated(receiver, f)
    if found is None or not found.leaves or torch.as_tensor(found.fill).any():
        return ""
    for threshold, potential in _fired(receiver, found.spikes):
        makers = [source.name for source in potential.sources]
        made: list[Call] = receiver.wiring.calls.get(str(makers[0]), []) if makers else []
        if not len(makers) == len(made) == 1 or potential.step != found.value.step - 1:
            continue
        layer = made[0].module
        if isinstance(layer, Held) or (isinstance(layer, Elementwise) and layer.is_(None, None)):
            return _hold(receiver, found.value, threshold, made[0].name)
    return ""


def _hold(receiver: Receiver, value: TracedTensor, threshold: Tensor | None, by: str = "") -> str:
    """Return the call that holds a value; ``by`` is that whose spikes of the step before tell."""
    if value.static or value.start or value.problem:
        return ""
    wiring = receiver.wiring
    name = receiver.layer("mul()", Elementwise(None, None), value)
    if not name:
        return ""
    if threshold is not None and name != by:
        raise StepError(
            f"{name!r} is multiplied by what {by!r} fired in the step before; not yet supported "
            "but of the same potential: multiply spikes, or let a layer weigh them"
        )
    (call,) = wiring.calls[name]
    first, latest = wiring.steps_of[name]
    known = receiver.held.get(name)
    if known is None and threshold is not None and latest == first + 1:
        known = receiver.held[name] = threshold
    if known is not None:
        wiring.calls[name] = [call._replace(module=Held(known))]
    same = known is threshold
    if known is not None and threshold is not None:
        same = bool((known == threshold).all())
    if latest > first and not same:
        raise StepError(
            f"{name!r} multiplies by other spikes in step {latest + 1} than in the step before; "
            "NIR's graph is the same in every step"
        )
    return name


def _gated(receiver: Receiver, f: Applied) -> _Gated | None:
    """Return what a function puts another value in the place of, where spikes are."""
    name, args, known = f.plain, f.args, f.known
    if len(known) != 2:
        return None
    if name in TIMES:
        for value, gate in (known, known[::-1]):
            kept = _before(receiver, gate, Elementwise)
            if kept is not None and kept[0].is_(-1, 1):
                return _Gated(value, kept[1])
        for value, gate in (known, known[::-1]):
            if any(True for _ in _fired(receiver, gate)):
                return _Gated(value, gate, leaves=False)
    elif len(args) != 3:
        return None
    elif name == "where" and f.first_is(known[0]) and args[2] is known[1].tensor:
        return _Gated(known[1], known[0], args[1])
    elif (name == "setitem" and _is_number(args[2]) and _is_mask(f)) or (
        name == "masked_fill" and f.first_is(known[0])
    ):
        return _Gated(known[0], known[1], args[2])
    return None


def _then(
    receiver: Receiver, value: TracedTensor, potential: TracedTensor
) -> list[Elementwise] | None:
    """Return what a potential is multiplied by to give a value; ``None`` if it is not."""
    then: list[Elementwise] = []
    while value.tensor is not potential.tensor:
        before = _before(receiver, value, Elementwise)
        if before is None or before[0].shift is not None:
            return None
        then.insert(0, before[0])
        value = before[1]
    return then


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)


def _is_mask(f: Applied) -> bool:
    """Tell whether an index is a mask, and what it is of and itself are known."""
    potential, mask = f.known
    same = f.first_is(potential) and f.args[1] is mask.tensor
    return same and mask.tensor.dtype == torch.bool and mask.tensor.shape == potential.tensor.shape


def keep_reset(receiver: Receiver, found: Resetting, y: Tensor, before: Tensor) -> bool:
    """Keep ``y`` as what calls make of a potential, whose values were ``before``."""
    x = found.potential
    if x.tensor is y:  # changed in place
        x = replace(x, tensor=before)
        receiver.values.keep(x)
    layers: list[nn.Module] = [found.reset, *found.then]
    for layer in layers:
        name = receiver.layer("reset()" if layer is found.reset else "mul()", layer, x)
        if not name:
            return False
        before = layer(before)
        x = receiver.keep_output(name, y if layer is layers[-1] else before)
    return True


def shifted_where(receiver: Receiver, f: Applied) -> tuple[TracedTensor, TracedTensor] | None:
    """Return ``x``, and ``c`` times spikes, of which ``where(spikes, x + c, x)`` is the sum."""
    if f.plain != "where" or len(f.known) != 3 or any(v.problem for v in f.known):
        return None
    spikes, there, x = f.known
    made = _before(receiver, there, Elementwise)
    mask = spikes.tensor.dtype == torch.bool
    if not mask or made is None or made[0].scale is not None or made[1].tensor is not x.tensor:
        return None
    y, layer = spikes.tensor * made[0].shift, Elementwise(made[0].shift, None)
    more = receiver.applied("mul()", layer, spikes, y)
    return None if more is None else (x, more)


class Masked(NamedTuple):
    """What a potential is where spikes are, ``mem[spikes]``, and what was added to it since."""

    tensor: Tensor
    potential: TracedTensor
    spikes: TracedTensor
    shift: Tensor
    version: int

    def is_put_back(self, f: Applied) -> bool:
        """Tell whether a function writes it where it was taken, ``mem[spikes] = it``."""
        places = self.potential.tensor, self.spikes.tensor, self.tensor
        return all(a is b for a, b in zip(f.args, places, strict=True)) and self.fresh()

    def fresh(self) -> bool:
        """Tell whether nothing but what is noted was done to it, and to what it was taken of."""
        whole = all(value.version == value.tensor._version for value in self[1:3])
        return whole and self.tensor._version == self.version


def masked(f: Applied, y: Tensor) -> Masked | None:
    """Return what ``mem[spikes]`` takes of a potential, else ``None``."""
    if f.plain == "getitem" and len(f.known) == 2 and _is_mask(f):
        return Masked(y, f.known[0], f.known[1], torch.zeros((), dtype=torch.float64), y._version)
    return None


def shifted(f: Applied, part: Masked, y: Tensor) -> Masked | None:
    """Return ``mem[spikes]`` with a number added or taken away, which gave ``y``, else ``None``."""
    before = part._replace(version=part.version + (y is part.tensor))
    if len(f.args) != 2 or not _is_number(f.args[1]) or not before.fresh():
        return None
    number = torch.as_tensor(f.args[1], dtype=torch.float64).detach().reshape(())
    shift = part.shift + (-number if f.name in DIFFERENCES else number)
    return part._replace(tensor=y, shift=shift, version=y._version)


def shift_where(receiver: Receiver, part: Masked, before: Tensor) -> bool:
    """Keep a potential whose values were ``before`` as itself and what spikes added to it.

    It was changed in place: ``mem[spikes] -= 1``.
    """
    x = replace(part.potential, tensor=before)
    receiver.values.keep(x)
    moved, layer = part.spikes.tensor * part.shift, Elementwise(part.shift, None)
    more = receiver.applied("mul()", layer, part.spikes, moved)
    if more is None:
        return False
    y = part.potential.tensor
    receiver.values.keep(added([x, more], y))
    return True


def fills_in(f: Applied) -> bool:
    """Tell whether ``y[spikes] = 1`` makes of zeros what the spikes are."""
    if f.name != "__setitem__" or len(f.known) != 1:
        return False
    (y, index, value), spikes = f.args, f.known[0].tensor
    mask = index is spikes and spikes.dtype == torch.bool and spikes.shape == y.shape
    return mask and is_silence(y) and not isinstance(value, Tensor) and value == 1


def combined(receiver: Receiver, f: Applied) -> list[TracedTensor]:
    """Return what a function of several spikes gives as a sum of what thresholds tell of them.

    It is empty where the function does something else, or what it takes cannot be added. Whether
    they are spikes is known as soon as all nodes are there.
    """
    name, literals = f.plain, [_Literal(value) for value in f.known]
    for place, value in enumerate(f.known):
        kept = _before(receiver, value, Elementwise)
        if kept is not None and kept[0].is_(-1, 1):
            literals[place] = _Literal(kept[1], fired=False)
    if name == "abs":
        literals, name = _difference(receiver, f.known[0]), "xor"
    terms = _terms(name, f, literals)
    made = [_together(receiver, name, term) for term in terms]
    return [value for value in made if value is not None] if all(made) else []


class _Literal(NamedTuple):
    """Spikes, or where there are none."""

    spikes: TracedTensor
    fired: bool = True

    def turned(self) -> _Literal:
        return self._replace(fired=not self.fired)


class _Term(NamedTuple):
    """Literals of which all must hold, or at least one."""

    literals: tuple[_Literal, ...]
    all_of_them: bool = True


def _terms(name: str, f: Applied, found: Sequence[_Literal]) -> list[_Term]:
    """Return the terms of which a function of spikes is the sum; none where it is not known."""
    args = f.args
    if len(found) == 3 and name == "where":
        there, a, b = found
        return [_Term((there, a)), _Term((there.turned(), b))]
    if len(found) != 2:
        return []
    a, b = found
    if name in PRODUCTS:
        return [_Term((a, b))]
    if name in UNIONS:
        return [_Term((a, b), all_of_them=False)]
    if name in DIFFERENT:
        return [_Term((a, b.turned())), _Term((a.turned(), b))]
    if name == "eq":
        return [_Term((a, b)), _Term((a.turned(), b.turned()))]
    if name in ("gt", "greater"):
        return [_Term((a, b.turned()))]
    if len(args) != 3:
        return []
    if name == "where" and args[2] is f.known[1].tensor:
        there, value, fill = a, b, args[1]
    elif name == "where":
        there, value, fill = a.turned(), b, args[2]
    else:
        there, value, fill = b, a, args[2]
    filled = torch.as_tensor(fill) if name in ("where", "masked_fill") else None
    if filled is None or not (bool((filled == 0).all()) or bool((filled == 1).all())):
        return []
    ones = bool(filled.any())
    return [_Term((there if ones else there.turned(), value), all_of_them=not ones)]


def _difference(receiver: Receiver, value: TracedTensor) -> list[_Literal]:
    """Return the two of which a value is the difference; none where it is no such."""
    if value.problem or len(value.sources) != 2:
        return []
    found = []
    for source in value.sources:
        parts = receiver.values.known.values()
        alike = (v for v in parts if v.sources == (source,) and v.step == value.step)
        found += [v for v in alike if v.tensor.shape == value.tensor.shape and not v.problem][:1]
    minus = [_before(receiver, v, Elementwise) for v in found]
    signs = [m is not None and m[0].is_(-1, None) for m in minus]
    if signs not in ([True, False], [False, True]):
        return []
    return [
        _Literal(before[1] if before and less else value)
        for value, before, less in zip(found, minus, signs, strict=True)
    ]


def _together(receiver: Receiver, name: str, term: _Term) -> TracedTensor | None:
    """Return what a threshold tells of spikes together; ``None`` where they are no two signals."""
    signed, level = [], -0.5
    for spikes, fired in term.literals:
        if len(spikes.sources) != 1 or spikes.problem or spikes.parts:
            return None
        signed.append(spikes if fired else receiver.negative(spikes))
        level += fired
    level = level if term.all_of_them else level - len(term.literals) + 1
    total = sum(
        (v.tensor.float() if fired else -v.tensor.float() for v, fired in term.literals),
        torch.zeros(()),
    )
    value = propagate("add", signed, False, total, [v.tensor for v in signed], {})
    if value.problem or value.late:
        return None
    receiver.values.keep(value)
    what = "product" if name in PRODUCTS else "maximum" if name in UNIONS else name
    layer = Together(level, what)
    return receiver.applied(f"{name}()", layer, value, layer(total))


def _before(receiver: Receiver, value: TracedTensor, kind: Any) -> tuple[Any, TracedTensor] | None:
    """Return the layer of a kind that made a value last, and what it received."""
    if len(value.sources) != 1 or value.problem or value.sources[0].state:
        return None
    name = str(value.sources[0].name)
    wiring = receiver.wiring
    seen = (one for one in (wiring.last.get(name), wiring.earlier.get(name)) if one is not None)
    last = next((one for one in seen if one.step == value.step), None)
    calls = wiring.calls.get(name, ())
    if last is None or len(calls) != 1 or not isinstance(calls[0].module, kind):
        return None
    return calls[0].module, receiver.values.get(last.tensor) or last


def _fired(receiver: Receiver, spikes: TracedTensor) -> Iterator[tuple[Tensor, TracedTensor]]:
    """Yield the threshold that spikes tell of, and the potential that is above it.

    Of a potential that is compared after a shift, it before the shift, too.
    """
    found = _before(receiver, spikes, Above)
    if found is None or isinstance(found[0], Below):
        return
    above, potential = found
    if bool(((above.threshold >= 0) & (above.threshold < 1)).all()):
        made = _before(receiver, potential, Above)
        if made is not None and not isinstance(made[0], Excess):
            yield from _fired(receiver, potential)  # where spikes are, as ``spikes > 0`` says
            return
    yield above.threshold, potential
    shifted = _before(receiver, potential, Elementwise)
    if shifted is not None and shifted[0].scale is None and shifted[0].shift is not None:
        before = above.before_shift(shifted[0].shift)
        if before is not None:
            yield before.threshold, shifted[1]
