"""Digital gains that undo drift, fitted to what the chip's products show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator.program import Tile

Scope = Literal["column", "tile", "layer", "global"]
Method = Literal["fit", "mean", "ideal"]

DENSITY = 0.1
"""Share of ones among the probe inputs: few enough not to saturate the converters. Ours."""
ROUNDING = 2**-19
"""Share by which sums of float32 may differ from machine to machine, as each adds in its own order.
A chip whose products lack no more than this has not changed: its factors are exactly 1."""


def check(scope: str, method: str) -> None:
    """Raise ``ValueError`` for a scope or a method that does not exist."""
    for name, value, known in (
        ("scope", scope, get_args(Scope)),
        ("method", method, get_args(Method)),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; it must be {', '.join(known)}")


def probes(inputs: int, count: int, generator: Generator) -> Tensor:
    """Return random 0/1 inputs ``(count, inputs)``."""
    drawn = torch.rand(count, inputs, generator=generator)
    return (drawn < max(DENSITY, 1 / inputs)).float()


class Evidence(NamedTuple):
    """What says how much the outputs of a crossbar lack.

    Each ``(parts, out)``: a part is a row of tiles, or the sum of all of them.
    """

    wanted: Tensor
    found: Tensor


def parts(seen: Tensor, scope: Scope) -> Tensor:
    """Return what shares no factor: rows of tiles ``(rows, n, out)``, or their sum ``(1, n, out)``.

    Only factors by ``tile`` tell the rows of tiles apart.
    """
    return seen if scope == "tile" else seen.sum(0, keepdim=True)


def fit(seen: Tensor, expected: Tensor) -> Evidence:
    """Compare ``(parts, n, out)`` with what the remembered weights would give.

    The ratio is ``Σ expected² / Σ expected seen``: the expected values carry no noise, so that
    noise in the readings, which does not drift, cannot bias it.
    """
    return Evidence(expected.square().sum(1), (expected * seen).sum(1))


def mean(seen: Tensor, baseline: Tensor) -> Evidence:
    """Compare the mean magnitude of ``(parts, n, out)`` with that of an earlier time.

    The published compensation (Joshi et al. 2020; aihwkit 1.2.0); ``baseline`` is
    ``(parts, out)``. Noise of variance ``σ²`` does not drift, so that the ratio
    ``sqrt((s₀² + σ²) / (s² + σ²))`` falls short of ``s₀ / s`` (``pcm_accelerator`` section 11).
    """
    return Evidence(baseline, seen.abs().mean(1))


def gains(
    evidence: Mapping[str, Evidence], scope: Scope, tiles: Iterable[Tile]
) -> dict[str, Tensor]:
    """Return the factor on each output, ``(parts, out)`` by node, that makes ``found`` ``wanted``.

    Args:
        evidence: By node.
        scope: Outputs that share a factor: one ``column``, those of one ``tile``, of one
            ``layer``, or all (``global``). Outputs that should always be 0 keep a factor of 1.
        tiles: Where the tiles lie.

    >>> seen = Evidence(torch.tensor([[4.0, 1.0]]), torch.tensor([[2.0, 1.0]]))
    >>> gains({"fc": seen}, "layer", ())
    {'fc': tensor([[1.6667, 1.6667]])}
    """
    if scope == "global":
        wanted = torch.stack([e.wanted.sum() for e in evidence.values()]).sum()
        found = torch.stack([e.found.sum() for e in evidence.values()]).sum()
        return {n: _ratio(wanted, found).expand_as(e.wanted).clone() for n, e in evidence.items()}
    tiles = tuple(tiles)
    factors = {}
    for name, (wanted, found) in evidence.items():
        group = _groups(name, wanted.shape[1], scope, tiles)
        sums = torch.zeros(2, len(wanted), int(group.max()) + 1)
        sums.index_add_(2, group, torch.stack((wanted, found)))
        factors[name] = _ratio(*sums)[:, group]
    return factors


def _groups(name: str, out: int, scope: Scope, tiles: tuple[Tile, ...]) -> Tensor:
    """Return which outputs share a factor, as numbers ``(out,)``."""
    if scope == "layer":
        return torch.zeros(out, dtype=torch.int64)
    if scope == "column":
        return torch.arange(out)
    starts = sorted({tile.columns[0] for tile in tiles if tile.node == name})
    return torch.bucketize(torch.arange(out), torch.tensor(starts), right=True) - 1


def _ratio(wanted: Tensor, found: Tensor) -> Tensor:
    changed = (wanted - found).abs() > ROUNDING * wanted
    usable = (wanted > 0) & (found > 0) & changed
    return torch.where(usable, wanted / found.where(usable, torch.ones(())), torch.ones(()))
