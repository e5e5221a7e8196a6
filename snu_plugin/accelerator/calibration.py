"""Digital gains that undo drift, fitted to what the chip's products show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from snu_plugin.accelerator.energy import Spent, product_nj
from snu_plugin.accelerator.inference import observe
from snu_plugin.accelerator.program import Product, Tile
from snu_plugin.accelerator.state import ChipState
from snu_plugin.accepted import one_of

Scope = Literal["column", "tile", "layer", "global"]
Method = Literal["fit", "mean", "ideal"]

DENSITY = 0.1
"""Share of ones among the probe inputs: few enough not to saturate the converters. Ours."""
WITHIN = 0.9
"""Share of a converter's range within which probes are looked at, the rest left for noise. Ours."""
ROUNDING = 2**-19
"""Share by which sums of float32 may differ from machine to machine, as each adds in its own order.
A chip whose products lack no more than this has not changed: its factors are exactly 1."""


class Evidence(NamedTuple):
    """What says how much the outputs of a crossbar lack.

    Each ``(parts, out)``: a part is a row of tiles, or the sum of all of them.
    """

    wanted: Tensor
    found: Tensor


@torch.no_grad()
def calibrate(state: ChipState, scope: Scope, method: Method, probe_count: int, reads: int) -> None:
    """Set the digital gains so that products are again what they were.

    See ``Accelerator.calibrate``.
    """
    state.programmed_s()
    one_of(*get_args(Scope)).check("scope", scope)
    one_of(*get_args(Method)).check("method", method)
    found = {
        name: probe_response(state, name, scope, method, probe_count, reads)
        for name in state.program.products
    }
    # Nobody knows what reading devices exactly would take.
    state.charge("calibration", Spent(1, None if method == "ideal" else 0.0))
    for name, gain in gains(found, scope, state.program.tiles).items():
        mean = gain.mean(0)
        state.registers[f"{name}.gain"] = mean
        held = state.registers.get(f"{name}.tile_gain")
        if held is not None:
            state.registers[f"{name}.tile_gain"] = (gain / mean).expand_as(held).clone()


def probe_response(
    state: ChipState, name: str, scope: Scope, method: Method, probe_count: int, reads: int
) -> Evidence:
    """Return how much the outputs of a crossbar lack.

    ``fit`` is ``Σ expected² / Σ expected seen``: the expected values carry no noise, so that noise
    in the readings, which does not drift, cannot bias it. ``mean`` is the published compensation
    (Joshi et al. 2020; aihwkit 1.2.0): noise of variance ``σ²`` does not drift, so that the ratio
    ``sqrt((s₀² + σ²) / (s² + σ²))`` falls short of ``s₀ / s`` (docs/devices.md, calibration).
    """
    op = state.program.products[name]
    inputs, ranges = op.weight.shape[1], state.program.ranges
    # Drawn whatever the method, so that methods change no other draw.
    stream = state.streams[name]["probe"]
    drawn = torch.rand(probe_count, inputs, generator=stream, dtype=torch.float32)
    x = (drawn < max(DENSITY, 1 / inputs)).float().to(op.weight.device)
    if ranges is not None and method == "fit":
        x *= ranges[name].level  # inputs of the size for which the converters were set
    if method == "mean":
        if name not in state.baseline:
            raise RuntimeError(
                "method mean compares with an earlier time; call remember() right after program()"
            )
        seen = _parts(probe(state, name, _one_by_one(op), reads), scope)
        then = state.baseline[name]
        return Evidence(then[1:] if scope == "tile" else then[:1], seen.abs().mean(1))
    weight = state.remembered[name]
    expected = torch.stack([x[:, a:b] @ weight[:, a:b].T for a, b in op.row_blocks])
    if method == "ideal":
        seen = observe(state, name, 0.0, noisy=False).ideal(x)
    else:
        seen = probe(state, name, x, reads)
    if op.chip.adc_bits is not None and method == "fit":
        # What a converter would clip says nothing; chosen by the value expected, not by the noise.
        full = torch.stack([op.weight_per_us[:, a] for a, _ in op.row_blocks]) * op.chip.g_max_us
        if ranges is not None and ranges[name].level != 1:
            full = full * op.chip.dac_bound  # a full pulse stands for so much, unless it is a spike
        end = (WITHIN * op.chip.adc_bound * full).float()
        within = (expected.abs() <= end[:, None]).all(0)
        seen, expected = seen * within, expected * within
    seen, expected = _parts(seen, scope), _parts(expected, scope)
    return Evidence(expected.square().sum(1), (expected * seen).sum(1))


def baseline(state: ChipState, name: str, reads: int) -> Tensor:
    """Return mean magnitudes for one input at a time: of the sums, then of each row of tiles.

    ``(1 + rows of tiles, out)``, digital gains included.
    """
    seen = probe(state, name, _one_by_one(state.program.products[name]), reads)
    seen = seen * state.gain(name)[:, None]
    return torch.cat((seen.sum(0, keepdim=True), seen)).abs().mean(1)


def probe(state: ChipState, name: str, x: Tensor, reads: int) -> Tensor:
    """Return what each row of tiles gives for ``(n, in)`` before its gain, mean of ``reads``.

    ``(rows of tiles, n, out)``; takes the chip's time.
    """
    seconds = len(x) * state.program.chips[name].step_ns * 1e-9
    seen = []
    for _ in range(reads):
        array = observe(state, name, seconds)
        seen.append(array.probe(x))
        state.clock_s += seconds
        energy = sum(product_nj(state.program, name, array.count))
        done = Spent(0, energy, seconds, conversions=array.count.conversions)
        state.charge("calibration", done)
    return torch.stack(seen).mean(0)


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
        group = _groups(name, wanted.shape[1], scope, tiles).to(wanted.device)
        sums = wanted.new_zeros(2, len(wanted), int(group.max()) + 1)
        sums.index_add_(2, group, torch.stack((wanted, found)))
        factors[name] = _ratio(*sums)[:, group]
    return factors


def _one_by_one(op: Product) -> Tensor:
    """Return one input at a time, ``(in, in)``."""
    return torch.eye(op.weight.shape[1], dtype=torch.float32, device=op.weight.device)


def _parts(seen: Tensor, scope: Scope) -> Tensor:
    """Return what shares no factor: rows of tiles ``(rows, n, out)``, or their sum ``(1, n, out)``.

    Only factors by ``tile`` tell the rows of tiles apart.
    """
    return seen if scope == "tile" else seen.sum(0, keepdim=True)


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
    one = wanted.new_ones(())
    return torch.where(usable, wanted / found.where(usable, one), one)
