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
    digital,
    faults,
    given,
    noise,
    pcm,
)
from snu_plugin.accelerator.calibration import Method, Scope
from snu_plugin.accelerator.crossbar import Crossbar
from snu_plugin.accelerator.devices import Cells
from snu_plugin.accelerator.program import Product, Program
from snu_plugin.accelerator.trace import Trace, traced
from snu_plugin.neuron.wiring import Node


class Accelerator:
    """A chip with a network on it.

    One clock in seconds runs from ``program``; runs, readings, pulses and waiting advance it, and
    nothing ages unless it moved. The same seed gives the same chip.

    Args:
        program: What ``snu_plugin.compiler.compile`` made.
        seed: Seed of all random effects of this chip.
    """

    def __init__(self, program: Program, seed: int = 0) -> None:
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
        """Digital values: ``<node>.gain``, ``<node>.bias`` (out,), ``<node>.threshold``."""
        return dict(self._registers)

    @property
    def age_s(self) -> float:
        """Seconds since the chip was programmed."""
        return self.clock_s - self._since()

    @property
    def stuck(self) -> dict[str, int]:
        """How many devices of each crossbar never change; yield is 1 less their share."""
        return {name: int(cells.stuck.sum()) for name, cells in self._cells.items()}

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
            targets = devices.fill(op.targets_us(), self.layout.chip)
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
        self._since()
        inputs = given.inputs(self.layout, x)
        steps, batch = next(iter(inputs.values())).shape[:2]
        cycles = sum(self.layout.cycles.values())
        seconds = steps * batch * cycles * self.layout.chip.step_ns * 1e-9
        arrays = {name: self._observe(name, seconds) for name in self.layout.products}
        nodes: dict[str, Node] = {
            name: digital.node(op, self._registers.get(f"{name}.threshold"))
            for name, op in self.layout.ops.items()
            if not isinstance(op, Product)
        }
        nodes |= arrays
        values = digital.play(self.layout, nodes, inputs, 1 if step_by_step else steps)
        repeats = sum(array.count.repeats for array in arrays.values())
        seconds += repeats * self.layout.chip.step_ns * 1e-9
        self.clock_s += seconds
        counts = {name: array.count for name, array in arrays.items()}
        trace = traced(self.layout, counts, values, seconds, record=record)
        out = {name: values[name] for name in self.layout.outputs}
        return (out if len(out) > 1 else next(iter(out.values()))), trace

    def read_conductances(self) -> dict[str, Tensor]:
        """Read every device once, with noise: ``(2, out, in)`` G+ and G- by node, µS float64."""
        self._since()
        chip = self.layout.chip
        seen = {
            name: devices.by_polarity(
                devices.read(cells, self.clock_s, chip, self.streams[name]["read"])
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
        return {
            name: (
                (g[0] - g[1])
                * self.layout.products[name].weight_per_us
                * self._registers[f"{name}.gain"][:, None]
            ).float()
            for name, g in self.read_conductances().items()
        }

    def pulse(self, counts: Mapping[str, Tensor]) -> None:
        """Apply SET pulses: positive counts to G+, negative ones to G-.

        Args:
            counts: Whole numbers by node, ``(out, in)`` or of the graph's shape; nodes left out
                are not touched.
        """
        self._since()
        for name, n in given.by_crossbar(self.layout, counts).items():
            pair = torch.stack((n.clamp_min(0), (-n).clamp_min(0))).int()
            pair = devices.in_turn(pair, self.turn, self.layout.chip)
            self._cells[name] = devices.pulse(
                self._cells[name], pair, self.clock_s, self.layout.chip, self.streams[name]["pulse"]
            )
            self._spend(int(pair.sum()))
        self.turn = (self.turn + 1) % self.layout.chip.per_polarity

    def reset(self, pairs: Mapping[str, Tensor]) -> None:
        """RESET all devices of the pairs where the mask ``(out, in)`` is true."""
        self._since()
        for name, mask in given.by_crossbar(self.layout, pairs).items():
            both = mask.bool().expand(self.layout.chip.devices_per_weight, *mask.shape)
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
        evidence = {}
        for name, op in self.layout.products.items():
            x = calibration.probes(op.weight.shape[1], probe_count, self.streams[name]["probe"])
            if method == "ideal":
                seen = self._observe(name, 0.0, exact=True).exact(x)
                evidence[name] = calibration.fit(seen, x @ self._remembered[name].T)
            elif method == "fit":
                seen = self._probe(name, x, reads)
                evidence[name] = calibration.fit(seen, x @ self._remembered[name].T)
            else:
                evidence[name] = calibration.mean(
                    self._probe(name, torch.eye(x.shape[1]), reads), self._baseline_of(name)
                )
        for name, gain in calibration.gains(evidence, scope, self.layout.tiles).items():
            self._registers[f"{name}.gain"] = gain

    def remember(self, reads: int = 16) -> None:
        """Take what ``reads`` readings show on average as the weights to calibrate to."""
        self._remembered = self._averaged(reads)
        for name, op in self.layout.products.items():
            seen = self._probe(name, torch.eye(op.weight.shape[1]), reads)
            self._baseline[name] = (seen * self._registers[f"{name}.gain"]).abs().mean(0)

    def _probe(self, name: str, x: Tensor, reads: int) -> Tensor:
        """Return what a crossbar gives for ``(n, in)`` before its gain, mean of ``reads``."""
        seconds = len(x) * self.layout.chip.step_ns * 1e-9
        seen = []
        for _ in range(reads):
            seen.append(self._observe(name, seconds).probe(x))
            self.clock_s += seconds
        return torch.stack(seen).mean(0)

    def _baseline_of(self, name: str) -> Tensor:
        if name not in self._baseline:
            raise RuntimeError(
                "method mean compares with an earlier time; call remember() right after program()"
            )
        return self._baseline[name]

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
        checkpoint.save(path, self)

    @classmethod
    def load(cls, path: str | Path) -> Accelerator:
        """Read a chip that ``save`` wrote; it goes on as if it had never stopped."""
        return checkpoint.load(path, cls)

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
            gain=self._registers[f"{name}.gain"],
            bias=self._registers.get(f"{name}.bias"),
        )

    def _spend(self, pulses: int) -> None:
        self.pulses += pulses
        self.clock_s += pulses * self.layout.chip.pulse_ns * 1e-9
