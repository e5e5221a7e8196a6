"""Devices written by closed-loop programming, as measured statistics: models A and B.

Conductances in µS, times in seconds. ``t`` is the time since the device was last written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.devices.flicker import Flicker
from snu_plugin.accelerator.devices.model import Cells, DeviceModel, Law, blank
from snu_plugin.accelerator.devices.pulses import Measured, Response
from snu_plugin.accelerator.devices.temperature import Climate
from snu_plugin.accelerator.noise import Streams, normal_like

Curve = Callable[[Tensor], Tensor]
"""A function of the relative conductance ``g = G / g_max``, element by element."""


@dataclass(frozen=True)
class Statistics:
    """Measured statistics of devices written by closed-loop programming (models A and B)."""

    t0_s: float
    """Age at which a device is first read, and from which it drifts."""
    t_read_s: float
    """Width of a read pulse."""
    g_ref_us: float
    """Largest conductance of the measured devices; the programming error scales with it."""
    programming_us: Curve
    """Standard deviation of the written conductance at ``g_ref_us``, µS."""
    nu_mean: Curve
    nu_sd: Curve
    """Mean and standard deviation of the normal whose magnitude is the drift exponent ν."""
    q: Curve
    """Relative 1/f read noise Q_s."""
    limit_us: float | None = None
    """Largest conductance of a chip that they hold for; ``None``: any."""
    written_us: Curve | None = None
    """Mean of the written conductance, µS, before it is held at 0; ``None``: the target."""


def _line(slope: float, offset: float, low: float, high: float) -> Curve:
    """Return ``clip(slope ln g + offset, low, high)``."""
    return lambda g: (slope * g.clamp_min(1e-7).log() + offset).clamp(low, high)


def _polynomial(*coefficients: float) -> Curve:
    """Return the polynomial in g, lowest power first, by Horner's rule."""

    def value(g: Tensor) -> Tensor:
        total = torch.full_like(g, coefficients[-1])
        for c in coefficients[-2::-1]:
            total = total * g + c
        return total

    return value


def _below(edge: float, low: Curve, high: Curve) -> Curve:
    """Return ``low`` where ``g < edge`` and ``high`` elsewhere."""
    return lambda g: torch.where(g < edge, low(g), high(g))


JOSHI2020 = Statistics(
    t0_s=20.0,
    t_read_s=250e-9,
    g_ref_us=25.0,
    programming_us=_polynomial(0.26348, 1.9650, -1.1731),
    nu_mean=_line(-0.0155, 0.0244, 0.049, 0.1),
    nu_sd=_line(-0.0125, -0.0059, 0.008, 0.045),
    q=lambda g: (0.0088 / (g.clamp_min(0) ** 0.65).clamp_min(1e-3)).clamp_max(0.2),
)
"""Model A: Joshi et al., Nat. Commun. 11:2473, 2020; Nandakumar et al., ICECS 2019."""

_HERMES_NU_MEAN = _below(
    0.0945, _line(-0.0387, -0.0182, 0.072, 0.13), _polynomial(0.0736, -0.0126, -0.0436)
)

HERMES1 = Statistics(
    t0_s=200.0,
    t_read_s=512e-9,
    g_ref_us=10.35,
    programming_us=_polynomial(0.15781817, 2.32443916, -2.16310839, 0.68841818),
    nu_mean=_HERMES_NU_MEAN,
    nu_sd=_below(
        0.3039, _line(-0.0120, -0.0023, 0.0124, 0.04), _polynomial(0.0104, 0.0116, -0.0165)
    ),
    q=_below(
        0.1591,
        _line(-0.0078, 0.0038, 0.0179, 0.04),
        _polynomial(0.0088, 0.0768, -0.1352, 0.0664),
    ),
    limit_us=10.35,
)
"""Model B, one device per polarity: aihwkit 1.2.0 ``HermesNoiseModel``."""

HERMES2 = Statistics(
    t0_s=300.0,
    t_read_s=512e-9,
    g_ref_us=20.7,
    programming_us=_polynomial(0.16603222, 4.71806468, -8.48101252, 4.68961419),
    nu_mean=_HERMES_NU_MEAN,
    nu_sd=_below(
        0.3055, _line(-0.0117, -0.0057, 0.0091, 0.04), _polynomial(0.0073, 0.0093, -0.0118)
    ),
    q=_below(
        0.16,
        _line(-0.0117, -0.0069, 0.015, 0.04),
        _polynomial(0.0123, 0.0211, -0.0280, 0.0069),
    ),
    limit_us=20.7,
)
"""Model B, two devices in parallel per polarity: aihwkit 1.2.0 ``HermesNoiseModel``."""


def write(target: Tensor, fit: Statistics, g_max_us: float, generator: Generator) -> Tensor:
    """Return conductances after writing: ``max(0, mean + N(0, σ_P))``, µS."""
    sigma = fit.programming_us(target / g_max_us) * (g_max_us / fit.g_ref_us)
    mean = target if fit.written_us is None else fit.written_us(target / g_max_us)
    return (mean + sigma * normal_like(target, generator)).clamp_min(0)


def drift_exponent(target: Tensor, fit: Statistics, g_max_us: float, deviate: Tensor) -> Tensor:
    """Return ``ν = |mean + sd deviate|`` of each device from its target, unitless.

    ``deviate`` holds standard normal numbers.
    """
    g = target / g_max_us
    return (fit.nu_mean(g) + fit.nu_sd(g) * deviate).abs()


class Statistical(DeviceModel):
    """Devices whose written conductance and ν are drawn from the target."""

    def __init__(self, chip: Chip, fit: Statistics) -> None:
        self.fit, self.limit_us = fit, fit.limit_us
        self.holds_at_s = self.writing_s = fit.t0_s
        self.noisy, self.spectrum = chip.read_noise is not None, Flicker(fit.t_read_s)
        super().__init__(chip)

    def written(
        self, target: Tensor, stuck_at: Tensor | None, clock_s: float, streams: Streams
    ) -> Cells:
        """Draw the written conductances and ν."""
        chip = self.chip
        cells, g = blank(target, clock_s), target.clone()
        if chip.programming_noise is not None:
            exact = write(target, self.fit, chip.g_max_us, streams["programming"])
            g = (target + chip.programming_noise * (exact - target)).clamp_min(0)
        if chip.drift is not None:
            deviate = normal_like(target, streams["drift"])
            nu = drift_exponent(target, self.fit, chip.g_max_us, deviate)
            cells = cells._replace(nu=chip.drift * nu.float())
            if chip.nu_after_set == "follows":
                cells = cells._replace(deviate=deviate)
        history = self.response.to_reach(g).float()
        q = self.relative_noise(target if chip.noise_of == "target" else g)
        return self.stick(cells._replace(g_us=g, q=q, history=history), stuck_at)

    def own_response(self) -> Response:
        """Return that of model C, scaled."""
        return Measured(self.chip, self.scale)

    def drift(self, cells: Cells, age_s: Tensor) -> Tensor:
        """Return ``g (t / t0)^-ν`` for ``t > t0``, else ``g``."""
        if self.chip.drift is None:
            return cells.g_us
        return cells.g_us * (cells.nu * -self._length(age_s)).exp_()

    def read_sigma(self, cells: Cells, g: Tensor, age_s: Tensor) -> Tensor:
        """Return ``|g| Q_s sqrt(ln((t + t_r) / (2 t_r)))``."""
        return (g.abs() * cells.q).mul_(self._spread(age_s).to(g))

    def law(self, age_s: Tensor, climate: Climate) -> Law | None:
        """Return the two, unless a temperature or a class derived from this one says otherwise."""
        own = type(self)
        if own.drift is not Statistical.drift or own.read_sigma is not Statistical.read_sigma:
            return None
        if self.chip.activation_ev is not None and not climate.steady:
            return None
        length = 0.0 if self.chip.drift is None else float(self._length(age_s))
        return Law(length, float(self._spread(age_s)))

    def _length(self, age_s: Tensor) -> Tensor:
        """Return ``ln(t / t0)``, float32: the ratio needs float64, its logarithm does not."""
        return (age_s / self.fit.t0_s).clamp_min(1).float().log()

    def _spread(self, age_s: Tensor) -> Tensor:
        """Return the deviation of a reading over ``g Q_s``."""
        return (self.chip.read_noise or 0.0) * Flicker(self.fit.t_read_s).variance(age_s).sqrt()

    def relative_noise(self, g: Tensor) -> Tensor:
        """Return Q_s of the fit."""
        return self.fit.q(g / self.chip.g_max_us).float()

    def written_sigma(self, target: Tensor) -> Tensor:
        """Return the programming error of the fit."""
        g_max = self.chip.g_max_us
        sigma = self.fit.programming_us(target / g_max) * g_max / self.fit.g_ref_us
        return sigma * (self.chip.programming_noise or 0)

    def exponents(self, target: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the curves of the fit."""
        factor, g = self.chip.drift, target / self.chip.g_max_us
        return (
            None if factor is None else (factor * self.fit.nu_mean(g), factor * self.fit.nu_sd(g))
        )


FITS = {
    "joshi2020": partial(Statistical, fit=JOSHI2020),
    "hermes1": partial(Statistical, fit=HERMES1),
    "hermes2": partial(Statistical, fit=HERMES2),
}
