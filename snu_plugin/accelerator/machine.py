"""The modelled chip: program it, let it age, run it, read it, pulse it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import checkpoint, crossbar, devices, digital, pcm
from snu_plugin.accelerator.calibration import Scope, gains, probes
from snu_plugin.accelerator.cost import cost
from snu_plugin.accelerator.crossbar import Crossbar
from snu_plugin.accelerator.devices import Cells
from snu_plugin.accelerator.program import Neurons, Product, Program
from snu_plugin.accelerator.trace import Trace
from snu_plugin.neuron.wiring import Node, run

EFFECTS = ("programming", "drift", "read", "output", "pulse", "probe")
"""Random effects; each draws from a stream of its own, so that none disturbs another."""


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
        self.streams = {name: _stream(seed, name) for name in EFFECTS}
        self._cells: dict[str, Cells] = {}
        self._registers = _registers(program)
        self._remembered = {n: op.weight.float() for n, op in program.products.items()}

    @property
    def registers(self) -> Mapping[str, Tensor]:
        """Digital values: ``<node>.gain``, ``<node>.bias`` (out,), ``<node>.threshold``."""
        return dict(self._registers)

    @property
    def age_s(self) -> float:
        """Seconds since the chip was programmed."""
        return self.clock_s - self._since()

    def program(self) -> None:
        """Write every target weight onto the devices; the digital values return to the graph's.

        Models A and B end at the age at which their devices are first read (20 s and 200 or
        300 s), which counts as time since programming.
        """
        self.programmed_s = self.clock_s
        self._registers = _registers(self.layout)
        self._remembered = {n: op.weight.float() for n, op in self.layout.products.items()}
        for name, op in self.layout.products.items():
            cells = devices.program(op.targets_us(), self.clock_s, self.layout.chip, self.streams)
            self._cells[name] = cells
            self.pulses += int(cells.sets.sum()) + int(cells.resets.sum())
        fit = pcm.STATISTICS.get(self.layout.chip.fit or "")
        self.clock_s += fit.t0_s if fit else 0.0

    def wait(self, seconds: float) -> None:
        """Let ``seconds`` of at least 0 pass."""
        if not seconds >= 0:
            raise ValueError(f"seconds is {seconds!r}; time only runs forward, give 0 or more")
        self.clock_s += seconds

    def run(self, x: Any, *, record: bool = False) -> tuple[Any, Trace]:
        """Run sequences on the chip as it is now.

        A batch counts as so many sequences run one after the other, all within the same slow read
        noise; drift within a run is neglected.

        Args:
            x: Inputs ``(T, B, ...)``, float32; a dict by input node if there are several.
            record: Keep the digitised outputs of the crossbars in the trace.

        Returns:
            The output ``(T, B, ...)`` (a dict if there are several) and a ``Trace``.

        Raises:
            RuntimeError: If the chip has not been programmed.
            ValueError: For inputs whose shape is not that of the graph's inputs.
        """
        inputs = self._inputs(x)
        steps, batch = next(iter(inputs.values())).shape[:2]
        seconds = steps * batch * len(self.layout.products) * self.layout.chip.step_ns * 1e-9
        arrays = {name: self._observe(name, seconds) for name in self.layout.products}
        nodes: dict[str, Node] = {
            name: digital.node(op, self._registers.get(f"{name}.threshold"))
            for name, op in self.layout.ops.items()
            if not isinstance(op, Product)
        }
        nodes |= arrays
        values, _ = run(self.layout.wiring, nodes, inputs, self.layout.shapes)
        self.clock_s += seconds
        counts = {name: array.count for name, array in arrays.items()}
        trace = Trace(
            counts=counts,
            cost=cost(self.layout, counts),
            spikes_per_step={
                name: float(values[name].sum()) / (steps * batch)
                for name, op in self.layout.ops.items()
                if isinstance(op, Neurons) and op.euler.threshold is not None
            },
            seconds=seconds,
            products={name: values[name] for name in arrays} if record else {},
        )
        out = {name: values[name] for name in self.layout.outputs}
        return (out if len(out) > 1 else next(iter(out.values()))), trace

    def read_conductances(self) -> dict[str, Tensor]:
        """Read every device once, with noise: ``(2, out, in)`` G+ and G- by node, µS float64."""
        self._since()
        chip, read = self.layout.chip, self.streams["read"]
        seen = {
            name: devices.read(cells, self.clock_s, chip, read)
            for name, cells in self._cells.items()
        }
        # One row at a time, all tiles together.
        rows = max(op.weight.shape[1] for op in self.layout.products.values())
        self.clock_s += rows * chip.step_ns * 1e-9
        return seen

    def read_weights(self) -> dict[str, Tensor]:
        """Read the weights back once, with noise: ``(out, in)`` by node, digital gain included."""
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
            counts: Whole numbers ``(out, in)`` by node; nodes left out are not touched.
        """
        for name, n in self._checked(counts).items():
            pair = torch.stack((n.clamp_min(0), (-n).clamp_min(0))).int()
            self._cells[name] = devices.pulse(
                self._cells[name], pair, self.clock_s, self.layout.chip, self.streams["pulse"]
            )
            self._spend(int(pair.sum()))

    def reset(self, pairs: Mapping[str, Tensor]) -> None:
        """RESET both devices of the pairs where the mask ``(out, in)`` is true."""
        for name, mask in self._checked(pairs).items():
            both = mask.bool().expand(2, *mask.shape)
            self._cells[name] = devices.reset(
                self._cells[name], both, self.clock_s, self.layout.chip, self.streams["pulse"]
            )
            self._spend(int(both.sum()))

    def calibrate(self, scope: Scope = "column", *, probe_count: int = 256, reads: int = 4) -> None:
        """Fit the digital gains to the remembered weights, through the chip's own converters.

        Random 0/1 inputs are run and compared with what the remembered weights would give; see
        ``calibration.gains``. The reference is the compiled weights until ``remember`` is called.

        Args:
            scope: One gain per ``column``, or one for all of a ``layer``.
            probe_count: Probe inputs.
            reads: Runs of all probes, averaged.
        """
        self._since()
        for name, op in self.layout.products.items():
            x = probes(op.weight.shape[1], probe_count, self.streams["probe"])
            gain = self._registers[f"{name}.gain"]
            seen = torch.zeros(())
            for _ in range(reads):
                array = self._observe(name, probe_count * self.layout.chip.step_ns * 1e-9)
                array.bias = None
                seen = seen + array(x)[0] / gain / reads
                self.clock_s += probe_count * self.layout.chip.step_ns * 1e-9
            fitted = gains(seen, x @ self._remembered[name].T, scope)
            self._registers[f"{name}.gain"] = fitted

    def remember(self, reads: int = 16) -> None:
        """Take what ``reads`` readings show on average as the weights to calibrate to."""
        self._remembered = self._averaged(reads)

    def set_registers(self, values: Mapping[str, Tensor]) -> None:
        """Replace digital values by name; raises ``ValueError`` for an unknown name or shape."""
        for name, value in values.items():
            old = self._registers.get(name)
            if old is None or old.shape != value.shape:
                known = ", ".join(f"{n} {tuple(v.shape)}" for n, v in self._registers.items())
                raise ValueError(
                    f"no register {name} of shape {tuple(value.shape)}; the chip has {known}"
                )
            if not bool(value.isfinite().all()):
                raise ValueError(f"register {name} would hold values that are not finite")
            self._registers[name] = value.detach().clone().to(old)

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
        readings = [self.read_weights() for _ in range(reads)]
        return {
            n: torch.stack([r[n] for r in readings]).double().mean(0).float() for n in self._cells
        }

    def _since(self) -> float:
        if self.programmed_s is None:
            raise RuntimeError("the chip holds no weights yet; call program() first")
        return self.programmed_s

    def _inputs(self, x: Any) -> dict[str, Tensor]:
        self._since()
        names = self.layout.inputs
        inputs = dict(x) if isinstance(x, Mapping) else {names[0]: x}
        if set(inputs) != set(names):
            raise ValueError(f"inputs are {', '.join(inputs)}; the graph has {', '.join(names)}")
        for name, value in inputs.items():
            shape = self.layout.shapes[name]
            if value.shape[2:] != shape or 0 in value.shape[:2]:
                raise ValueError(
                    f"input {name} has shape {tuple(value.shape)}; it must be (T, B, "
                    f"{', '.join(map(str, shape))}) with at least one step and one sequence"
                )
        return {name: value.float() for name, value in inputs.items()}

    def _observe(self, name: str, seconds: float) -> Crossbar:
        return crossbar.observe(
            self.layout.products[name],
            self._cells[name],
            self.layout.chip,
            self.clock_s,
            seconds,
            self.streams,
            gain=self._registers[f"{name}.gain"],
            bias=self._registers.get(f"{name}.bias"),
        )

    def _checked(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        self._since()
        for name, value in values.items():
            op = self.layout.products.get(name)
            if op is None or value.shape != op.weight.shape:
                known = ", ".join(
                    f"{n} {tuple(op.weight.shape)}" for n, op in self.layout.products.items()
                )
                raise ValueError(
                    f"no crossbar {name} of shape {tuple(value.shape)}; the chip has {known}"
                )
        return values

    def _spend(self, pulses: int) -> None:
        self.pulses += pulses
        self.clock_s += pulses * self.layout.chip.pulse_ns * 1e-9


def _stream(seed: int, effect: str) -> Generator:
    entropy = np.random.SeedSequence([seed, zlib.crc32(effect.encode())]).generate_state(1)
    return Generator().manual_seed(int(entropy[0]))


def _registers(program: Program) -> dict[str, Tensor]:
    """Return the digital values that the graph gives."""
    registers: dict[str, Tensor] = {}
    for name, op in program.ops.items():
        if isinstance(op, Product):
            registers[f"{name}.gain"] = torch.ones(op.weight.shape[0])
            if op.bias is not None:
                registers[f"{name}.bias"] = op.bias.clone()
        elif isinstance(op, Neurons) and op.euler.threshold is not None:
            registers[f"{name}.threshold"] = op.euler.threshold.clone()
    return registers
