"""The modelled chip: program it, let it age, run it, read it, pulse it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snu_plugin.accelerator import (
    calibration,
    checkpoint,
    columns,
    crossbar,
    devices,
    faults,
    given,
    inference,
    noise,
    pcm,
    probing,
    synapse,
)
from snu_plugin.accelerator.calibration import Method, Scope
from snu_plugin.accelerator.crossbar import Crossbar
from snu_plugin.accelerator.devices import Cells
from snu_plugin.accelerator.program import Product, Program
from snu_plugin.accelerator.trace import Trace


class Accelerator:
    """A chip with a network on it.

    One clock in seconds runs from ``program``; runs, readings, pulses and waiting advance it, and
    nothing ages unless it moved. The same seed gives the same chip.

    Args:
        program: What ``snu_plugin.compiler.compile`` made.
        seed: Seed of all random effects of this chip, 0 or more; ``Batch`` takes several.
    """

    def __init__(self, program: Program, seed: int = 0) -> None:
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(
                f"seed is {seed!r}; it must be a whole number of at least 0 (several chips: Batch)"
            )
        self.layout = program
        self.seed = seed
        self.clock_s = 0.0
        self.programmed_s: float | None = None
        self.pulses = 0
        self.turn = 0
        self.streams = {
            name: {effect: noise.generator(seed, effect, name) for effect in noise.EFFECTS}
            for name in program.products
        }
        self.output_bits = {name: noise.output_bits(seed, name) for name in program.products}
        self._columns = {
            name: self._drawn_columns(name, op) for name, op in program.products.items()
        }
        self._cells: dict[str, Cells] = {}
        self._registers = given.compiled_registers(program)
        self._remembered = {n: op.weight.float() for n, op in program.products.items()}
        self._baseline: dict[str, Tensor] = {}

    @property
    def registers(self) -> Mapping[str, Tensor]:
        """Digital values: ``<node>.gain``, ``<node>.bias`` (out,), ``<node>.threshold``.

        Where a node lies on several rows of tiles, ``<node>.tile_gain`` (rows of tiles, out) acts
        on the partial sums, before ``gain``.
        """
        return dict(self._registers)

    @property
    def age_s(self) -> float:
        """Seconds since the chip was programmed."""
        return self.clock_s - self._since()

    @property
    def stuck(self) -> dict[str, int]:
        """How many devices of each crossbar never change; yield is 1 less their share."""
        return {name: int(cells.stuck.sum()) for name, cells in self._cells.items()}

    @property
    def worn(self) -> tuple[int, int]:
        """SET and RESET pulses that all devices together ever got."""
        sets = sum(int(cells.sets.sum()) for cells in self._cells.values())
        return sets, sum(int(cells.resets.sum()) for cells in self._cells.values())

    def program(self) -> None:
        """Write every target weight onto the devices; the digital values return to the graph's.

        Models A and B end at the age at which their devices are first read (20 s and 200 or
        300 s), which counts as time since programming; model C takes the time of its pulses.
        """
        self.programmed_s = self.clock_s
        self._registers = given.compiled_registers(self.layout)
        self._remembered = {n: op.weight.float() for n, op in self.layout.products.items()}
        self._baseline = {}
        for name, op in self.layout.products.items():
            targets = synapse.fill(op.targets_us(), self.layout.chip, op.reference)
            stuck = faults.draw(
                targets.shape, self.layout.chip, noise.generator(self.seed, "faults", name)
            )
            cells = devices.program(
                targets, self.clock_s, self.layout.chip, self.streams[name], stuck
            )
            self._cells[name] = cells
            self._spend(int(cells.sets.sum()) + int(cells.resets.sum()))
        fit = pcm.STATISTICS.get(self.layout.chip.fit or "")
        self.clock_s += fit.t0_s if fit else 0.0

    def wait(self, seconds: float) -> None:
        """Let ``seconds`` of at least 0 pass."""
        if not seconds >= 0:
            raise ValueError(f"seconds is {seconds!r}; time only runs forward, give 0 or more")
        self.clock_s += seconds

    @torch.no_grad()
    def run(self, x: Any, *, record: bool = False, step_by_step: bool = False) -> tuple[Any, Trace]:
        """Run sequences on the chip as it is now.

        A batch counts as so many sequences run one after the other, all within the same slow read
        noise; drift within a run is neglected.

        Args:
            x: Inputs ``(T, B, ...)``, float32; a dict by input node if there are several.
            record: Keep the digitised outputs of the crossbars in the trace.
            step_by_step: Run the whole network one step after the other, as a chip would, instead
                of one layer after the other where nothing loops. Slower, same numbers.

        Returns:
            The output ``(T, B, ...)`` (a dict if there are several) and a ``Trace``.

        Raises:
            RuntimeError: If the chip has not been programmed.
            ValueError: For inputs whose shape is not that of the graph's inputs.
        """
        (ran,) = inference.infer((self,), x, record=record, step_by_step=step_by_step)
        out = {name: ran.values[name] for name in self.layout.outputs}
        return (out if len(out) > 1 else next(iter(out.values()))), ran.trace

    def read_conductances(self) -> dict[str, Tensor]:
        """Read every device once, with noise: ``(2, out, in)`` G+ and G- by node, µS float64.

        Where a weight has one device, the reference stands for G-.
        """
        self._since()
        chip = self.layout.chip
        seen = {
            name: synapse.by_polarity(
                devices.read(cells, self.clock_s, chip, self.streams[name]["read"]),
                chip,
                self.layout.products[name].reference,
            )
            for name, cells in self._cells.items()
        }
        # One row at a time, all tiles together.
        rows = max(op.weight.shape[1] for op in self.layout.products.values())
        self.clock_s += rows * chip.step_ns * 1e-9
        return seen

    def read_weights(self) -> dict[str, Tensor]:
        """Read the weights back once, with noise: in the graph's shapes, digital gain included."""
        products = self.layout.products
        return {n: w.reshape(products[n].geometry.shape) for n, w in self._read().items()}

    def _read(self) -> dict[str, Tensor]:
        """Return one reading of the weights as matrices ``(out, in)``."""
        seen = {}
        for name, g in self.read_conductances().items():
            op = self.layout.products[name]
            inputs = torch.tensor([end - first for first, end in op.row_blocks])
            gain = self._gain(name).repeat_interleave(inputs, 0).T
            seen[name] = ((g[0] - g[1]) * op.weight_per_us * gain).float()
        return seen

    def pulse(self, counts: Mapping[str, Tensor]) -> None:
        """Apply SET pulses: positive counts to G+, negative ones to G-.

        Args:
            counts: Whole numbers by node, ``(out, in)`` or of the graph's shape; nodes left out
                are not touched.

        Raises:
            ValueError: For other shapes; for negative counts where a weight has one device.
        """
        self._since()
        for name, n in given.by_crossbar(self.layout, counts).items():
            pair = torch.stack((n.clamp_min(0), (-n).clamp_min(0))).int()
            reference = self.layout.products[name].reference
            pair = synapse.in_turn(pair, self.turn, self.layout.chip, reference)
            self._cells[name] = devices.pulse(
                self._cells[name], pair, self.clock_s, self.layout.chip, self.streams[name]["pulse"]
            )
            self._spend(int(pair.sum()))
        self.turn = (self.turn + 1) % self.layout.chip.per_polarity

    def reset(self, pairs: Mapping[str, Tensor]) -> None:
        """RESET all devices of the weights where the mask ``(out, in)`` is true; no reference."""
        self._since()
        for name, mask in given.by_crossbar(self.layout, pairs).items():
            both = mask.bool().expand(self.layout.chip.devices_per_weight, *mask.shape)
            if self.layout.chip.has_reference:
                both = synapse.with_reference(mask.bool(), self.layout.products[name].reference)
            self._cells[name] = devices.reset(
                self._cells[name], both, self.clock_s, self.layout.chip, self.streams[name]["pulse"]
            )
            self._spend(int(both.sum()))

    @torch.no_grad()
    def calibrate(
        self,
        scope: Scope = "column",
        *,
        method: Method = "fit",
        probe_count: int = 256,
        reads: int = 4,
    ) -> None:
        """Set the digital gains so that products are again what they were.

        Args:
            scope: One gain per ``column``, ``tile``, ``layer``, or one for all (``global``).
            method: ``fit`` runs random 0/1 inputs through the chip's own converters and compares
                with what the remembered weights would give: the compiled ones until ``remember``.
                ``mean`` is the published scheme: mean magnitude of the outputs for one input at a
                time, against what ``remember`` measured; it falls short by the noise.
                ``ideal`` reads devices exactly, which no chip can: an upper bound.
            probe_count: Probe inputs, except for ``mean``.
            reads: Runs of all probes, averaged.

        Raises:
            ValueError: For a scope or method that does not exist.
            RuntimeError: If the chip holds no weights, or ``mean`` has nothing to compare with.
        """
        self._since()
        calibration.check(scope, method)
        evidence = {
            name: probing.evidence(self, name, scope, method, probe_count, reads)
            for name in self.layout.products
        }
        for name, gain in calibration.gains(evidence, scope, self.layout.tiles).items():
            mean = gain.mean(0)
            self._registers[f"{name}.gain"] = mean
            held = self._registers.get(f"{name}.tile_gain")
            if held is not None:
                self._registers[f"{name}.tile_gain"] = (gain / mean).expand_as(held).clone()

    def remember(self, reads: int = 16) -> None:
        """Take what ``reads`` readings show on average as the weights to calibrate to."""
        self._remembered = self._averaged(reads)
        for name in self.layout.products:
            self._baseline[name] = probing.baseline(self, name, reads)

    def _gain(self, name: str) -> Tensor:
        """Return the factor on each output of every row of tiles, ``(rows of tiles, out)``."""
        gain = self._registers[f"{name}.gain"][None]
        parts = self._registers.get(f"{name}.tile_gain")
        return gain if parts is None else parts * gain

    def set_registers(self, values: Mapping[str, Tensor]) -> None:
        """Replace digital values by name; raises ``ValueError`` for an unknown name or shape."""
        self._registers |= given.registers(self._registers, values)

    def to_nir(self, reads: int = 16) -> Any:
        """Return the graph with the weights as ``reads`` readings show them, and digital values."""
        return checkpoint.exchange(self.layout.format).restore(
            self.layout.source, self._averaged(reads), self._registers
        )

    def save(self, path: str | Path) -> None:
        """Write the whole state to one file, bit-exactly, with the graph and the settings."""
        checkpoint.save(path, (self,))

    @classmethod
    def load(cls, path: str | Path) -> Accelerator:
        """Read a chip that ``save`` wrote; it goes on as if it had never stopped."""
        chips = checkpoint.load(path, cls)
        if len(chips) != 1:
            raise ValueError(f"{path} holds {len(chips)} chips; read it with Batch.load")
        return chips[0]

    def _averaged(self, reads: int) -> dict[str, Tensor]:
        readings = [self._read() for _ in range(reads)]
        return {
            n: torch.stack([r[n] for r in readings]).double().mean(0).float() for n in self._cells
        }

    def _since(self) -> float:
        if self.programmed_s is None:
            raise RuntimeError("the chip holds no weights yet; call program() first")
        return self.programmed_s

    def _drawn_columns(self, name: str, op: Product) -> tuple[columns.Columns | None, ...]:
        stream = noise.generator(self.seed, "columns", name)
        return tuple(columns.draw(len(op.weight), self.layout.chip, stream) for _ in op.row_blocks)

    def _observe(self, name: str, seconds: float, *, exact: bool = False) -> Crossbar:
        chip = self.layout.chip
        return crossbar.observe(
            self.layout.products[name],
            self._cells[name],
            replace(chip, read_noise=None) if exact else chip,
            self.clock_s,
            seconds,
            self.streams[name],
            self.output_bits[name],
            self._columns[name],
            gain=self._gain(name),
            bias=self._registers.get(f"{name}.bias"),
        )

    def _spend(self, pulses: int) -> None:
        self.pulses += pulses
        self.clock_s += pulses * self.layout.chip.pulse_ns * 1e-9
