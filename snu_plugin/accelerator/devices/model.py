"""What a memory device does: written, pulsed, aged and read. ``DeviceModel`` says what to write."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.devices import maker, named
from snu_plugin.accelerator.devices.flicker import Flicker, Fluctuation
from snu_plugin.accelerator.devices.pulses import CEILING_US, OWN, Response
from snu_plugin.accelerator.devices.temperature import STEADY, Climate
from snu_plugin.accelerator.noise import Fast, Streams, normal_like, uniform_like

PART = 1 << 16
"""Devices that are worked on at once; a multiple of 16."""
SET_PJ = 4.5
"""A SET pulse: 90 µA at 1 V for 50 ns. Assumed; Nandakumar et al., Front. Neurosci. 14:406, 2020
give no energy."""
RESET_PJ = 30.0
"""A RESET pulse: 400 µA at 1.5 V for 50 ns. Assumed."""


class Cells(NamedTuple):
    """The state of every device; all of one shape, 41 bytes a device."""

    g_us: Tensor
    """Conductance at the last event, µS, float64 so that ideal weights come back exactly."""
    t_s: Tensor
    """Clock at the last event, s, float64."""
    nu: Tensor
    """Drift exponent, float32."""
    q: Tensor
    """Relative read noise Q_s, float32; 0 where the model has none."""
    history: Tensor
    """SET pulses since the last RESET, float32; estimated for devices not written by pulses."""
    sets: Tensor
    """SET pulses ever, int32."""
    resets: Tensor
    """RESET pulses ever, int32."""
    stuck: Tensor
    """Whether the device never changes, bool."""
    deviate: Tensor
    """Standard normal number behind ν where SET pulses change ν, float32; NaN where they do not."""

    def age_s(self, clock_s: float) -> Tensor:
        """Return seconds since the last event, float64; one value where all devices share it."""
        first, last = self.t_s.aminmax()
        return clock_s - (first if first == last else self.t_s)


KINDS = (
    *(torch.float64, torch.float64, torch.float32, torch.float32, torch.float32),
    *(torch.int32, torch.int32, torch.bool, torch.float32),
)
"""Numbers that the fields of ``Cells`` hold."""


class Law(NamedTuple):
    """What devices of one age do: they show ``g exp(-nu length)``, deviating by ``spread q`` of it.

    Then all of a run is one pass over the devices (``matrix.show``).
    """

    length: float
    spread: float


class DeviceModel:
    """What the devices of a chip do; this one is exact: it neither drifts nor makes noise.

    A further model is a class derived from this one that overrides what its devices do otherwise
    (``written``, ``drift``, ``read_sigma`` with ``noisy`` and ``spectrum``, ``relative_noise``,
    ``own_response`` to pulses; energy and time if they are known). ``Chip(device=class)`` takes it.
    By name it is found as an entry point of the group ``snu_plugin.devices``, or in a dict
    ``FITS = {name: class}`` of one more file in this folder; only by a name can it be saved.

    Conductances are in µS, float64 in ``Cells``; random numbers are drawn from the stream of their
    effect alone, and as many for devices that are stuck as for others.

    Raises:
        ValueError: For a chip whose ``g_max_us`` is larger than ``limit_us``.
    """

    limit_us: float | None = None
    """Largest conductance that was measured, µS."""
    holds_at_s: float = 0.0
    """Age at which conductances hold, s; drift is counted from there."""
    writing_s: float = 0.0
    """Time that writing takes besides that of its pulses, s."""
    noisy: bool = False
    """Whether a reading scatters."""
    spectrum: Flicker | None = None
    """How read noise goes on in time; ``None``: every reading and every product draw anew."""
    set_pj: float = SET_PJ
    reset_pj: float = RESET_PJ

    def __init__(self, chip: Chip) -> None:
        if self.limit_us is not None and chip.g_max_us > self.limit_us:
            raise ValueError(
                f"g_max_us is {chip.g_max_us}; {chip.device} was measured up to {self.limit_us} µS"
            )
        self.chip = chip
        self.response: Response = (
            self.own_response()
            if chip.pulse == OWN
            else named("PULSES")[chip.pulse](chip, self.scale)
        )

    def own_response(self) -> Response:
        """Return what pulses do to these devices: equal exact steps, unless a model knows more."""
        return Response(self.chip, self.scale)

    @property
    def scale(self) -> float:
        """Conductance of these devices over that of those whose pulses were measured."""
        return self.chip.g_max_us / CEILING_US

    def written(
        self, target: Tensor, stuck_at: Tensor | None, clock_s: float, streams: Streams
    ) -> Cells:
        """Return a row of devices after writing; see ``write``."""
        return self.stick(blank(target.clone(), clock_s), stuck_at)

    def drift(self, cells: Cells, age_s: Tensor) -> Tensor:
        """Return the conductances ``age_s`` seconds after the last event, µS."""
        return cells.g_us

    def conductance(
        self,
        cells: Cells,
        clock_s: float,
        climate: Climate = STEADY,
        age_s: Tensor | None = None,
    ) -> Tensor:
        """Return what the devices show now but for noise, µS: drifted, and as warm as they are.

        ``age_s`` is ``cells.age_s(clock_s)`` where it is known already.
        """
        drifted, warmth = self._drifted(cells, clock_s, climate, age_s)
        return drifted if warmth is None else drifted * warmth.to(drifted)

    def _drifted(
        self, cells: Cells, clock_s: float, climate: Climate, age_s: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the drifted conductances, µS, and what their temperature makes of them.

        ``Chip.activation_ev`` is that of a device at 0 and falls in a straight line to 0 at
        ``g_max_us``; ``None`` where the temperature changes nothing.
        """
        at_0 = self.chip.activation_ev
        if at_0 is None or climate.steady:
            return self.drift(cells, cells.age_s(clock_s) if age_s is None else age_s), None
        age_s = climate.drift_age_s(cells.t_s, clock_s, self.holds_at_s)
        energy = at_0 * (1 - cells.g_us / self.chip.g_max_us).clamp(0, 1)
        return self.drift(cells, age_s), climate.factor(energy, cells.t_s)

    def law(self, age_s: Tensor, climate: Climate) -> Law | None:
        """Return the numbers that ``drift`` and ``read_sigma`` of devices of one age come to.

        ``None`` where they are no ``Law``.
        """
        return None

    def read_sigma(self, cells: Cells, g: Tensor, age_s: Tensor) -> Tensor:
        """Return the standard deviation of one reading of the drifted conductances ``g``, µS."""
        return torch.zeros_like(g)

    def relative_noise(self, g: Tensor) -> Tensor:
        """Return Q_s of devices written to ``g`` µS, float32; 0 where the model has none."""
        return torch.zeros_like(g, dtype=torch.float32)

    def written_sigma(self, target: Tensor) -> Tensor | None:
        """Return the standard deviation that writing leaves, µS; ``None``: no closed form."""
        return None

    def exponents(self, target: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return mean and standard deviation of the normal whose magnitude is ν, by conductance.

        ``None`` where ν does not depend on it.
        """
        return None

    def write(
        self, target: Tensor, clock_s: float, streams: Streams, stuck_at: Tensor | None = None
    ) -> Cells:
        """Write every device to its ``target`` and return the cells.

        Args:
            target: Conductances, µS float64, any shape.
            clock_s: When.
            streams: Generators by effect.
            stuck_at: Conductance at which a device is stuck, µS, NaN for those that work; see
                ``draw_stuck``. A stuck device keeps it exactly and does not drift.
        """
        kinds = (target.dtype, *KINDS[1:])
        whole = Cells(*(torch.empty_like(target, dtype=kind) for kind in kinds))
        for part in parts(target.numel()):
            own = None if stuck_at is None else stuck_at.flatten()[part]
            cells = self.written(target.flatten()[part], own, clock_s, streams)
            if len(cells.g_us) == target.numel():
                alone = zip(cells, kinds, strict=True)
                return Cells(*(some.to(kind).view(target.shape) for some, kind in alone))
            for field, some in zip(whole, cells, strict=True):
                field.view(-1)[part] = some
        return whole

    def read(
        self,
        cells: Cells,
        clock_s: float,
        bits: Fast,
        fluctuation: Fluctuation | None = None,
        climate: Climate = STEADY,
    ) -> Tensor:
        """Return one noisy reading of every device, µS float64, clipped at 0.

        ``fluctuation`` holds what readings share; without it this one shares nothing with others.
        """
        seen = torch.empty_like(cells.g_us)
        whole = Cells(*(field.view(-1) for field in cells))
        for part in parts(seen.numel()):
            alone = part == slice(0, seen.numel())
            own = whole if alone else Cells(*(field[part] for field in whole))
            age_s = own.age_s(clock_s)
            g = self.conductance(own, clock_s, climate, age_s)
            noise = normal_like(g, bits)
            if fluctuation is not None:
                frozen, open_ = fluctuation
                open_ = open_.view(-1)[part] if open_.dim() else open_
                noise.mul_(open_.sqrt()).add_(frozen.view(-1)[part])
            noise.mul_(self.read_sigma(own, g.float(), age_s))
            torch.add(g, noise, out=seen.view(-1)[part]).clamp_min_(0)
        return seen

    def pulse(
        self,
        cells: Cells,
        counts: Tensor,
        clock_s: float,
        streams: Streams,
        climate: Climate = STEADY,
    ) -> Cells:
        """Apply ``counts`` SET pulses (0 or more) to each device; the others stay as they are.

        A pulse starts from the drifted conductance and restarts the clock of that device. On a
        device that was RESET, SET pulses are its writing: its ν is that of the conductance they
        lead to. What they do to a device that was written otherwise says ``Chip.nu_after_set``.
        Pulses on a stuck device count and change nothing.
        """
        moved = (counts > 0) & ~cells.stuck
        n, history = counts[moved], cells.history[moved]
        # Shortly after a pulse a device reads higher than what it will leave: not to be added.
        drifted, warmth = self._drifted(cells, clock_s, climate)
        before = drifted.minimum(cells.g_us)
        before = (before if warmth is None else before * warmth)[moved]
        after = self.response.set(before, history, n, streams["pulse"])
        deviate = cells.deviate[moved]
        if self.chip.nu_after_set == "draws":
            deviate = normal_like(deviate, streams["drift"])
        new = self._moved(cells, moved, after, clock_s, history + n, deviate)
        return new._replace(sets=cells.sets + counts.to(cells.sets))

    def reset(self, cells: Cells, where: Tensor, clock_s: float, streams: Streams) -> Cells:
        """RESET the devices where the mask is true: no history, a new clock, a new ν."""
        moved = where & ~cells.stuck
        count = int(moved.sum())
        after = self.response.reset(count, streams["pulse"]).to(cells.g_us)
        fresh = torch.zeros_like(after, dtype=torch.float32)
        deviate = normal_like(fresh, streams["drift"])
        new = self._moved(cells, moved, after, clock_s, fresh, deviate)
        return new._replace(resets=cells.resets + where.to(cells.resets))

    def draw_stuck(self, shape: torch.Size, generator: Generator) -> Tensor | None:
        """Return the conductance at which each device is stuck, µS; NaN for those that work.

        ``stuck_at_reset``, ``stuck_at_set`` and ``stuck_at_random`` are shares of all devices:
        at the level of a RESET, at ``g_max_us``, or uniformly in between. ``None`` if the chip has
        no faults. The same generator state gives the same devices.
        """
        chip = self.chip
        at_reset, at_set = chip.stuck_at_reset or 0.0, chip.stuck_at_set or 0.0
        random = chip.stuck_at_random or 0.0
        if not any((at_reset, at_set, random)):
            return None
        lot = torch.rand(shape, generator=generator, dtype=torch.float32)
        anywhere = chip.g_max_us * torch.rand(shape, generator=generator, dtype=torch.float32)
        level = torch.where(lot < at_reset + at_set + random, anywhere, torch.tensor(torch.nan))
        level = torch.where(lot < at_reset + at_set, torch.tensor(chip.g_max_us), level)
        return torch.where(lot < at_reset, torch.tensor(self.response.floor_us), level)

    def stick(self, cells: Cells, stuck_at: Tensor | None) -> Cells:
        """Return the cells with those that are stuck at their level; see ``write``."""
        if stuck_at is None:
            return cells
        stuck = ~stuck_at.isnan()
        g = torch.where(stuck, stuck_at.to(cells.g_us), cells.g_us)
        q = torch.where(stuck, self.relative_noise(g), cells.q)
        return cells._replace(g_us=g, q=q, nu=cells.nu.masked_fill(stuck, 0), stuck=stuck)

    def wear(self, cells: Cells, pulses: Tensor, generator: Generator) -> Cells:
        """Return the cells after an event of so many ``pulses`` on each device.

        Each pulse is the last one with probability ``1 / endurance``: then the device is stuck
        where the event left it. Nothing is drawn without ``Chip.endurance``.
        """
        if self.chip.endurance is None:
            return cells
        lot = uniform_like(pulses, generator)
        stuck = cells.stuck | (lot >= (1 - 1 / self.chip.endurance) ** pulses.double())
        return cells._replace(stuck=stuck, nu=cells.nu.masked_fill(stuck, 0))

    def _moved(
        self,
        cells: Cells,
        moved: Tensor,
        g: Tensor,
        clock_s: float,
        history: Tensor,
        deviate: Tensor,
    ) -> Cells:
        """Return the cells with new conductances where ``moved``, and what follows from them."""
        nu, curves = cells.nu[moved], self.exponents(g)
        if curves is not None:
            drawn = (curves[0] + curves[1] * deviate).abs().float()
            nu = torch.where(deviate.isnan(), nu, drawn)
        changed = {
            "g_us": g,
            "t_s": clock_s,
            "nu": nu,
            "q": self.relative_noise(g),
            "history": history,
            "deviate": deviate,
        }
        new = cells._replace(**{name: getattr(cells, name).clone() for name in changed})
        for name, value in changed.items():
            getattr(new, name)[moved] = value
        return new


FITS = {None: DeviceModel}


def device_model(chip: Chip) -> DeviceModel:
    """Return what the devices of a chip do."""
    made: DeviceModel = maker(chip.device)(chip)
    return made


def blank(g: Tensor, clock_s: float) -> Cells:
    """Return cells at conductance ``g`` that neither drift nor make noise, never pulsed."""
    nu, q, history = (torch.zeros_like(g, dtype=torch.float32) for _ in range(3))
    sets, resets = (torch.zeros_like(g, dtype=torch.int32) for _ in range(2))
    works = torch.zeros_like(g, dtype=torch.bool)
    fixed = torch.full_like(g, torch.nan, dtype=torch.float32)
    return Cells(g, torch.full_like(g, clock_s), nu, q, history, sets, resets, works, fixed)


def parts(count: int) -> Iterator[slice]:
    """Cut a row of so many devices into parts of ``PART``, the last one up to twice as long.

    What is computed between fits a cache, and memory holds little more than the devices. Random
    numbers drawn part by part are those drawn at once: torch fills 16 at a time.
    """
    cuts = [*range(0, max(1, count - PART + 1), PART), count]
    return (slice(*cut) for cut in pairwise(cuts) if count)
