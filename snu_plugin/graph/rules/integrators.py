"""Integrators that a model writes itself, ``mem = decay * mem + x``, recognised in its wiring.

What is multiplied, and comes back in the next step, is a path without a state of its own: the
potential is a sum that no layer gives. Here it becomes the call of one layer, an ``Integrator``.
What a spike takes away in its step is taken away in the next, times the decay, which is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from snu_plugin.graph.rules.spike_rules import Integrator
from snu_plugin.graph.tracing.function_layers import Above, Elementwise, Excess, Held, Reset
from snu_plugin.graph.tracing.traced_tensor import Source
from snu_plugin.graph.tracing.wiring import Call

MEMBRANE = "mem"
"""How an integrator is called, and the state of one that resets itself."""


class _Potential(NamedTuple):
    """A potential as a model writes it."""

    inputs: tuple[Source, ...]
    back: tuple[Source, ...]
    """What it comes back by, late."""
    taken: tuple[Source, ...]
    """What is added to it in a step behind what reads it: what spikes take away."""
    decay: Tensor
    reset: Reset | None

    @property
    def sources(self) -> set[Source]:
        return {*self.inputs, *self.back}


def with_integrators(
    calls: Sequence[Call], outputs: Sequence[Call]
) -> tuple[list[Call], list[Call]]:
    """Return calls and outputs in which each integrator written by hand is one call."""
    if not any(isinstance(call.module, (Elementwise, Reset, Held)) for call in calls):
        return list(calls), list(outputs)  # no potential comes back by a function
    found = _rewritten([*calls, *outputs], REWRITINGS)
    made, ends = found[: -len(outputs)], found[-len(outputs) :]
    found = _rewritten([*reaching(made, ends), *ends], (_held,))
    return found[: -len(outputs)], found[-len(outputs) :]


def _rewritten(calls: list[Call], rewritings: Sequence[Rewriting]) -> list[Call]:
    """Return calls after each rewriting in turn, as often as it finds something."""
    for rewriting in rewritings:
        while (changed := rewriting(calls)) is not None:
            calls = changed
    return calls


def _instead(calls: Sequence[Call], old: Call, *new: Call) -> list[Call]:
    """Return calls with others in the place of one."""
    return [one for call in calls for one in (new if call is old else (call,))]


def reaching(calls: Sequence[Call], outputs: Sequence[Call]) -> list[Call]:
    """Return the calls that the outputs depend on."""
    reads = {call.name: {source.name for source in call.sources} for call in calls}
    needed, new = set[str | None](), {s.name for output in outputs for s in output.sources}
    while new:
        needed |= new
        new = {source for name in new for source in reads.get(str(name), ())} - needed
    return [call for call in calls if call.name in needed]


def _held(calls: list[Call]) -> list[Call] | None:
    """Let a potential that a spike holds at 0 in the next step be one call.

    Of such a potential only its spikes can be read, and what comes back to it.
    """
    by_name = _by_name(calls)
    for call in calls:
        if not isinstance(call.module, Held) or bool((call.module.threshold < 0).any()):
            continue
        whole, threshold = (Source(call.name),), call.module.threshold
        spikes = [other.name for other in calls if _fires(other, whole, threshold)]
        ways = dict[Source, Tensor]()
        for source in call.sources:
            way = by_name.get(source.name)
            if source.late and way is call:
                ways[source] = torch.ones((), dtype=torch.float64)
            elif source.late and way is not None and _scales(way) and way.sources == whole:
                ways[source] = _scale(way)
        known = {call.name, *spikes, *(source.name for source in ways)}
        reads = {c.name for c in calls if any(s.name == call.name for s in c.sources)}
        if not spikes or not reads <= known or len(reads) < len(known) - (call.name not in reads):
            continue
        decay = sum(ways.values(), torch.zeros((), dtype=torch.float64))
        layer = Integrator(decay, Reset(threshold, 0.0), held=True)
        inputs = tuple(source for source in call.sources if source not in ways)
        name = _free(by_name, MEMBRANE)
        called = dict.fromkeys((*spikes, call.name), name)

        def renamed(source: Source, called: Mapping[str, str] = called) -> Source:
            return source._replace(name=called.get(str(source.name), source.name))

        whole_call = call._replace(name=name, module=layer, sources=inputs)
        left = [other for other in calls if other is call or other.name not in known]
        return [
            other._replace(sources=tuple(map(renamed, other.sources)))
            for other in _instead(left, call, whole_call)
        ]
    return None


def _without_copy(calls: list[Call]) -> list[Call] | None:
    """Leave a call out that only keeps what one other gives."""
    for call in calls:
        plain = isinstance(call.module, Elementwise) and call.module.is_(None, None)
        plain = plain and call.shape == call.source_shape
        if not plain or len(call.sources) != 1 or call.sources[0].late:
            continue
        (kept,) = call.sources
        return [
            other._replace(
                sources=tuple(
                    kept._replace(late=s.late) if s.name == call.name else s for s in other.sources
                )
            )
            for other in _instead(calls, call)
        ]
    return None


def _by_name(calls: Sequence[Call]) -> dict[str | None, Call]:
    return {call.name: call for call in reversed(calls)}  # an output may be called like a layer


def _shifted(calls: list[Call]) -> list[Call] | None:
    """Let a threshold behind a shift be a threshold of what is shifted."""
    by_name = _by_name(calls)
    for call in calls:
        before = by_name.get(call.sources[0].name) if len(call.sources) == 1 else None
        if (
            type(call.module) is Above
            and before is not None
            and isinstance(before.module, Elementwise)
            and before.module.scale is None
            and before.module.shift is not None
            and before.shape == before.source_shape == call.source_shape
            and (module := call.module.before_shift(before.module.shift)) is not None
        ):
            late = call.sources[0].late
            sources = tuple(s._replace(late=s.late or late) for s in before.sources)
            return _instead(calls, call, call._replace(module=module, sources=sources))
    return None


def _reset_to(calls: list[Call]) -> list[Call] | None:
    """Let what a reset to zero leaves, and spikes times a value, be a reset to that value."""
    by_name = _by_name(calls)
    for call in calls:
        if not isinstance(call.module, Reset) or call.module.value.any():
            continue
        reads = [other for other in calls if any(s.name == call.name for s in other.sources)]
        for more in calls:
            spikes = by_name.get(more.sources[0].name) if len(more.sources) == 1 else None
            if spikes is None or not _scales(more):
                continue
            if not _fires(spikes, call.sources, call.module.threshold):
                continue
            pairs = {Source(call.name, late=n): Source(more.name, late=n) for n in (False, True)}
            alone = any(
                a in other.sources and b not in other.sources
                for other in reads
                for a, b in pairs.items()
            )
            if more.sources[0].late or alone:
                continue
            gone = set(pairs.values())
            written = _instead(
                calls, call, call._replace(module=Reset(call.module.threshold, _scale(more)))
            )
            return [
                other._replace(sources=tuple(s for s in other.sources if s not in gone))
                if any(s.name == call.name for s in other.sources)
                else other
                for other in written
            ]
    return None


def _kept(calls: list[Call]) -> list[Call] | None:
    """Let a potential less its own part above a threshold be what a reset to zero leaves."""
    by_name = _by_name(calls)
    for call in calls:
        for less in call.sources:
            minus = by_name.get(less.name)
            if minus is None or len(minus.sources) != 1:
                continue
            over = by_name.get(minus.sources[0].name)
            left = tuple(source for source in call.sources if source != less)
            if (
                over is not None
                and isinstance(over.module, Excess)
                and isinstance(minus.module, Elementwise)
                and minus.module.is_(-1, None)
                and set(over.sources) == set(left)
            ):
                reset = over._replace(
                    name=_free(by_name, "reset"), module=Reset(over.module.threshold, 0.0)
                )
                return _instead(calls, call, reset, call._replace(sources=(Source(reset.name),)))
    return None


def _parted(calls: list[Call]) -> list[Call] | None:
    """Part factors of a sum of what is new and what comes back: mem + (x - mem) / tau."""
    by_name = _by_name(calls)
    reads = [(call, source) for call in calls for source in call.sources]
    for call in calls:
        ways = {s: _way_back(by_name, s) for s in call.sources if s.late and _scales(call)}
        late = tuple(s for s, w in ways.items() if w and Source(call.name) in w[0].sources)
        now = tuple(s for s in call.sources if s not in late)
        readers = [reader for reader, source in reads if source.name == call.name]
        if not (late and now and all(Source(call.name) in reader.sources for reader in readers)):
            continue
        back = call._replace(
            name=_free(by_name, f"{call.name}_back"),
            sources=tuple(s._replace(late=False) for s in late),
        )
        return [
            other._replace(sources=(*other.sources, Source(back.name, late=True)))
            if Source(call.name) in other.sources
            else other
            for other in _instead(calls, call, call._replace(sources=now), back)
        ]
    return None


def _scales(call: Call | None) -> bool:
    """Tell whether a call multiplies by constants."""
    return call is not None and isinstance(call.module, Elementwise) and call.module.shift is None


def _recognised(calls: list[Call]) -> list[Call] | None:
    """Let a potential be one call."""
    by_name = _by_name(calls)
    for call in calls:
        for late in (source for source in call.sources if source.late and not source.state):
            way = _way_back(by_name, late)
            readers = [other for other in calls if late in other.sources]
            if not way or way[0] not in readers:
                continue
            shared = set.intersection(*(set(reader.sources) for reader in readers))
            ways = {s: _way_back(by_name, s) for s in way[0].sources if s in shared and s.late}
            ways = {s: w for s, w in ways.items() if w and shared <= set(w[0].sources)}
            inputs = tuple(s for s in way[0].sources if s in shared and s not in ways)
            taken = {frozenset(set(w[0].sources) - shared) for w in ways.values()}
            resets = {c.name for w in ways.values() for c in w if isinstance(c.module, Reset)}
            first = {w[0].name for w in ways.values()}
            if not inputs or len(taken) != 1 or (resets and (any(taken) or first != resets)):
                continue
            (more,) = taken
            one, none = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
            decay = sum((prod(map(_scale, w), start=one) for w in ways.values()), none)
            reset = way[0].module if isinstance(way[0].module, Reset) else None
            found = _Potential(inputs, tuple(ways), tuple(more), decay, reset)
            return _as_one_call(calls, found)
    return None


def _way_back(by_name: dict[str | None, Call], late: Source) -> list[Call]:
    """Return the calls by which something comes back, first the one that receives it."""
    way: list[Call] = []
    source = late._replace(late=False)
    while True:
        call = by_name.get(source.name)
        if call is None or not (_scales(call) or isinstance(call.module, Reset)) or call in way:
            return way
        way.insert(0, call)
        if len(call.sources) != 1 or call.sources[0].late:
            return way
        source = call.sources[0]


def _scale(call: Call) -> Tensor:
    """Return what a call multiplies by; 1 for other layers."""
    scale = call.module.scale if isinstance(call.module, Elementwise) else None
    return torch.ones((), dtype=torch.float64) if scale is None else scale.double()


def _as_one_call(calls: Sequence[Call], found: _Potential) -> list[Call]:
    """Return calls in which a potential is one call."""
    by_name = _by_name(calls)
    name = _free(by_name, MEMBRANE)
    reads = [call for call in calls if found.sources <= set(call.sources)]
    spikes, potential = Source(name), Source(name)
    same: set[str] = set()
    if found.reset is not None:
        potential = Source(name, MEMBRANE)
        same = {c.name for c in reads if _fires(c, found.sources, found.reset.threshold)}
    shape = reads[0].source_shape
    back: dict[str | None, Call] = {}
    for source in (*found.taken, *(s for s in found.inputs if s.late)):
        factor, sources = _folded(by_name, source)
        factor = factor * found.decay if source in found.taken else factor
        of_spikes = sources[0].name in {c.name for c in reads if isinstance(c.module, Above)}
        if source in found.taken or (of_spikes and sources != (source,)):
            place = f"{name}_reset_{len(back)}" if back else f"{name}_reset"
            less = Elementwise(factor, None)
            back[source.name] = Call(_free(by_name, place), less, sources, shape, shape, shape)
    inputs = tuple(source for source in found.inputs if source.name not in back)
    inputs += tuple(Source(call.name, late=True) for call in back.values())
    layer = Integrator(found.decay, found.reset)
    whole = Call(name, layer, inputs, shape, shape, shape)
    changed = list[Call]()

    def renamed(source: Source) -> Source:
        return spikes._replace(late=source.late) if source.name in same else source

    for call in calls:
        if call in reads:
            changed += [] if whole in changed else [whole]
            left = tuple(s for s in call.sources if s not in found.sources)
            call = call._replace(sources=(potential, *left))
        if call.name not in same:
            changed.append(call)
        if call.name in back:
            changed.append(back[call.name])
    return [call._replace(sources=tuple(map(renamed, call.sources))) for call in changed]


def _folded(by_name: dict[str | None, Call], source: Source) -> tuple[Tensor, tuple[Source, ...]]:
    """Return what a source is, in its own step: a factor of sources that are no such."""
    factor = torch.ones((), dtype=torch.float64)
    sources: tuple[Source, ...] = (source,)
    while len(sources) == 1 and _scales(call := by_name.get(sources[0].name)):
        if call is None or any(s.late for s in call.sources) or call.shape != call.source_shape:
            break
        factor, sources = factor * _scale(call), call.sources
    return factor, sources


def _fires(call: Call, sources: Collection[Source], threshold: Tensor) -> bool:
    """Tell whether a call gives the spikes of a potential: where it is above its threshold."""
    if type(call.module) is not Above or set(call.sources) != set(sources):
        return False
    return bool((call.module.threshold.double() == threshold.double()).all())


def _free(by_name: dict[str | None, Call], name: str) -> str:
    """Return a name that no call has."""
    count, wanted = 0, name
    while wanted in by_name:
        count += 1
        wanted = f"{name}_{count}"
    return wanted


Rewriting = Callable[[list[Call]], list[Call] | None]
"""Returns calls of which some are written otherwise; ``None`` where it finds none."""

REWRITINGS: tuple[Rewriting, ...] = (
    _shifted,
    _kept,
    _reset_to,
    _parted,
    _recognised,
    _without_copy,
)
"""How integrators written by hand become one call each, in this order."""
