"""What a chip holds: devices, clock, digital values, streams of random numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from snu_plugin.accelerator import noise
from snu_plugin.accelerator.beside import factors
from snu_plugin.accelerator.devices.flicker import Fluctuation, SlowNoise
from snu_plugin.accelerator.devices.model import Cells, DeviceModel, device_model
from snu_plugin.accelerator.devices.temperature import STEADY, Climate
from snu_plugin.accelerator.energy import Spent
from snu_plugin.accelerator.program import Neurons, Product, Program
from snu_plugin.accelerator.variability import (
    Columns,
    Ends,
    draw_columns,
    draw_drivers,
    draw_ends,
    reaches,
)
from snu_plugin.accepted import shown
from snu_plugin.schedule import WiringState

CPU = torch.device("cpu")


@dataclass(eq=False, repr=False)
class ChipState:
    """The whole state of a chip; inference, calibration and checkpoint are functions on it.

    ``ChipState(program, seed)`` is a chip that was never written.
    """

    program: Program
    seed: int
    clock_s: float = 0.0
    written_s: float | None = None
    """Clock at which the chip was programmed; ``None``: it holds no weights."""
    pulses: int = 0
    """SET and RESET pulses so far."""
    turn: int = 0
    """Which device of a polarity the next pulses go to."""
    cells: dict[str, Cells] = field(default_factory=dict)
    """The devices of each crossbar; ``hold`` changes them."""
    slow: dict[str, SlowNoise] = field(default_factory=dict)
    """What their read noise keeps from one reading to the next."""
    baseline: dict[str, Tensor] = field(default_factory=dict)
    """Magnitudes that calibration by ``mean`` compares with; see ``calibration.baseline``."""

    climate: Climate = STEADY
    """The temperatures it went through."""
    spent: dict[str, Spent] = field(default_factory=dict)
    """What was spent, by the operation it was spent on."""

    def __post_init__(self) -> None:
        self.models: dict[str, DeviceModel] = {}
        self.streams, self.columns, self.drivers = {}, {}, {}
        self.reach = reaches(self.program, self.seed)
        self.ends: dict[str, Ends | None] = {}
        self.output_bits, self.flicker_bits = {}, {}
        device = self.program.device
        for name, op in self.program.products.items():
            self.models[name] = device_model(op.chip)
            self.streams[name] = noise.generators(self.seed, name)
            self.output_bits[name] = noise.fast_stream(self.seed, "output", name, device)
            self.flicker_bits[name] = noise.fast_stream(self.seed, "flicker", name, device)
            shape = op.layout.shape(op.weight.shape)
            ends = draw_ends(shape, op.chip, noise.generator(self.seed, "ends", name))
            self.ends[name] = None if ends is None else Ends(*(part.to(device) for part in ends))
            stream = noise.generator(self.seed, "columns", name)
            stream_of_rows = noise.generator(self.seed, "row drivers", name)
            drivers = draw_drivers(op, stream_of_rows)
            self.drivers[name] = None if drivers is None else drivers.to(device)
            drawn = (draw_columns(len(op.weight), op.chip, stream) for _ in op.row_blocks)
            self.columns[name] = tuple(
                None if own is None else Columns(*(part.to(device) for part in own))
                for own in drawn
            )
        self.neurons: tuple[WiringState, int] | None = None
        """Where the last run left the neurons, and of how many sequences."""
        self.forget()

    def to(self, device: torch.device) -> ChipState:
        """Return the same chip on another device; itself where it is there.

        Devices, clock and what is drawn for devices stay what they are. Streams that draw on the
        device itself, of noise on outputs and of what devices' noise does in time, begin anew,
        seeded by the next number of the old one. Neurons that a run left are not kept.
        """
        if device == self.program.device:
            return self

        def there(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.to(device) for name, value in values.items()}

        new = replace(
            self,
            program=self.program.to(device),
            cells={
                n: Cells(*(part.to(device) for part in cells)) for n, cells in self.cells.items()
            },
            slow={
                n: replace(
                    slow,
                    values=[value.to(device) for value in slow.values],
                    clocks_s=list(slow.clocks_s),
                )
                for n, slow in self.slow.items()
            },
            baseline=there(self.baseline),
            spent=dict(self.spent),
        )
        new.registers, new.holds = there(self.registers), there(self.holds)
        new.remembered = there(self.remembered)
        for name, streams in self.streams.items():
            for effect, stream in streams.items():
                new.streams[name][effect].set_state(stream.get_state())
            new.output_bits[name] = noise.moved_stream(self.output_bits[name], device)
            new.flicker_bits[name] = noise.moved_stream(self.flicker_bits[name], device)
        return new

    def standing(self, batch: int) -> WiringState:
        """Return where the last run left the neurons.

        Raises:
            ValueError: If there was none since the chip was made or loaded, or one of another
                number of sequences.
        """
        if self.neurons is None:
            raise ValueError(
                "no run left neurons to go on from; begin the sequences with carry=False"
            )
        neurons, before = self.neurons
        if before != batch:
            raise ValueError(
                f"the last run left the neurons of {before} sequences, this one has {batch}; begin "
                "others with carry=False"
            )
        return neurons

    def forget(self) -> None:
        """Set digital values and remembered weights to those of the graph."""
        self.registers: dict[str, Tensor] = {}
        for name, op in self.program.ops.items():
            if isinstance(op, Product):
                gain = op.weight.new_ones(len(op.weight), dtype=torch.float32)
                self.registers[f"{name}.gain"] = gain
                if len(op.row_blocks) > 1:
                    parts = gain.new_ones(len(op.row_blocks), len(op.weight))
                    self.registers[f"{name}.tile_gain"] = parts
                if op.bias is not None:
                    self.registers[f"{name}.bias"] = op.bias.clone()
            elif isinstance(op, Neurons) and op.euler.threshold is not None:
                self.registers[f"{name}.threshold"] = op.euler.threshold.clone()
        self.holds = {n: op.holds.clone() for n, op in self.program.products.items()}
        self.remembered = {n: op.weight.float() for n, op in self.program.products.items()}
        self.baseline = {}

    def fill(self, name: str, moved: Tensor) -> None:
        """Take note that weights ``(out, in)`` were moved: their columns hold something now."""
        blocks = self.program.products[name].row_blocks
        self.holds[name] |= torch.stack([moved[:, a:b].any(1) for a, b in blocks])

    def programmed_s(self) -> float:
        """Return the clock at which the chip was programmed, or raise ``RuntimeError``."""
        if self.written_s is None:
            raise RuntimeError("the chip holds no weights yet; call program() first")
        return self.written_s

    def hold(self, name: str, cells: Cells, moved: Tensor | None = None) -> None:
        """Take the devices of a crossbar as an event left them, all written or some ``moved``."""
        before = self.cells.get(name)
        pulses = cells.sets + cells.resets
        if moved is not None and before is not None:
            pulses = pulses - before.sets - before.resets
        self.cells[name] = self.models[name].wear(cells, pulses, self.streams[name]["wear"])
        if moved is None:
            self.slow[name] = SlowNoise()
        else:
            self.slow[name].renew(moved & ~cells.stuck, self.flicker_bits[name])

    def pass_time(self, seconds: float) -> None:
        """Let the clock run on; devices whose time has come stick or stop."""
        self.clock_s += seconds
        for name, cells in self.cells.items():
            ends = self.ends[name]
            if ends is None:
                continue
            due = (ends.clock_s <= self.clock_s) & ~cells.stuck
            if not bool(due.any()):
                continue
            model = self.models[name]
            # Where it stood at that moment; one written since then could not move any more.
            age_s = (ends.clock_s - cells.t_s).clamp_min(model.holds_at_s)
            if model.chip.activation_ev is not None and not self.climate.steady:
                moment_s = cells.t_s + age_s
                age_s = self.climate.drift_age_s(cells.t_s, moment_s, model.holds_at_s)
            level = torch.full_like(cells.g_us, model.response.floor_us)
            level = level.where(ends.stops, model.drift(cells, age_s))
            self.cells[name] = model.stick(cells, level.where(due, torch.nan))._replace(
                stuck=cells.stuck | due,
            )

    def change_temperature(self, kelvin: float) -> None:
        """Warm or cool the chip, which takes no time but a new moment of its clock."""
        # What was written at this very moment was written before.
        self.clock_s = math.nextafter(self.clock_s, math.inf)
        self.climate = self.climate.then(self.clock_s, float(kelvin))

    def fluctuation(self, name: str, seconds: float = 0.0) -> Fluctuation | None:
        """Return the read noise that an inference of ``seconds`` from now on meets.

        ``None`` where nothing of it goes on in time.
        """
        model = self.models[name]
        if model.spectrum is None or not model.noisy:
            return None
        written_s, bits = self.cells[name].t_s, self.flicker_bits[name]
        return self.slow[name].observe(model.spectrum, written_s, self.clock_s, seconds, bits)

    def gain(self, name: str) -> Tensor:
        """Return the factor on each output of every row of tiles, ``(rows of tiles, out)``."""
        gain = self.registers[f"{name}.gain"][None]
        parts = self.registers.get(f"{name}.tile_gain")
        return gain if parts is None else parts * gain

    def gain_of_weights(self, name: str) -> Tensor:
        """Return the digital factor on each weight, ``(out, in)``."""
        blocks, gain = self.program.products[name].row_blocks, self.gain(name)
        own = zip(gain, blocks, strict=True)
        return torch.cat([g[:, None].expand(-1, end - first) for g, (first, end) in own], 1)

    def by_node(self, name: str, value: Tensor) -> Product:
        """Return the crossbar of which ``value`` has one value per weight, else raise.

        It is ``(out, in)`` or of the graph's shape.
        """
        check_values(name, value)
        products = self.program.products
        op = products.get(name)
        if op is None or value.shape not in (op.weight.shape, op.geometry.shape):
            known = ", ".join(f"{n} {op.geometry.shape}" for n, op in products.items())
            raise ValueError(
                f"no crossbar {name} of shape {tuple(value.shape)}; the chip has {known}"
            )
        return op

    def read(self, name: str) -> Tensor:
        """Return one noisy reading of every device of a crossbar, µS float64; takes no time."""
        fluctuation = self.fluctuation(name)
        bits = self.streams[name]["read"] if fluctuation is None else self.flicker_bits[name]
        return self.models[name].read(
            self.cells[name], self.clock_s, bits, fluctuation, self.climate
        )

    def set_registers(self, values: Mapping[str, Tensor]) -> None:
        """Replace digital values; raises ``ValueError`` and takes none if one does not fit."""
        taken = {}
        for name, value in values.items():
            check_values(name, value)
            held = self.registers.get(name)
            if held is None or held.shape != value.shape:
                known = ", ".join(f"{n} {tuple(v.shape)}" for n, v in self.registers.items())
                raise ValueError(
                    f"no register {name} of shape {tuple(value.shape)}; the chip has {known}"
                )
            if not bool(value.isfinite().all()):
                raise ValueError(f"register {name} would hold values that are not finite")
            taken[name] = value.detach().clone().to(held)
        self.registers |= taken

    def set_adapter(self, name: str, rank: int) -> None:
        """Put an adapter of zeros beside a crossbar; rank 0 takes it away."""
        op = self.program.products.get(name)
        if op is None:
            known = ", ".join(self.program.products)
            raise ValueError(f"no node {name!r} with weights; the chip has {known}")
        most = min(op.weight.shape)
        if not isinstance(rank, int) or not 0 <= rank <= most:
            raise ValueError(
                f"rank is {shown(rank)}; beside {name!r} of shape {tuple(op.weight.shape)} it must "
                f"be a whole number from 1 to {most}, or 0 for no adapter"
            )
        made = {}
        if rank:
            try:
                into, out = factors(op.geometry, rank)
            except ValueError as error:
                raise ValueError(f"no adapter beside {name!r}: {error}") from error
            for field, shape in (("in", into.shape), ("out", out.shape)):
                zeros = op.weight.new_zeros(shape, dtype=torch.float32).flatten(1)
                made[f"{name}.adapter_{field}"] = zeros
        for field in ("in", "out"):
            self.registers.pop(f"{name}.adapter_{field}", None)
        self.registers |= made

    def charge(self, operation: str, spent: Spent) -> None:
        """Book what one operation took; its time has passed already."""
        self.spent[operation] = self.spent.get(operation, Spent()).plus(spent)

    def spend(self, name: str, pulses: int) -> None:
        """Count pulses on devices of a crossbar and take their time."""
        self.pulses += pulses
        self.clock_s += pulses * self.program.chips[name].pulse_ns * 1e-9


def check_values(name: str, value: object) -> None:
    """Refuse what is no tensor of real numbers."""
    if not isinstance(value, Tensor) or value.is_complex():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} is given {kind}; give a tensor of real numbers")


def checked_device(device: str | torch.device) -> torch.device:
    """Return a device on which chips can be computed.

    Raises:
        ValueError: For another kind of device, or one that is not here.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {shown(device)}; it must be 'cpu' or 'cuda'") from error
    if found.type == "cpu":
        return CPU
    if found.type != "cuda":
        raise ValueError(
            f"device is {str(found)!r}; chips are computed on 'cpu' or 'cuda', since their devices "
            "need float64"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = torch.cuda.current_device() if found.index is None and count else found.index or 0
    if number >= count:
        raise ValueError(
            f"device is {str(found)!r}; torch sees {count} NVIDIA GPUs here, give "
            f"{'cpu' if not count else f'cuda:0 to cuda:{count - 1}'!r}"
        )
    return torch.device("cuda", number)
