"""Inputs that make the layers of a network fire, found by trying; for graphs and for models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

RATES = (0.3, 0.03)
"""Share of the drawn inputs that are not zero, in the order in which they are tried."""

FACTORS = (1.0, 4.0, 0.25, 16.0, 0.0625, 64.0, 256.0)
"""What inputs are multiplied with: powers of two, which no sum rounds."""

PATTERNS = 8
"""How often values are drawn that stay as they are over all steps."""

TOGETHER = 1, 3, 9
"""How many inputs are tried at once where that is cheaper, at first; then as many as at last."""

Fired = Mapping[str, float]
"""Share of the neurons that fired at least once, by layer."""


class Probe(NamedTuple):
    """Inputs, and what they make fire."""

    x: Tensor
    """``(T, B, ...)``, float32."""
    how: str
    """What they are, in words."""
    fired: Fired
    """By layer; 0 for a layer that nothing made fire."""


def probe(
    fired: Callable[[Tensor], Fired],
    shape: Sequence[int],
    *,
    seed: int = 0,
    given: Tensor | None = None,
    tries: int | None = None,
    several: Callable[[Sequence[Tensor]], Sequence[Fired]] | None = None,
) -> Probe:
    """Return inputs that make as many layers fire as can be found.

    Tried in turn are spikes drawn at ``RATES``, times ``FACTORS``, without and with random signs,
    then patterns of normal values that are held, which no leak averages out; or ``given`` and its
    multiples, then such patterns, then spikes. The first that makes every layer fire is taken;
    where none does, those that each make other layers fire are put side by side, as further
    sequences of the batch. Torch's own random state is not touched.

    Args:
        fired: Runs inputs ``(T, B, ...)`` from a fresh state and says what fired; a network
            without such layers says nothing, and takes what is tried first.
        shape: Of the inputs, ``(T, B, ...)``, where they are drawn.
        seed: Of what is drawn.
        given: Inputs ``(T, B, ...)`` to begin with.
        tries: How many inputs may be tried; ``None``: all there are.
        several: Says the same of several inputs at once, where that is cheaper than one by one.

    Raises:
        ValueError: If ``tries`` is below 1.
    """
    taken: list[Probe] = []
    reached: set[str] = set()
    first: Probe | None = None
    for found in _tried(islice(_candidates(shape, seed, given), tries), fired, several):
        if all(found.fired.values()):
            return found
        first = first or found
        if new := {name for name, share in found.fired.items() if share} - reached:
            taken.append(found)
            reached |= new
            if len(reached) == len(found.fired):
                break
    if first is None:
        raise ValueError(f"tries is {tries}; it must be at least 1")
    if len(taken) < 2:
        return taken[0] if taken else first
    x = torch.cat([found.x for found in taken], 1)
    return Probe(x, "; ".join(found.how for found in taken), dict(fired(x)))


def _tried(
    candidates: Iterator[tuple[Tensor, str]],
    fired: Callable[[Tensor], Fired],
    several: Callable[[Sequence[Tensor]], Sequence[Fired]] | None,
) -> Iterator[Probe]:
    """Yield what each input makes fire, tried one by one, or some of them at once."""
    if several is None:
        yield from (Probe(x, how, dict(fired(x))) for x, how in candidates)
        return
    for size in chain(TOGETHER, repeat(TOGETHER[-1])):
        if not (some := list(islice(candidates, size))):
            return
        for (x, how), found in zip(some, several([x for x, _ in some]), strict=True):
            yield Probe(x, how, dict(found))


def parted(x: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return what lies side by side for several Inputs, ``(T, B, all)``, by name in its shape."""
    parts = torch.split(x, [prod(shape) for shape in shapes.values()], -1)
    return {
        name: part.reshape(*x.shape[:2], *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def shares_fired(outputs: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of neurons that fired at least once, by layer.

    Args:
        outputs: Spikes of each layer, ``(T, B, ...)``.
    """
    on = {n: (y.amax((0, 1)) != 0) | (y.amin((0, 1)) != 0) for n, y in outputs.items()}
    return {name: float(which.double().mean()) for name, which in on.items()}


def _candidates(
    shape: Sequence[int], seed: int, given: Tensor | None
) -> Iterator[tuple[Tensor, str]]:
    """Yield inputs and what they are."""
    if given is not None:
        for factor in FACTORS:
            yield factor * given, f"the inputs given{_times(factor)}"
    drawn = [_spikes(shape, seed), _held(shape, seed)]
    for some in drawn if given is None else reversed(drawn):
        yield from some


def _spikes(shape: Sequence[int], seed: int) -> Iterator[tuple[Tensor, str]]:
    random = torch.Generator().manual_seed(seed)
    for rate in RATES:
        spikes = (torch.rand(shape, generator=random) < rate).float()
        signs = torch.randint(0, 2, shape, generator=random) * 2 - 1
        for base, words in ((spikes, ""), (spikes * signs, " with random signs")):
            for factor in FACTORS:
                yield factor * base, f"seeded spikes of rate {rate}{_times(factor)}{words}"


def _held(shape: Sequence[int], seed: int) -> Iterator[tuple[Tensor, str]]:
    random = torch.Generator().manual_seed(seed)
    for _ in range(PATTERNS):
        held = torch.randn((1, *shape[1:]), generator=random).expand(tuple(shape))
        for factor in (1.0, 16.0):
            yield factor * held, f"seeded normal values held over all steps{_times(factor)}"


def _times(factor: float) -> str:
    return "" if factor == 1 else f" times {factor:g}"
