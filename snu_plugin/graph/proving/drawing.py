"""Inputs drawn from a sample, that make every layer of a graph fire."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from snu_plugin.graph.proving.probe import Fired, probe
from snu_plugin.graph.proving.sample_layout import SampleLayout

Spikes = Mapping[str, Tensor]

RATE = 0.3
"""Of the spikes that are drawn where the sample is silent."""

TRIES = 13
"""How many inputs are tried until every layer fires: multiples of the sample, then patterns."""

TRIED = 8, 2
"""Steps and sequences of such a try: the values as they are drawn, and with random signs."""


def other_inputs(
    layout: SampleLayout, fed: Mapping[str, Tensor], spikes: Callable[[dict[str, Tensor]], Spikes]
) -> dict[str, Tensor]:
    """Return other values than the sample's: drawn from it, scaled until every layer fires.

    Some sequences get random signs, more, or less; three steps are silent.

    Args:
        layout: How the model is called.
        fed: The sample, as the model is given it.
        spikes: What each layer gives, ``(T, B, ...)``, for what each input gives.
    """
    source = torch.Generator().manual_seed(0)
    steps, sequences = TRIED
    drawn = [_draw(layout.samples[name], x.shape, source) for name, x in layout.flat(fed).items()]
    widths = [prod(x.shape[2:]) for x in drawn]

    def split(x: Tensor) -> dict[str, Tensor]:
        """Return what is given for each input, ``(T, B, ...)``; what is constant has T = 1."""
        parts = zip(fed.items(), torch.split(x, widths, -1), strict=True)
        return {
            name: part[: len(given)]
            .reshape(-1, x.shape[1], *layout.shapes[name])
            .to(layout.samples[name])
            for (name, given), part in parts
        }

    def several(tried: Sequence[Tensor]) -> list[Fired]:
        parts = [x[:steps, :sequences] for x in tried]
        together = torch.cat(parts, 1)
        found = spikes(layout.flat(split(together), len(together)))
        sizes = [part.shape[1] for part in parts]
        most = {n: torch.split(y.flatten(2).amax((0, 2)), sizes) for n, y in found.items()}
        return [
            {name: float(bool(y[place].any())) for name, y in most.items()}
            for place in range(len(parts))
        ]

    together = torch.cat([x.flatten(2) for x in drawn], -1)
    found = probe(
        lambda x: several([x])[0], together.shape, given=together, tries=TRIES, several=several
    ).x
    kept = split(found[:, : together.shape[1]])  # several may lie side by side
    return {name: part.reshape(fed[name].shape) for name, part in kept.items()}


def _draw(like: Tensor, shape: Sequence[int], source: torch.Generator) -> Tensor:
    """Return values drawn from an input, ``(T, B, ...)``."""
    values, half = like.detach().flatten().cpu(), shape[0] // 2
    if bool(values.any()):
        drawn = values[torch.randint(len(values), shape, generator=source)].float()
    else:
        drawn = (torch.rand(shape, generator=source) < RATE).float()
    if values.is_floating_point():
        signs = torch.randint(0, 2, shape, generator=source) * 2 - 1
        drawn[half:, 0::4] *= signs[half:, 0::4]
        drawn[:, 1::4] *= signs[:, 1::4]
        drawn[:, 2::4] *= 4
        drawn[:, 3::4] *= 0.25
    if half > 3:
        drawn[half : half + 3] = 0
    return drawn
