"""The settings of a modelled phase-change-memory chip."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

Fit = Literal["joshi2020", "hermes1", "hermes2", "nandakumar2018"]
Pulse = Literal["nandakumar2018", "linear"]


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip; ``None`` means ideal, and the default of every effect is off.

    A variant of a preset is ``dataclasses.replace(PCM, adc_bits=6)``. Raises ``ValueError`` that
    names the field for a setting outside its range.

    >>> Chip(adc_bits=0)
    Traceback (most recent call last):
    ...
    ValueError: adc_bits is 0; it must be a whole number from 2 to 16, or None for ideal
    """

    name: str = "custom"
    """What reports call the chip."""

    fit: Fit | None = None
    """Measured statistics of writing, drift and read noise: model A of Joshi et al. 2020, B of
    HERMES with one or two devices, C of Nandakumar et al. 2018 (written by pulses). None: exact."""

    g_max_us: float = 25.0
    """Conductance of the largest weight, µS. Joshi et al., Nat. Commun. 11:2473, 2020."""

    programming_noise: float | None = 1.0
    """Factor on the fit's programming error; None writes every target exactly. Ours: 1."""

    drift: float | None = 1.0
    """Factor on the fit's drift exponents; None never drifts. Ours: 1."""

    read_noise: float | None = 1.0
    """Factor on the fit's read noise; None reads exactly. Ours: 1."""

    verify_tolerance_us: float = 0.75
    """Program-verify stops this close to the target, µS; read only where ``fit`` is
    nandakumar2018, whose devices are written by pulses. Ours, about one pulse."""

    verify_iterations: int = 60
    """Reads after which program-verify gives a device up; see ``verify_tolerance_us``. Ours."""

    pulse: Pulse = "linear"
    """Response to a SET pulse: the measured one of Nandakumar et al., J. Appl. Phys. 124, 152135,
    2018 (scaled by ``g_max_us / 12`` where ``fit`` is another model), or equal exact steps."""

    pulse_step_us: float = 0.75
    """Size of a linear SET step, µS. Same size as srnn-pcm credits to a measured pulse."""

    tile_rows: int = 256
    """Inputs of one tile. HERMES core, Khaddam-Aljameh et al., JSSC 2022."""

    tile_columns: int = 256
    """Outputs of one tile. HERMES core, as above."""

    tiles: int = 64
    """Tiles on the chip. Le Gallo et al., Nat. Electron. 2023."""

    dac_bits: int | None = None
    """Bits of the input converter, sign included; inputs that are all 0 or 1 pass exactly."""

    dac_bound: float = 1.0
    """Largest input magnitude of the converter, in the units of the input. aihwkit 1.2.0."""

    adc_bits: int | None = None
    """Bits of the output converter, sign included."""

    adc_bound: float = 10.0
    """Largest output of the converter, in inputs of 1 on weights of ``g_max_us``. aihwkit 1.2.0,
    standard hardware-aware preset."""

    output_noise: float | None = None
    """Standard deviation added before the output converter, units of ``adc_bound``."""

    step_ns: float = 133.0
    """Time of one product, ns. Le Gallo et al. 2023, one-phase read."""

    pulse_ns: float = 100.0
    """Time of one SET or RESET pulse, ns; devices are pulsed one after the other. Ours."""

    def __post_init__(self) -> None:
        for field, options in (("fit", (*get_args(Fit), None)), ("pulse", get_args(Pulse))):
            if getattr(self, field) not in options:
                raise ValueError(
                    f"{field} is {getattr(self, field)!r}; it must be one of "
                    f"{', '.join(map(str, options))}"
                )
        for field in ("g_max_us", "verify_tolerance_us", "pulse_step_us", "step_ns", "pulse_ns"):
            self._demand(field, "a positive number", lambda v: _number(v) and v > 0)
        for field in ("dac_bound", "adc_bound"):
            self._demand(field, "a positive number", lambda v: _number(v) and v > 0)
        for field in ("programming_noise", "drift", "read_noise", "output_noise"):
            self._demand(
                field,
                "a number of at least 0, or None for ideal",
                lambda v: v is None or (_number(v) and v >= 0),
            )
        for field in ("tile_rows", "tile_columns", "tiles", "verify_iterations"):
            self._demand(field, "a positive whole number", lambda v: _whole(v) and v > 0)
        for field in ("dac_bits", "adc_bits"):
            self._demand(
                field,
                "a whole number from 2 to 16, or None for ideal",
                lambda v: v is None or (_whole(v) and 2 <= v <= 16),
            )
        limit = CHARACTERISED_US.get(self.fit or "")
        if limit is not None and self.g_max_us > limit:
            raise ValueError(
                f"g_max_us is {self.g_max_us}; fit {self.fit} was measured up to {limit} µS"
            )

    def _demand(self, field: str, accepted: str, holds: object) -> None:
        value = getattr(self, field)
        if not holds(value):  # type: ignore[operator]
            raise ValueError(f"{field} is {value!r}; it must be {accepted}")


CHARACTERISED_US = {"hermes1": 10.35, "hermes2": 20.7, "nandakumar2018": 20.0}
"""Largest conductance of a fit, µS: aihwkit 1.2.0; Nandakumar et al. 2018, fig. 5."""


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def settings(chip: Chip) -> dict[str, object]:
    """Return every field of a chip by name, as JSON can hold it."""
    return {field.name: getattr(chip, field.name) for field in fields(chip)}


IDEAL = Chip(name="IDEAL")
"""Exact weights, no drift, no noise, no converters, equal exact pulses."""

PCM = Chip(
    name="PCM",
    fit="joshi2020",
    pulse="nandakumar2018",
    dac_bits=8,
    adc_bits=8,
    output_noise=0.04,
)
"""Written with the statistics of Joshi et al. 2020 (model A), pulsed with the step response of
Nandakumar et al. 2018 (model C) bridged by the ratio of their largest conductances."""

PCM_PULSED = Chip(
    name="PCM_PULSED",
    fit="nandakumar2018",
    g_max_us=12.0,
    pulse="nandakumar2018",
    dac_bits=8,
    adc_bits=8,
    output_noise=0.04,
)
"""Nandakumar et al. 2018 (model C) for its whole life, first writing included."""

HERMES = Chip(
    name="HERMES",
    fit="hermes2",
    g_max_us=20.7,
    pulse="nandakumar2018",
    dac_bits=8,
    adc_bits=8,
    output_noise=0.04,
)
"""Written with the two-device HERMES fit (model B, aihwkit 1.2.0), pulsed as ``PCM`` is."""

CHIPS = {chip.name: chip for chip in (IDEAL, PCM, PCM_PULSED, HERMES)}
"""The presets by name."""
