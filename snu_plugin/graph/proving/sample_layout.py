"""How a model that is compared with its graph is called over time, and with what.

That is its sample, and values drawn from it that make every layer of the graph fire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from snu_plugin.graph.proving.probe import Fired, parted, probe
from snu_plugin.graph.tracing.calling import Sample, by_name
from snu_plugin.graph.tracing.trace import Trace
from snu_plugin.graph.tracing.traced_tensor import Shape

Spikes = Mapping[str, Tensor]

RATE = 0.3
"""Of the spikes that are drawn where the sample is silent."""

TRIES = 13
"""How many inputs are tried until every layer fires: multiples of the sample, then patterns."""

TRIED = 8, 2
"""Steps and sequences of such a try: the values as they are drawn, and with random signs."""


class Calling(NamedTuple):
    """How a model is called over time."""

    axis: int | None
    """Axis of its input that is time; ``None``: one call takes what is no sequence."""
    repeated: bool = False
    """Whether one call makes all steps, with the same input in each."""


def callings(found: Trace, sample: Sample) -> list[Calling]:
    """Return how a model may be called; of several, one is.

    A model that takes two leading axes at once and cuts none either has layers over whole sequences
    or is one step of two batch axes; of a single step, a loop cuts none either: its outputs tell.
    """
    if found.time is not None:
        return [Calling(found.time)]
    if found.steps > 1:
        return [Calling(None, repeated=True)]
    if len(_longest_lead(found, sample)) < 2:
        return [Calling(None)]
    return [Calling(0), Calling(1), Calling(None)]


class SampleLayout:
    """The axes of a sample that are batch and time, where it is given to a model in one way."""

    def __init__(self, found: Trace, sample: Sample, calling: Calling) -> None:
        self.sample, self.calling = sample, calling
        self.samples = by_name(sample)
        self.lead = _longest_lead(found, sample)
        used = {name: len(shape) for name, shape in found.input_shapes.items()}
        self.axes = {n: x.dim() - used.get(n, len(self.lead)) for n, x in self.samples.items()}
        """How many axes of each input are batch and time."""
        self.shapes = {n: tuple(x.shape[self.axes[n] :]) for n, x in self.samples.items()}
        """The shape of each input in a step."""
        self.batch = tuple(n for i, n in enumerate(self.lead) if i != calling.axis)
        """The axes of all that are no time."""

    def tiled(self, steps: int, batch: Shape) -> dict[str, Tensor]:
        """Return the sample as ``(T, *batch, ...)``, cut or repeated in time, by Input."""
        axis, found = self.calling.axis, {}
        for name, x in self.samples.items():
            timed = axis is not None and self.axes[name] == len(self.lead)
            x = x.movedim(axis, 0) if timed and axis is not None else x[None]
            if batch:
                x = x[:, torch.arange(batch[0], device=x.device) % x.shape[1]]
            if timed or (axis is None and not self.calling.repeated):
                x = x[torch.arange(steps, device=x.device) % len(x)]
            found[name] = x
        return found

    def flat(self, fed: Mapping[str, Tensor], steps: int | None = None) -> dict[str, Tensor]:
        """Return what is fed as ``(T, B, ...)``, what is constant as often as there are steps."""
        length = steps or max(map(len, fed.values()))
        found = {}
        for name, x in fed.items():
            flat = x.reshape(len(x), -1, *self.shapes[name])
            found[name] = (flat.expand(length, *flat.shape[1:]) if len(x) == 1 else flat)[:length]
        return found

    def calls(self, fed: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return what each call of the model gets."""
        axis = self.calling.axis
        if axis is not None:
            timed = {name for name in fed if self.axes[name] == len(self.lead)}
            return [{n: x.movedim(0, axis) if n in timed else x[0] for n, x in fed.items()}]
        steps = max(map(len, fed.values()))
        return [{name: x[t % len(x)] for name, x in fed.items()} for t in range(steps)]

    def as_sample(self, given: dict[str, Tensor]) -> Sample:
        """Return what a call gets as the sample is given."""
        if isinstance(self.sample, Mapping):
            return given
        return tuple(given.values()) if len(given) > 1 else next(iter(given.values()))


def _longest_lead(found: Trace, sample: Sample) -> Shape:
    """Return the batch and time axes of the input that has most of them."""
    shapes = found.input_shapes
    leads = [x.shape[: x.dim() - len(shapes[n])] for n, x in by_name(sample).items() if n in shapes]
    return max((tuple(lead) for lead in leads), key=len)


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

    def split(x: Tensor) -> dict[str, Tensor]:
        """Return what is given for each input, ``(T, B, ...)``; what is constant has T = 1."""
        parts = parted(x, {name: layout.shapes[name] for name in fed})
        return {n: part[: len(fed[n])].to(layout.samples[n]) for n, part in parts.items()}

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
