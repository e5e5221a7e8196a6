"""Read noise of spectrum 1/f, device by device: what one reading shows the next one shows too.

Such noise is a sum of relaxations, of which every device carries one for each factor of ``RATIO``
in relaxation time (docs/devices.md, read noise in time). Variances are in units of ``(G Q_s)²``,
times in seconds, ages since the last event of a device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from snu_plugin.accelerator.devices.pulses import AGE_FLOOR_S
from snu_plugin.accelerator.noise import Fast, normals, relax

SHORTEST_S = 1e-5
"""Fluctuations faster than this are new at every reading and every product. Ours."""
RATIO = 5.0
"""Ratio of neighbouring relaxation times: the spectrum is 1/f within 1 %. Ours."""
STILL = 0.02
"""Share of its relaxation time for which a relaxation is left as it is: 0.003 in correlation."""
BRIEF = 0.1
"""Share of its relaxation time up to which an inference meets one value of a relaxation instead of
its mean: of the variance of a reading 0.003 more stays for the inference, and less is new."""
FORGOTTEN = 17.0
"""Relaxation times after which nothing of a value is left in float32, ``exp(-17)``."""
STEP = math.log(RATIO)


WHOLE = 1.01 * 2 * math.pi * RATIO**2
"""Age over relaxation time from which on a relaxation has its whole variance, ``STEP``."""
QUICK = 4
"""Relaxations that devices of any age have with their whole variance, ``STEP``."""


class Fluctuation(NamedTuple):
    """Read noise of devices as one inference or one reading meets it, over its deviation."""

    frozen: Tensor
    """What stays for the inference, of the shape of the devices, float32."""
    open: Tensor
    """Share of the variance that is new at every product; 0-dim if all devices have one age."""


@dataclass(frozen=True)
class Flicker:
    """The spectrum ``1/f`` between the frequencies ``1 / t`` and ``1 / (2 t_read)`` at age ``t``.

    >>> float(Flicker(250e-9).variance(torch.tensor(20.0)))  # ln(t / (2 t_read))
    17.504390716552734
    """

    t_read_s: float
    """Width of a read pulse."""

    def variance(self, age_s: Tensor) -> Tensor:
        """Return the variance of one reading, ``ln((t + t_read) / (2 t_read))``."""
        age_s = age_s.clamp_min(AGE_FLOOR_S)
        return ((age_s + self.t_read_s) / (2 * self.t_read_s)).log()


def relaxation_times_s(age_s: float) -> list[float]:
    """Return the times of the relaxations of devices that are at most so old.

    The first stands for all times from ``SHORTEST_S`` on.
    """
    first_s = SHORTEST_S * math.sqrt(RATIO)
    last = math.log(max(age_s, AGE_FLOOR_S) / (2 * math.pi * RATIO * first_s)) / STEP
    return [first_s * RATIO**k for k in range(math.ceil(last + 1))]


def relaxation_variance(tau_s: Tensor | float, age_s: Tensor) -> Tensor:
    """Return the variance of a relaxation; all of them sum to ``ln(t / (2π SHORTEST_S))``.

    Relaxation times are evenly spread over their logarithm up to a last one, ``t / (2π RATIO)``,
    on which lies what is left of the sum; what falls between two relaxations is divided by its
    distance. So each comes on smoothly as devices age.
    """
    age_s = age_s.clamp_min(AGE_FLOOR_S)
    beyond = (age_s / (2 * math.pi * RATIO * tau_s)).log() / STEP
    on, off = (1 + beyond).clamp(0, 1), (1 - beyond).clamp(0, 1)
    return STEP * (on + on**2 / 2 + off - off**2 / 2 - 0.5)


@dataclass(eq=False)
class SlowNoise:
    """The relaxations of the devices of a crossbar; none before the first reading.

    Between two looks a relaxation keeps ``exp(-d / τ)`` of its value and draws the rest anew, the
    exact Ornstein-Uhlenbeck process. ``observe`` looks; who writes a device has to ``renew`` it.

    The fastest relaxations, which have forgotten what they were at the look before, are drawn as
    one: a look needs their sum alone. Only if the next look comes so soon that it remembers some of
    them, these are drawn apart, given their sum.
    """

    values: list[Tensor] = field(default_factory=list)
    """One for each relaxation, of the shape of the devices, float32."""
    clocks_s: list[float] = field(default_factory=list)
    """Clock at which each was last drawn."""
    together: int = 0
    """Of so many, the first, ``values[0]`` holds the sum at the last look; their own are not drawn
    yet."""
    together_s: float = 0.0
    """How long that look lasted, over which the sum is the mean."""

    def observe(
        self,
        flicker: Flicker,
        written_s: Tensor,
        clock_s: float,
        seconds: float,
        bits: Fast,
    ) -> Fluctuation:
        """Return what an inference of ``seconds`` from ``clock_s`` on meets.

        ``frozen`` is the mean over this time: what fluctuates around it is ``open``. 0 seconds are
        one reading.

        Args:
            flicker: The spectrum.
            written_s: Clock at the last event of each device, float64.
            clock_s: When.
            seconds: How long.
            bits: What is drawn from.
        """
        first_s, last_s = (float(t) for t in written_s.aminmax())
        shared = first_s == last_s
        since = written_s.new_tensor(first_s) if shared else written_s
        age_s = (clock_s - since).float()
        variance = flicker.variance(age_s)
        open_ = variance - (age_s.clamp_min(AGE_FLOOR_S) / (2 * math.pi * SHORTEST_S)).log()
        frozen = torch.zeros_like(written_s, dtype=torch.float32)
        times_s = relaxation_times_s(clock_s - first_s)
        for _ in times_s[len(self.values) :]:
            self.values.append(torch.zeros_like(written_s, dtype=torch.float32))
            self.clocks_s.append(-math.inf)
        # What the youngest devices have by now, and had when each was last drawn.
        then_s = self.clocks_s[: len(times_s)]
        gaps = [max(0.0, clock_s - then) / tau for then, tau in zip(then_s, times_s, strict=True)]
        moved = [gap + seconds / tau > STILL for gap, tau in zip(gaps, times_s, strict=True)]
        least_now, least_then = _least(times_s, then_s, moved, clock_s, last_s)
        first = next((k for k, gap in enumerate(gaps[:QUICK]) if gap < FORGOTTEN), QUICK)
        self._part(first, times_s, bits)
        if first:
            shares = [_over(seconds / tau)[1] for tau in times_s[:first]]
            relax(bits, self.values[0], 0.0, _root(STEP * sum(shares)), frozen)
            self.clocks_s[:first] = [clock_s + seconds] * first
            self.together, self.together_s = first, seconds
            open_ = open_ + STEP * (first - sum(shares))
        for k, tau in enumerate(times_s[first:], first):
            gap, lasts = gaps[k], seconds / tau
            if not moved[k]:
                frozen += self.values[k]
                continue
            new: Tensor | float = least_now[k]
            old: Tensor | float = least_then[k]
            if not shared and new != STEP:
                new = relaxation_variance(tau, age_s)
            if not shared and old != STEP:
                old = relaxation_variance(tau, (self.clocks_s[k] - since).float())
            if lasts <= BRIEF:
                kept = math.exp(-gap)
                relax(bits, self.values[k], kept, _root(new - kept**2 * old), frozen)
                self.clocks_s[k] = clock_s
                continue
            # Mean and end of an Ornstein-Uhlenbeck process are jointly normal.
            (middle, share), end = _over(lasts), math.exp(-lasts)
            a, b = middle * math.exp(-gap), end * math.exp(-gap)
            of_mean, both = new * share - a**2 * old, new * middle - a * b * old
            if isinstance(of_mean, Tensor):  # 0 / 0 on devices too young to have it
                slope: Tensor | float = (both / of_mean).float().nan_to_num(0.0)
            else:
                slope = both / of_mean if of_mean else 0.0
            of_end = b - slope * a, _root(new - b**2 * old - slope * both), slope
            relax(bits, self.values[k], a, _root(of_mean), frozen, of_end)
            self.clocks_s[k] = clock_s + seconds
            open_ = open_ + new * (1 - share)
        return Fluctuation(frozen.div_(variance.sqrt()), open_ / variance)

    def _part(self, first: int, times_s: list[float], bits: Fast) -> None:
        """Draw apart what was drawn together, but for the ``first``, which are forgotten by now."""
        means = [_over(self.together_s / tau) for tau in times_s[: self.together]]
        left, whole = self.values[0], sum(share for _, share in means)
        for k in reversed(range(first, self.together)):
            # The mean of one, given the sum of all that are left; then its end, given its mean.
            middle, share = means[k]
            part, slope = share / whole, middle / share
            mean = left.clone()
            if k:
                spread = _root(STEP * share * (1 - part))
                relax(bits, mean, part, spread, torch.zeros_like(mean))
            left, whole = left - mean, whole - share
            if self.together_s:
                beside = _root(STEP * (1 - slope * middle))
                relax(bits, mean, slope, beside, torch.zeros_like(mean))
            self.values[k] = mean
        self.together = 0

    def renew(self, where: Tensor, bits: Fast) -> None:
        """Begin anew on the devices where the mask is true: they were just written."""
        count, young = int(where.sum()), torch.tensor(0.0, dtype=torch.float32)
        first_s = SHORTEST_S * math.sqrt(RATIO)
        for k, value in enumerate(self.values):
            variance = float(relaxation_variance(first_s * RATIO**k, young))
            if k < self.together:
                lasts = (self.together_s / (first_s * RATIO**n) for n in range(self.together))
                shares = (_over(one)[1] for one in lasts)
                variance = 0.0 if k else STEP * sum(shares)  # of their sum
            fresh = math.sqrt(variance) * normals(bits, 1, count).to(value.device)
            self.values[k] = value.masked_scatter(where, fresh)


def _least(
    times_s: list[float], then_s: list[float], moved: list[bool], clock_s: float, written_s: float
) -> list[list[float]]:
    """Return the variances of relaxations now and ``then_s``, of devices written at ``written_s``.

    Of those that have not ``moved`` it may say anything.
    """
    asked = ((tau, then) for tau, then, on in zip(times_s, then_s, moved, strict=True) if on)
    if all(min(then, clock_s) - written_s >= WHOLE * tau for tau, then in asked):
        return [[STEP] * len(times_s)] * 2
    looks_s = torch.tensor([[clock_s] * len(times_s), then_s], dtype=torch.float64)
    times = torch.tensor(times_s, dtype=torch.float64)
    both: list[list[float]] = relaxation_variance(times, looks_s - written_s).tolist()
    return both


def _over(lasts: float) -> tuple[float, float]:
    """Return what a value's mean over the next ``lasts`` relaxation times is, of the value.

    On average, and its variance.
    """
    if not lasts:
        return 1.0, 1.0
    middle = -math.expm1(-lasts) / lasts
    return middle, 2 * (1 - middle) / lasts


def _root(variance: Tensor | float) -> Tensor | float:
    """Return the deviation; of a variance that rounding made negative 0."""
    if isinstance(variance, Tensor):
        return variance.clamp_min(0).sqrt()
    return math.sqrt(max(0.0, variance))
