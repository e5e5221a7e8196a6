"""The settings of a modelled phase-change-memory chip."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

from snu_plugin.accelerator.pulses import CEILING_US

Fit = Literal["joshi2020", "hermes1", "hermes2", "nandakumar2018"]
Pulse = Literal["nandakumar2018", "linear"]
NoiseOf = Literal["target", "written"]
InputScaling = Literal["fixed", "absmax"]


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip; ``None`` means ideal, and the default of every effect is off.

    A variant of a preset is ``dataclasses.replace(PCM, adc_bits=6)``. The text under each field is
    what ``describe`` shows: meaning, [unit], source. Raises ``ValueError`` that names the field
    for a setting outside its range.

    >>> Chip(adc_bits=0)
    Traceback (most recent call last):
    ...
    ValueError: adc_bits is 0; it must be a whole number from 2 to 16, or None for ideal
    """

    name: str = "custom"
    """What reports call the chip."""

    # Devices: how they are written, drift and are read.
    fit: Fit | None = None
    """Measured statistics of writing, drift and read noise: model A (joshi2020), B (hermes1 or
    hermes2: one or two devices in parallel per polarity), C (nandakumar2018, written by
    pulses); None is exact. Source: Joshi et al., Nat. Commun. 11:2473, 2020; aihwkit 1.2.0
    HermesNoiseModel; Nandakumar et al., J. Appl. Phys. 124, 152135, 2018."""

    g_max_us: float = 25.0
    """Conductance of the largest weight on one device [µS]. Source: Joshi et al. 2020."""

    g_min_us: float = 0.0
    """Least conductance that is written, that of both devices of a weight of 0 [µS]. Source: 0,
    as aihwkit 1.2.0; an on/off ratio of 100 is 0.25: CrossSim, PCM_Joshi."""

    devices_per_weight: int = 2
    """Devices of a weight, half of them positive, filled one after the other; 1 is a device less
    a reference in the middle of the range, a column of devices beside those of each tile that is
    written, drifts and is read like them. Source: pair: Joshi et al. 2020; more: Boybat et al.,
    Nat. Commun. 9:2514, 2018; reference: ours."""

    significance: float = 1.0
    """How much more each further device of a polarity counts than the one before. Source: ours:
    1, all alike; form: aihwkit 1.2.0, several pairs with factors F_k."""

    programming_noise: float | None = 1.0
    """Factor on the fit's programming error. Source: ours: 1."""

    drift: float | None = 1.0
    """Factor on the fit's drift exponents. Source: ours: 1."""

    read_noise: float | None = 1.0
    """Factor on the fit's read noise. Source: ours: 1."""

    noise_of: NoiseOf = "target"
    """Conductance that sets the relative read noise Q_s of joshi2020 and the HERMES fits: the
    target, as published, or what was written, as coded in aihwkit; they differ on small ones.
    Source: https://github.com/IBM/aihwkit/issues/436."""

    verify: bool = True
    """Whether devices of nandakumar2018 are read and corrected while they are written; without,
    they get the pulses of the mean curve blindly. Source: ours."""

    verify_tolerance_us: float = 0.75
    """Program-verify stops this close to the target [µS]. Source: ours, about a pulse."""

    verify_iterations: int = 60
    """Readings after which program-verify gives a device up. Source: ours."""

    pulse: Pulse = "linear"
    """Response to a SET pulse: measured, scaled by g_max_us / 12 where fit is another model; or
    equal exact steps. Source: Nandakumar et al. 2018; scaling: ours."""

    pulse_step_us: float = 0.75
    """Size of a linear SET step [µS]. Source: srnn-pcm credits it to a measured pulse."""

    stuck_at_reset: float | None = None
    """Share of devices that stay at RESET. Source: off; fault model: ours."""

    stuck_at_set: float | None = None
    """Share of devices that stay at g_max_us. Source: off; fault model: ours."""

    stuck_at_random: float | None = None
    """Share of devices that stay anywhere in between. Source: off; fault model: ours."""

    # The array.
    tile_rows: int = 256
    """Inputs of one tile. Source: HERMES core, Khaddam-Aljameh et al., JSSC 2022."""

    tile_columns: int = 256
    """Outputs of one tile. Source: HERMES core."""

    tiles: int = 64
    """Tiles on the chip. Source: Le Gallo et al., Nat. Electron. 2023."""

    wire_ohm: float | None = None
    """Resistance of the wire from one cell of a column to the next, which makes voltage drop,
    reckoned with the current of G+ - G- [Ω]. Source: 0.35 and form: aihwkit 1.2.0."""

    voltage_offset: float | None = None
    """Standard deviation of the share of the read voltage that a column lacks, drawn once.
    Source: off; form: aihwkit 1.2.0."""

    # Converters.
    dac_bits: int | None = None
    """Bits of the input converter, sign included; inputs that are all 0 or 1 pass exactly
    [bit]. Source: 8: Rasch et al. 2023 (standard hardware-aware setting)."""

    dac_bound: float = 1.0
    """Largest input magnitude of the converter, in units of the input; with input_scaling
    absmax, of the scaled input. Source: aihwkit 1.2.0."""

    input_scaling: InputScaling = "fixed"
    """fixed: inputs go to the converter as they are; absmax: each input vector is divided by
    its largest magnitude first. Spikes are never scaled. Source: aihwkit 1.2.0."""

    bound_management: bool = False
    """Repeat a product with the input halved until no output saturates; every repeat is paid.
    Source: aihwkit 1.2.0, ITERATIVE."""

    adc_bits: int | None = None
    """Bits of the output converter, sign included [bit]. Source: 8: Rasch et al. 2023."""

    adc_bound: float = 10.0
    """Largest output of the converter, in inputs of 1 on weights of g_max_us. Source: Rasch et
    al. 2023."""

    output_noise: float | None = None
    """Standard deviation added before the output converter, in units of adc_bound. Source:
    0.04: Rasch et al. 2023."""

    output_nonlinearity: float | None = None
    """Bending k of the output, y / (1 + |k y|) with k this over adc_bound. Source: off; form:
    aihwkit 1.2.0."""

    adc_gain_spread: float | None = None
    """Standard deviation of each column's converter gain around 1, drawn once. Source: off;
    ours."""

    adc_offset_spread: float | None = None
    """Standard deviation of each column's converter offset, in units of adc_bound, drawn once.
    Source: off; ours."""

    # Time.
    step_ns: float = 133.0
    """Time of one product [ns]. Source: Le Gallo et al. 2023, one-phase read."""

    pulse_ns: float = 100.0
    """Time of one SET or RESET pulse, one device after the other [ns]. Source: ours."""

    def __post_init__(self) -> None:
        for name, accepted in ACCEPTED.items():
            value = getattr(self, name)
            if not accepted.holds(value):
                raise ValueError(f"{name} is {value!r}; it must be {accepted.words}")
        limit = CHARACTERISED_US.get(self.fit or "")
        if limit is not None and self.g_max_us > limit:
            raise ValueError(
                f"g_max_us is {self.g_max_us}; fit {self.fit} was measured up to {limit} µS"
            )
        if self.g_min_us >= self.g_max_us:
            raise ValueError(
                f"g_min_us is {self.g_min_us}; it must be below g_max_us, {self.g_max_us} µS"
            )
        stuck = sum(v or 0 for v in (self.stuck_at_reset, self.stuck_at_set, self.stuck_at_random))
        if stuck > 1:
            raise ValueError(
                f"stuck_at_reset, stuck_at_set and stuck_at_random add up to {stuck}; together "
                "they must be at most 1"
            )

    @property
    def per_polarity(self) -> int:
        """Devices of one polarity of a weight; 1 too for a device with a reference."""
        return max(1, self.devices_per_weight // 2)

    @property
    def has_reference(self) -> bool:
        """Whether a weight is one device less a reference column."""
        return self.devices_per_weight == 1

    @property
    def span_us(self) -> float:
        """What the largest weight of a scale group is in µS of G+ - G-."""
        return (self.g_max_us - self.g_min_us) / (2 if self.has_reference else 1)

    @property
    def pulse_scale(self) -> float:
        """Conductance of this chip's devices over that of those whose pulses were measured."""
        return 1.0 if self.fit == "nandakumar2018" else self.g_max_us / CEILING_US


CHARACTERISED_US = {"hermes1": 10.35, "hermes2": 20.7, "nandakumar2018": 20.0}
"""Largest conductance of a fit, µS: aihwkit 1.2.0; Nandakumar et al. 2018, fig. 5."""


def settings(chip: Chip) -> dict[str, object]:
    """Return every field of a chip by name, as JSON can hold it."""
    return {field.name: getattr(chip, field.name) for field in fields(chip)}


class Accepted(NamedTuple):
    """What a setting may be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _or_ideal(accepted: Accepted) -> Accepted:
    words = f"{accepted.words}, or None for ideal"
    return Accepted(words, lambda v: v is None or accepted.holds(v))


def _one_of(*options: object) -> Accepted:
    return Accepted(f"one of {', '.join(map(str, options))}", lambda v: v in options)


_POSITIVE = Accepted("a positive number", lambda v: _number(v) and v > 0)
_LEVEL = Accepted("a number of at least 0", lambda v: _number(v) and v >= 0)
_FACTOR = _or_ideal(_LEVEL)
_SHARE = _or_ideal(Accepted("a number from 0 to 1", lambda v: _number(v) and 0 <= v <= 1))
_COUNT = Accepted("a positive whole number", lambda v: _whole(v) and v > 0)
_BITS = _or_ideal(Accepted("a whole number from 2 to 16", lambda v: _whole(v) and 2 <= v <= 16))
_FLAG = Accepted("true or false", lambda v: isinstance(v, bool))

ACCEPTED: dict[str, Accepted] = {
    "name": Accepted("a text", lambda v: isinstance(v, str)),
    "fit": _one_of(*get_args(Fit), None),
    "g_max_us": _POSITIVE,
    "g_min_us": _LEVEL,
    "devices_per_weight": Accepted("1, 2, 4, 6 or 8", lambda v: _whole(v) and v in (1, 2, 4, 6, 8)),
    "significance": Accepted("a number of at least 1", lambda v: _number(v) and v >= 1),
    "programming_noise": _FACTOR,
    "drift": _FACTOR,
    "read_noise": _FACTOR,
    "noise_of": _one_of(*get_args(NoiseOf)),
    "verify": _FLAG,
    "verify_tolerance_us": _POSITIVE,
    "verify_iterations": _COUNT,
    "pulse": _one_of(*get_args(Pulse)),
    "pulse_step_us": _POSITIVE,
    "stuck_at_reset": _SHARE,
    "stuck_at_set": _SHARE,
    "stuck_at_random": _SHARE,
    "tile_rows": _COUNT,
    "tile_columns": _COUNT,
    "tiles": _COUNT,
    "wire_ohm": _FACTOR,
    "voltage_offset": _FACTOR,
    "dac_bits": _BITS,
    "dac_bound": _POSITIVE,
    "input_scaling": _one_of(*get_args(InputScaling)),
    "bound_management": _FLAG,
    "adc_bits": _BITS,
    "adc_bound": _POSITIVE,
    "output_noise": _FACTOR,
    "output_nonlinearity": _FACTOR,
    "adc_gain_spread": _FACTOR,
    "adc_offset_spread": _FACTOR,
    "step_ns": _POSITIVE,
    "pulse_ns": _POSITIVE,
}
"""What every field of ``Chip`` may be."""
