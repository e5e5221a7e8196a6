"""Integrators that a model writes itself, ``mem = decay * mem + x``, recognised in its wiring.

What is multiplied, and comes back in the next step, is a path without a state of its own: the
potential is a sum that no layer gives. Here it becomes the call of one layer, an ``Integrator``.
What a spike takes away in its step is taken away in the next, times the decay, which is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from snu_plugin.graph.rules.spike_rules import Integrator
from snu_plugin.graph.tracing.elementwise import Elementwise
from snu_plugin.graph.tracing.spike_functions import Above, Excess, Held, Reset
from snu_plugin.graph.tracing.traced_calls import Call
from snu_plugin.graph.tracing.traced_tensor import Source

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
    found = [*calls, *outputs]
    for step in (_shifted, _kept, _reset_to, _parted, _recognised, _without_copies):
        found = step(found)
    made, ends = found[: -len(outputs)], found[-len(outputs) :]
    found = _held([*reaching(made, ends), *ends])
    return found[: -len(outputs)], found[-len(outputs) :]


def reaching(calls: Sequence[Call], outputs: Sequence[Call]) -> list[Call]:
    """Return the calls that the outputs depend on."""
    reads = {call.name: {source.name for source in call.sources} for call in calls}
    needed, new = set[str | None](), {s.name for output in outputs for s in output.sources}
    while new:
        needed |= new
        new = {source for name in new for source in reads.get(str(name), ())} - needed
    return [call for call in calls if call.name in needed]


def _recognised(calls: list[Call]) -> list[Call]:
    while (found := next(_potentials(calls), None)) is not None:
        calls = _as_one_call(calls, found)
    return calls


def _held(calls: list[Call]) -> list[Call]:
    """Let potentials that a spike holds at 0 in the next step be one call each.

    Of such a potential only its spikes can be read, and what comes back to it.
    """
    by_name = _by_name(calls)
    for call in calls:
        if not isinstance(call.module, Held) or bool((call.module.threshold < 0).any()):
            continue
        whole, threshold = (Source(call.name),), call.module.threshold
        spikes = [
            other.name
            for other in calls
            if type(other.module) is Above
            and other.sources == whole
            and bool((other.module.threshold.double() == threshold.double()).all())
        ]
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

        return _held(
            [
                other._replace(name=name, module=layer, sources=tuple(map(renamed, inputs)))
                if other is call
                else other._replace(sources=tuple(map(renamed, other.sources)))
                for other in calls
                if other is call or other.name not in known
            ]
        )
    return calls


def _without_copies(calls: list[Call]) -> list[Call]:
    """Leave calls out that only keep what one other gives."""
    copies = {
        call.name: call.sources[0]
        for call in calls
        if isinstance(call.module, Elementwise)
        and call.module.scale is call.module.shift is None
        and len(call.sources) == 1
        and not call.sources[0].late
        and call.shape == call.source_shape
    }

    def kept(source: Source) -> Source:
        while source.name in copies:
            source = copies[source.name]._replace(late=source.late)
        return source

    return [
        call._replace(sources=tuple(map(kept, call.sources)))
        for call in calls
        if call.name not in copies
    ]


def _by_name(calls: Sequence[Call]) -> dict[str | None, Call]:
    return {call.name: call for call in reversed(calls)}  # an output may be called like a layer


def _shifted(calls: list[Call]) -> list[Call]:
    """Let thresholds behind a shift be thresholds of what is shifted."""
    by_name, found = _by_name(calls), []
    for call in calls:
        before = by_name.get(call.sources[0].name) if len(call.sources) == 1 else None
        if (
            type(call.module) is Above
            and before is not None
            and isinstance(before.module, Elementwise)
            and before.module.scale is None
            and before.module.shift is not None
            and before.shape == before.source_shape == call.source_shape
        ):
            late = call.sources[0].late
            sources = tuple(s._replace(late=s.late or late) for s in before.sources)
            module = call.module.before_shift(before.module.shift)
            call = call if module is None else call._replace(module=module, sources=sources)
        found.append(call)
    return found


def _reset_to(calls: list[Call]) -> list[Call]:
    """Let what a reset to zero leaves, and spikes times a value, be a reset to that value."""
    by_name = _by_name(calls)
    for call in calls:
        if not isinstance(call.module, Reset) or call.module.value.any():
            continue
        reads = [other for other in calls if any(s.name == call.name for s in other.sources)]
        for more in calls:
            spikes = by_name.get(more.sources[0].name) if len(more.sources) == 1 else None
            if spikes is None or not _scales(more) or not _tells_of(spikes, call):
                continue
            pairs = {Source(call.name, late=n): Source(more.name, late=n) for n in (False, True)}
            if more.sources[0].late or not all(_in_pairs(other.sources, pairs) for other in reads):
                continue
            gone = set(pairs.values())
            reset = Reset(call.module.threshold, _scale(more))
            changed = [
                other._replace(sources=tuple(s for s in other.sources if s not in gone))
                if other in reads
                else other
                for other in calls
            ]
            place = calls.index(call)
            changed[place] = changed[place]._replace(module=reset)
            return _reset_to(changed)
    return calls


def _in_pairs(sources: Sequence[Source], pairs: Mapping[Source, Source]) -> bool:
    """Tell whether the second of each pair stands beside the first."""
    return all(b in sources for a, b in pairs.items() if a in sources)


def _tells_of(spikes: Call, reset: Call) -> bool:
    """Tell whether spikes are where a potential is reset."""
    above, at = spikes.module, reset.module
    if type(above) is not Above or not isinstance(at, Reset):
        return False
    same = bool((above.threshold.double() == at.threshold.double()).all())
    return same and set(spikes.sources) == set(reset.sources)


def _kept(calls: list[Call]) -> list[Call]:
    """Let a potential less its own part above a threshold be what a reset to zero leaves."""
    by_name, found = _by_name(calls), list[Call]()
    for call in calls:
        for less in call.sources:
            minus = by_name.get(less.name)
            if minus is None or not _scales(minus) or len(minus.sources) != 1:
                continue
            over = by_name.get(minus.sources[0].name)
            left = tuple(source for source in call.sources if source != less)
            scale = minus.module.scale if isinstance(minus.module, Elementwise) else None
            if (
                over is not None
                and isinstance(over.module, Excess)
                and scale is not None
                and bool((scale == -1).all())
                and set(over.sources) == set(left)
            ):
                reset = Reset(over.module.threshold, 0.0)
                name = _free(by_name | _by_name(found), "reset")
                found.append(over._replace(name=name, module=reset))
                call = call._replace(sources=(Source(name),))
                break
        found.append(call)
    return found


def _parted(calls: list[Call]) -> list[Call]:
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
        changed = []
        for other in calls:
            if other is call:
                changed += [call._replace(sources=now), back]
            elif Source(call.name) in other.sources:
                sources = (*other.sources, Source(back.name, late=True))
                changed.append(other._replace(sources=sources))
            else:
                changed.append(other)
        return _parted(changed)
    return calls


def _scales(call: Call | None) -> bool:
    """Tell whether a call multiplies by constants."""
    return call is not None and isinstance(call.module, Elementwise) and call.module.shift is None


def _potentials(calls: Sequence[Call]) -> Iterator[_Potential]:
    """Yield the potentials that calls hold."""
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
            decay = sum(map(_factor, ways.values()), torch.zeros((), dtype=torch.float64))
            reset = way[0].module if isinstance(way[0].module, Reset) else None
            yield _Potential(inputs, tuple(ways), tuple(more), decay, reset)


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


def _factor(way: Sequence[Call]) -> Tensor:
    factor = torch.ones((), dtype=torch.float64)
    for call in way:
        factor = factor * _scale(call)
    return factor


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
        same = {c.name for c in reads if _tells(c, found)}
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


def _tells(call: Call, found: _Potential) -> bool:
    """Tell whether a call gives the spikes at which a potential resets itself."""
    if found.reset is None or type(call.module) is not Above:
        return False
    threshold, at = call.module.threshold.double(), found.reset.threshold.double()
    return found.sources == set(call.sources) and bool((threshold == at).all())


def _free(by_name: dict[str | None, Call], name: str) -> str:
    """Return a name that no call has."""
    count, wanted = 0, name
    while wanted in by_name:
        count += 1
        wanted = f"{name}_{count}"
    return wanted
