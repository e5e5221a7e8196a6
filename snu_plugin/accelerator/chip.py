"""The settings of a modelled phase-change-memory chip."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import wraps
from typing import Any, Literal, NamedTuple

from snu_plugin.accelerator.devices import from_dict, maker, named
from snu_plugin.accepted import (
    COUNT,
    LEVEL,
    POSITIVE,
    TEXT,
    UNIT,
    Accepted,
    by_known_names,
    is_number,
    is_whole,
    one_of,
    or_ideal,
    shown,
)


class Named(NamedTuple):
    """One of the names in a table of the models of devices; see ``devices.named``."""

    table: str

    @property
    def words(self) -> str:
        """Return the names; the models cannot be asked before there are chips."""
        return f"one of {', '.join(map(str, named(self.table)))}"

    def holds(self, value: Any) -> bool:
        """Return whether there is such a model."""
        return value in tuple(named(self.table))


class Device(NamedTuple):
    """A model of the devices: a name, or the model itself."""

    @property
    def words(self) -> str:
        """Return the names."""
        return f"{Named('FITS').words}, DeviceTables, or a class derived from DeviceModel"

    def holds(self, value: Any) -> bool:
        """Return whether there is such a model."""
        try:
            maker(value)
        except LookupError:
            return False
        return True


class About(NamedTuple):
    """What is said of a setting."""

    accepted: Accepted | Named | Device
    unit: str
    meaning: str
    source: str


def setting(
    default: Any, accepted: Accepted | Named | Device, unit: str, meaning: str, source: str = ""
) -> Any:
    """Return a field of ``Chip``; ``about`` gives back what is said of it here."""
    return field(default=default, metadata={"about": About(accepted, unit, meaning, source)})


FACTOR = or_ideal(LEVEL)
SHARE = or_ideal(Accepted("a number from 0 to 1", UNIT.holds))
BITS = or_ideal(Accepted("a whole number from 2 to 16", lambda v: is_whole(v) and 2 <= v <= 16))
PER_WEIGHT = Accepted("1, 2, 4, 6 or 8", lambda v: is_whole(v) and v in (1, 2, 4, 6, 8))
AT_LEAST_1 = Accepted("a number of at least 1", lambda v: is_number(v) and v >= 1)
DEVICE = Device()
LIFETIME = or_ideal(AT_LEAST_1)
FLAG = Accepted("true or false", lambda v: isinstance(v, bool))


OLD_NAMES = {"fit": "device"}
"""What settings were called once; whoever gives one by its old name means the new one."""


def with_new_names(given: dict[str, Any]) -> dict[str, Any]:
    """Return settings under the names of today, with what the old ones meant.

    ``fit`` said nothing of pulses: without ``pulse`` they were linear.
    """
    if "fit" in given:
        given = {"pulse": "linear"} | given
    return given | {new: given[old] for old, new in OLD_NAMES.items() if old in given}


def _by_old_names_too(made: type[Chip]) -> type[Chip]:
    """Let a class be made, and ``dataclasses.replace`` change it, by the old names as well."""
    by_fields = made.__init__

    @wraps(by_fields)
    def by_names(self: Chip, **given: Any) -> None:
        new = with_new_names(given)
        if isinstance(device := new.get("device"), dict):  # as ``settings`` gives it
            new["device"] = from_dict(device)
        by_fields(self, **{name: value for name, value in new.items() if name not in OLD_NAMES})

    made.__init__ = by_names  # type: ignore[method-assign]
    return made


@_by_old_names_too
@by_known_names
@dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip; ``None`` means ideal, and the default of every effect is off.

    A variant of a preset is ``dataclasses.replace(PCM, adc_bits=6)``. Each field says its
    default, what it may be, unit, meaning and source; ``describe`` shows them. Raises
    ``ValueError`` that names the field for a setting outside its range.

    >>> Chip(adc_bits=0)
    Traceback (most recent call last):
    ...
    ValueError: adc_bits is 0; it must be a whole number from 2 to 16, or None for ideal
    """

    # fmt: off
    name: str = setting("custom", TEXT, "", "What reports call the chip")

    # Devices: how they are written, drift and are read.
    device: Any = setting(None, DEVICE, "",
        "What its devices do, written, aged, read and pulsed: model A (joshi2020), B (hermes1 or "
        "hermes2: one or two devices in parallel per polarity), C (nandakumar2018, written by "
        "pulses), soft_bounds, exponential, wan2022 (docs/own_device.md), or one of your own: a "
        "table [device] or its file in TOML; None is exact. Once called fit",
        "Joshi et al., Nat. Commun. 11:2473, 2020; aihwkit 1.2.0 HermesNoiseModel; Nandakumar et "
        "al., J. Appl. Phys. 124, 152135, 2018")
    g_max_us: float = setting(25.0, POSITIVE, "µS",
        "Conductance of the largest weight on one device", "Joshi et al. 2020")
    g_min_us: float = setting(0.0, LEVEL, "µS",
        "Least conductance that is written, that of both devices of a weight of 0",
        "0, as aihwkit 1.2.0; an on/off ratio of 100 is 0.25: CrossSim, PCM_Joshi")
    devices_per_weight: int = setting(2, PER_WEIGHT, "",
        "Devices of a weight, half of them positive, filled one after the other; 1 is a device "
        "less a reference in the middle of the range, a column of devices beside those of each "
        "tile that is written, drifts and is read like them",
        "pair: Joshi et al. 2020; more: Boybat et al., Nat. Commun. 9:2514, 2018; reference: ours")
    significance: float = setting(1.0, AT_LEAST_1, "",
        "How much more each further device of a polarity counts than the one before",
        "ours: 1, all alike; form: aihwkit 1.2.0, several pairs with factors F_k")
    programming_noise: float | None = setting(1.0, FACTOR, "",
        "Factor on the programming error", "ours: 1")
    drift: float | None = setting(1.0, FACTOR, "", "Factor on the drift exponents", "ours: 1")
    read_noise: float | None = setting(1.0, FACTOR, "", "Factor on the read noise", "ours: 1")
    noise_of: Literal["target", "written"] = setting("target", one_of("target", "written"), "",
        "Conductance that sets the relative read noise Q_s of joshi2020 and the HERMES fits: the "
        "target, as published, or what was written, as coded in aihwkit; they differ on small ones",
        "https://github.com/IBM/aihwkit/issues/436")
    nu_after_set: Literal["keeps", "follows", "draws"] = setting("keeps",
        one_of("keeps", "follows", "draws"), "",
        "What a SET pulse does to the drift exponent of a device written by statistics (joshi2020, "
        "the HERMES fits): keeps it; makes it follow the conductance, as far from the mean as "
        "before; or draws a new one. A RESET always begins a new one, that of the conductance to "
        "which SET pulses then lead",
        "ours: not known, not calibrated")
    verify: bool = setting(True, FLAG, "",
        "Whether devices of nandakumar2018 are read and corrected while they are written; "
        "without, they get the pulses of the mean curve blindly", "ours")
    verify_tolerance_us: float = setting(0.75, POSITIVE, "µS",
        "Program-verify stops this close to the target", "ours, about a pulse")
    verify_iterations: int = setting(60, COUNT, "",
        "Readings after which program-verify gives a device up", "ours")
    pulse: str = setting("own", Named("PULSES"), "",
        "Response to a SET pulse: that of the device itself; nandakumar2018, measured, scaled by "
        "g_max_us / 12 onto other devices; or linear, equal exact steps",
        "Nandakumar et al. 2018; scaling: ours")
    pulse_step_us: float = setting(0.75, POSITIVE, "µS", "Size of a linear SET step",
        "srnn-pcm credits it to a measured pulse")
    stuck_at_reset: float | None = setting(None, SHARE, "", "Share of devices that stay at RESET",
        "off; fault model: ours")
    stuck_at_set: float | None = setting(None, SHARE, "", "Share of devices that stay at g_max_us",
        "off; fault model: ours")
    stuck_at_random: float | None = setting(None, SHARE, "",
        "Share of devices that stay anywhere in between", "off; fault model: ours")
    endurance: float | None = setting(None, LIFETIME, "pulses",
        "Mean number of SET and RESET pulses after which a device stays for ever where it then "
        "stands; each pulse is its last with probability 1 / endurance. Writing by statistics, "
        "whose pulses are not known, wears nothing in program()",
        "off; form: ours, not calibrated")
    sticking: float | None = setting(None, FACTOR, "1/y",
        "Rate at which devices stick: one that does stays for ever where it then stands, and no "
        "pulse moves it. Each has its time drawn once; a wait takes those whose time has come",
        "off; form: ours, not calibrated")
    stopping: float | None = setting(None, FACTOR, "1/y",
        "Rate at which devices stop: the same, at the conductance after a RESET",
        "off; form: ours, not calibrated")
    activation_ev: float | None = setting(None, FACTOR, "eV",
        "Activation energy of the conductance of a device at 0, falling in a straight line to 0 at "
        "g_max_us: what Accelerator.set_temperature does to a chip, and to how fast it relaxes; "
        "without, temperature changes nothing",
        "off; form: Arrhenius, Ielmini et al., Appl. Phys. Lett. 92, 193511, 2008; how it depends "
        "on the conductance: ours; not calibrated")

    # The array.
    tile_rows: int = setting(256, COUNT, "", "Inputs of one tile",
        "HERMES core, Khaddam-Aljameh et al., JSSC 2022")
    tile_columns: int = setting(256, COUNT, "", "Outputs of one tile", "HERMES core")
    tiles: int = setting(64, COUNT, "", "Tiles on the chip", "Le Gallo et al., Nat. Electron. 2023")
    open_rows: float | None = setting(None, SHARE, "",
        "Share of the word lines of a tile that are open, drawn once: what they would drive adds "
        "nothing to a product, and reads as 0", "off; fault model: ours")
    open_columns: float | None = setting(None, SHARE, "",
        "Share of the bit lines of a tile that are open, drawn once: none of their devices is "
        "seen, their converters work on", "off; fault model: ours")
    dead_tiles: float | None = setting(None, SHARE, "",
        "Share of tiles that fail as a whole, drawn once: they give 0 and are not converted",
        "off; fault model: ours")
    wire_ohm: float | None = setting(None, FACTOR, "Ω",
        "Resistance of the wire from one cell of a column to the next, which makes voltage drop, "
        "reckoned with the current of G+ - G-", "0.35 and form: aihwkit 1.2.0")
    voltage_offset: float | None = setting(None, FACTOR, "",
        "Standard deviation of the share of the read voltage that a column lacks, drawn once",
        "off; form: aihwkit 1.2.0")

    # Converters.
    dac_bits: int | None = setting(None, BITS, "bit",
        "Bits of the input converter, sign included; inputs that are all 0 or 1 pass exactly",
        "8: Rasch et al. 2023 (standard hardware-aware setting)")
    dac_bound: float = setting(1.0, POSITIVE, "",
        "Largest input magnitude of the converter, in units of the input, for which it gives a "
        "full read pulse, as a spike is one; with input_scaling absmax, of the scaled input",
        "aihwkit 1.2.0; that other ends give a full pulse, too: ours")
    input_scaling: Literal["fixed", "absmax"] = setting("fixed", one_of("fixed", "absmax"), "",
        "fixed: inputs go to the converter as they are; absmax: each input vector is divided by "
        "its largest magnitude first. Spikes are never scaled", "aihwkit 1.2.0")
    bound_management: bool = setting(False, FLAG, "",
        "Repeat a product with the input halved until no output saturates; every repeat is paid",
        "aihwkit 1.2.0, ITERATIVE")
    skip_idle: bool = setting(True, FLAG, "",
        "Whether a tile none of whose rows is driven in a step is left out of it, and a column "
        "that holds zeros alone always: it gives 0, adds no noise and takes no energy but leakage, "
        "of which no number is known; without, every tile is converted at every step",
        "ours: assumes a controller that skips idle tiles")
    input_nonlinearity: float | None = setting(None, FACTOR, "",
        "Bending k of what the input converter gives, x / (1 + |k x|) with x in full read pulses; "
        "spikes pass exactly", "off; form: that of output_nonlinearity, aihwkit 1.2.0; ours here")
    dac_offset_spread: float | None = setting(None, FACTOR, "",
        "Standard deviation of each row's input converter offset, in full read pulses, drawn "
        "once; rows that an input of 0 leaves undriven, and spikes, have none", "off; ours")
    adc_bits: int | None = setting(None, BITS, "bit", "Bits of the output converter, sign included",
        "8: Rasch et al. 2023")
    adc_bound: float = setting(10.0, POSITIVE, "",
        "Largest output of the converter, in full read pulses on weights of g_max_us",
        "Rasch et al. 2023")
    output_noise: float | None = setting(None, FACTOR, "",
        "Standard deviation added before the output converter, in full read pulses on weights of "
        "g_max_us, as adc_bound is",
        "0.04: Rasch et al. 2023")
    output_nonlinearity: float | None = setting(None, FACTOR, "",
        "Bending k of the output, y / (1 + |k y|) with k this over adc_bound",
        "off; form: aihwkit 1.2.0")
    adc_gain_spread: float | None = setting(None, FACTOR, "",
        "Standard deviation of each column's converter gain around 1, drawn once", "off; ours")
    adc_offset_spread: float | None = setting(None, FACTOR, "",
        "Standard deviation of each column's converter offset, in full read pulses on weights of "
        "g_max_us, as adc_bound is, drawn once", "off; ours")

    # Time.
    step_ns: float = setting(133.0, POSITIVE, "ns", "Time of one product",
        "Le Gallo et al. 2023, one-phase read")
    pulse_ns: float = setting(100.0, POSITIVE, "ns",
        "Time of one SET or RESET pulse, one device after the other", "ours")
    # fmt: on

    def __post_init__(self) -> None:
        for name, said in about().items():
            value = getattr(self, name)
            if not said.accepted.holds(value):
                raise ValueError(f"{name} is {shown(value)}; it must be {said.accepted.words}")
        maker(self.device)(self)  # refuses what was not measured
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
    def fit(self) -> Any:
        """What ``device`` was called once."""
        return self.device

    @property
    def per_polarity(self) -> int:
        """Devices of one polarity of a weight; 1 too for a device with a reference.

        >>> Chip(devices_per_weight=4).per_polarity
        2
        """
        return max(1, self.devices_per_weight // 2)

    @property
    def has_reference(self) -> bool:
        """Whether a weight is one device less a reference column.

        >>> Chip(devices_per_weight=1).has_reference
        True
        """
        return self.devices_per_weight == 1

    @property
    def span_us(self) -> float:
        """What the largest weight of a scale group is in µS of G+ - G-.

        >>> Chip(g_max_us=25.0).span_us, Chip(g_max_us=25.0, devices_per_weight=1).span_us
        (25.0, 12.5)
        """
        return (self.g_max_us - self.g_min_us) / (2 if self.has_reference else 1)

    @property
    def pulse_scale(self) -> float:
        """Conductance of this chip's devices over that of those whose pulses were measured.

        >>> from dataclasses import replace
        >>> from snu_plugin.accelerator import PCM
        >>> replace(PCM, g_max_us=50.0).pulse_scale / PCM.pulse_scale
        2.0
        """
        scale: float = maker(self.device)(self).scale
        return scale

    def check_named(self) -> None:
        """Raise ``ValueError`` if its device is a class, which no file can hold.

        >>> Chip().check_named()
        """
        if isinstance(self.device, type):
            raise ValueError(
                f"chip {self.name} has a device without a name, {self.device.__name__}, which no "
                "file can hold; register it as an entry point of snu_plugin.devices and give its "
                "name"
            )


def about() -> dict[str, About]:
    """Return what is said of every field of ``Chip``."""
    return {one.name: one.metadata["about"] for one in fields(Chip)}


def settings(chip: Chip) -> dict[str, object]:
    """Return every field of a chip by name, as JSON can hold it."""
    held = {one.name: getattr(chip, one.name) for one in fields(chip)}
    if isinstance(chip.device, type):
        held["device"] = chip.device.__name__
    elif not isinstance(chip.device, str | None):
        held["device"] = chip.device.to_dict()
    return held
