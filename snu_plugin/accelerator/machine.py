"""The modelled chip: program it, let it age, run it, read it, pulse it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.accelerator import (
    calibration,
    checkpoint,
    inference,
    weights,
)
from snu_plugin.accelerator.calibration import Method, Scope
from snu_plugin.accelerator.devices.temperature import KELVIN
from snu_plugin.accelerator.energy import Spent, Writing
from snu_plugin.accelerator.inference import Trace
from snu_plugin.accelerator.program import Program
from snu_plugin.accelerator.state import ChipState, checked_device
from snu_plugin.accepted import COUNT, LEVEL, SEED, by_known_names, shown, with_known_names
from snu_plugin.durations import span


@by_known_names
class Accelerator:
    """A chip with a network on it.

    One clock in seconds runs from ``program``; runs, readings, pulses and waiting advance it, and
    nothing ages unless it moved. The same seed gives the same chip.

    Args:
        program: What ``snu_plugin.compiler.compile`` made.
        seed: Seed of all random effects of this chip, a whole number of at least 0.
        device: Where it is computed, ``"cpu"`` or ``"cuda"``; ``None``: where the program's tensors
            are. A seed gives the same devices everywhere; noise on outputs and devices' noise
            that goes on in time are other numbers on a GPU, of the same distribution.

    Raises:
        TypeError: For what is no program.
        ValueError: For another seed or device, or one that is not here.
    """

    def __init__(
        self, program: Program, seed: int = 0, *, device: str | torch.device | None = None
    ) -> None:
        if not isinstance(program, Program):
            raise TypeError(
                f"program is {type(program).__name__}; it must be a Program, which "
                "snu_plugin.compiler.compile(graph, chip) makes"
            )
        SEED.check("seed", seed)
        if device is not None:
            program = program.to(checked_device(device))
        self.state = ChipState(program, seed)

    def __repr__(self) -> str:
        written = self.state.written_s is not None
        since = f"{span(self.age_s)} since it was written" if written else "not written yet"
        return f"Accelerator({self.layout.chip_name}, {self.layout.devices:,} devices, {since})"

    @property
    def device(self) -> torch.device:
        """Where it is computed: inputs have to be there, and what it gives is."""
        return self.layout.device

    def to(self, device: str | torch.device) -> Accelerator:
        """Go on on another device, and return this chip.

        What its devices hold, its clock and its digital values stay; neurons are not carried over.
        Raises ``ValueError`` for a device that is not here.
        """
        self.state = self.state.to(checked_device(device))
        return self

    @property
    def layout(self) -> Program:
        """The program the chip was made for."""
        return self.state.program

    @property
    def clock_s(self) -> float:
        """Seconds on the chip's clock."""
        return self.state.clock_s

    @property
    def pulses(self) -> int:
        """SET and RESET pulses so far."""
        return self.state.pulses

    @property
    def registers(self) -> Mapping[str, Tensor]:
        """Digital values: ``<node>.gain``, ``<node>.bias`` (out,), ``<node>.threshold``.

        Where a node lies on several rows of tiles, ``<node>.tile_gain`` (rows of tiles, out) acts
        on the partial sums, before ``gain``. A digital adapter, where ``set_adapter`` put one, has
        ``<node>.adapter_in`` (rank, in) and ``<node>.adapter_out`` (out, rank).
        """
        return {name: value.clone() for name, value in self.state.registers.items()}

    @property
    def age_s(self) -> float:
        """Seconds since the chip was programmed."""
        return self.clock_s - self.state.programmed_s()

    @property
    def stuck(self) -> dict[str, int]:
        """How many devices of each crossbar never change; yield is 1 less their share."""
        return {name: int(cells.stuck.sum()) for name, cells in self.state.cells.items()}

    @property
    def cut_off(self) -> dict[str, int]:
        """How many weights of each crossbar open lines and tiles that failed keep from products."""
        return {
            name: int((~found.weights).sum()) if (found := self.state.reach.get(name)) else 0
            for name in self.layout.products
        }

    @property
    def worn(self) -> tuple[int, int]:
        """SET and RESET pulses that all devices together ever got.

        Without those of ``program`` where its statistics do not say them (``first_writing``); with
        the estimate of ``write``.
        """
        held = self.state.cells.values()
        return sum(int(c.sets.sum()) for c in held), sum(int(c.resets.sum()) for c in held)

    @property
    def spent(self) -> dict[str, Spent]:
        """What was spent so far, by operation: ``program``, ``run``, ``read``, ``calibration``, ...

        Energy, time and wear of every reading, pulse, writing, conversion and probe; an energy of
        ``None`` where no number is known, such as what the chip leaks while it waits.
        """
        return dict(self.state.spent)

    def program(self) -> None:
        """Write every target weight onto the devices; the digital values return to the graph's.

        Models A and B end at the age at which their devices are first read (20 s and 200 or
        300 s), which counts as time since programming; model C takes the time of its pulses.
        """
        weights.program(self.state)

    @with_known_names
    def wait(self, seconds: float) -> None:
        """Let ``seconds`` of at least 0 pass."""
        LEVEL.check("seconds", seconds)
        self.state.pass_time(seconds)
        self.state.charge("wait", Spent(1, None, float(seconds)))

    @property
    def temperature_k(self) -> float:
        """Temperature of the chip, K; 300 until ``set_temperature``."""
        return self.state.climate.now_k

    def set_temperature(self, kelvin: float) -> None:
        """Warm or cool the chip, all of it at once.

        What devices show changes with it, and how fast they relax from now on
        (docs/devices.md#temperature); what is written from now on is written at this temperature.

        Args:
            kelvin: From 200 to 450 K.

        Raises:
            ValueError: Outside of that; where no chip here has an ``activation_ev``, without
                which a temperature changes nothing.
        """
        KELVIN.check("kelvin", kelvin)
        if all(chip.activation_ev is None for chip in self.layout.chips.values()):
            raise ValueError(
                f"chip {self.layout.chip_name} has activation_ev None, so that no temperature "
                "changes it; give it one, as in replace(PCM, activation_ev=0.2)"
            )
        self.state.change_temperature(kelvin)

    @torch.no_grad()
    @with_known_names
    def run(
        self, x: Any, *, record: bool = False, step_by_step: bool = False, carry: bool = False
    ) -> tuple[Any, Trace]:
        """Run sequences on the chip as it is now.

        A batch counts as so many sequences run one after the other, all within the same slow read
        noise; drift within a run is neglected.

        Args:
            x: Inputs ``(T, B, ...)``, numbers of any dtype and layout, which are taken as float32,
                on the chip's device (NumPy's are brought there); a dict by input node if there are
                several.
            record: Keep the digitised outputs of the crossbars in the trace.
            step_by_step: Run the whole network one step after the other, as a chip would, instead
                of one layer after the other where nothing loops. Slower, same numbers.
            carry: Let the neurons start where the last run left them, so that long sequences can be
                run in segments. Each segment meets the slow read noise of its own moment.

        Returns:
            The output ``(T, B, ...)`` (a dict if there are several) and a ``Trace``.

        Raises:
            RuntimeError: If the chip has not been programmed.
            ValueError: For inputs whose shape is not that of the graph's inputs, or that are not
                finite; for ``carry`` where no run of as many sequences went before.
            TypeError: For inputs that are no real numbers.

        Warns:
            UserWarning: Where more than 1 % of the inputs or outputs of a layer saturate.
        """
        state = self.state
        # No host's autocast rounds anything of the chip.
        with torch.autocast(self.device.type, enabled=False):
            values, trace = inference.run(
                state, x, record=record, step_by_step=step_by_step, carry=carry
            )
        for sentence in trace.warnings:
            warnings.warn(sentence, stacklevel=4)
        out = {name: values[name] for name in state.program.outputs}
        return (out if len(out) > 1 else next(iter(out.values()))), trace

    def read_conductances(self) -> dict[str, Tensor]:
        """Read every device once, with noise: ``(2, out, in)`` G+ and G- by node, µS float64.

        Where a weight has one device, the reference stands for G-.
        """
        return weights.read_conductances(self.state)

    def read_weights(self) -> dict[str, Tensor]:
        """Read the weights back once, with noise: in the graph's shapes, digital gain included.

        Outliers that stay in digital are added, exact.
        """
        return weights.read_weights(self.state)

    @with_known_names
    def pulse(self, counts: Mapping[str, Any]) -> None:
        """Apply SET pulses: positive counts to G+, negative ones to G-.

        Args:
            counts: Whole numbers by node, ``(out, in)`` or of the graph's shape; nodes left out
                are not touched.

        Raises:
            ValueError: For other shapes; for negative counts where a weight has one device.
        """
        weights.set_pulses(self.state, self._by_name("counts", counts))

    def reset(self, pairs: Mapping[str, Any]) -> None:
        """RESET all devices of the weights where the mask ``(out, in)`` is true; no reference."""
        weights.reset_pulses(self.state, self._by_name("pairs", pairs))

    @with_known_names
    def write(self, targets: Mapping[str, Any], where: Mapping[str, Any] | None = None) -> Writing:
        """Write chosen weights again, all their devices, each in a closed loop with readings.

        Devices come to their targets with the statistics of programming (or by pulses, where
        the model lives by pulses) and age from now on, with a drift exponent and read noise of
        their own; all others stay as they are. The chip remembers the targets for ``calibrate``.

        Args:
            targets: Weights by node, ``(out, in)`` or of the graph's shape, in the units of
                ``read_weights``: digital gains are reckoned in.
            where: Which of them to write, bool masks of the same shapes by node; nodes left out,
                and ``None``, mean all.

        Returns:
            The pulses and readings it took, their energy and time, which passes on the chip's
            clock: counted where the model pulses, else ``estimated`` from the mean pulse curve.
            ``pulses`` and ``worn`` count them too.

        Raises:
            RuntimeError: If the chip holds no weights.
            ValueError: For unknown nodes, other shapes, masks that are not bool, targets that are
                not finite or over 5 % larger than the devices hold; nothing is written then.

        Warns:
            UserWarning: For targets up to 5 % larger, which are written to full devices.
        """
        chosen = None if where is None else self._by_name("where", where)
        return weights.write(self.state, self._by_name("targets", targets), chosen)

    @with_known_names
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
        COUNT.check("probe_count", probe_count)
        COUNT.check("reads", reads)
        with torch.autocast(self.device.type, enabled=False):
            calibration.calibrate(self.state, scope, method, probe_count, reads)

    def remember(self, reads: int = 16) -> None:
        """Take what ``reads`` readings show on average as the weights to calibrate to.

        >>> from snu_plugin import graph
        >>> from snu_plugin.accelerator import PCM
        >>> from snu_plugin.compiler import compile
        >>> fc = torch.nn.Linear(3, 2, bias=False)
        >>> chip = Accelerator(compile(graph.to_nir(fc, torch.ones(1, 1, 3), dt=1.0), PCM), seed=0)
        >>> chip.program()
        >>> chip.wait(86400)  # drift of a day, from now on as the weights that are wanted
        >>> chip.remember()
        """
        for name, weight in weights.averaged(self.state, reads).items():
            op = self.layout.products[name]
            held = weight.reshape(op.weight.shape)
            self.state.remembered[name] = held if op.outliers is None else held - op.outliers
        with torch.autocast(self.device.type, enabled=False):
            for name in self.layout.products:
                self.state.baseline[name] = calibration.baseline(self.state, name, reads)

    def set_registers(self, values: Mapping[str, Tensor]) -> None:
        """Replace digital values by name; raises ``ValueError`` for an unknown name or shape."""
        self.state.set_registers(self._by_name("values", values))

    def set_adapter(self, node: str, rank: int) -> None:
        """Put a digital low-rank adapter beside a node, or take it away.

        The node's output becomes ``product + adapter_out @ (adapter_in @ x)``, beside a convolution
        the same at every position, with ``adapter_in`` cut out of its patches. Both are registers
        of zeros at first, so that nothing changes until ``set_registers`` gives them values; one
        that was there is replaced. Gains, ``calibrate`` and ``remember`` concern the devices alone.
        An inference counts its operations, memory and energy (``Cost``); ``program`` takes
        adapters away.

        Args:
            node: A node with one matrix: Linear, Affine, or a convolution in one group.
            rank: Its rank, at most the smaller side of the matrix; 0 takes the adapter away.

        Raises:
            ValueError: For a node without weights, with matrices of its own for groups of outputs,
                or another rank; nothing is changed then.

        >>> from snu_plugin import graph
        >>> from snu_plugin.accelerator import IDEAL
        >>> from snu_plugin.compiler import compile
        >>> g = graph.to_nir(torch.nn.Linear(3, 2, bias=False), torch.ones(1, 1, 3), dt=1.0)
        >>> chip = Accelerator(compile(g, IDEAL), seed=0)
        >>> chip.program()
        >>> chip.set_adapter(next(iter(chip.read_weights())), rank=1)
        >>> sorted(tuple(v.shape) for k, v in chip.registers.items() if "adapter" in k)
        [(1, 3), (2, 1)]
        """
        self.state.set_adapter(node, rank)

    @with_known_names
    def to_nir(self, reads: int = 16) -> Any:
        """Return the graph with the weights as ``reads`` readings show them, and digital values.

        A digital adapter becomes two nodes beside its layer, ``<node>_adapter_in`` and
        ``<node>_adapter_out``, whose output is added where the layer's goes.
        """
        shown, registers = (
            {name: value.cpu() for name, value in held.items()}
            for held in (weights.averaged(self.state, reads), self.state.registers)
        )
        form = checkpoint.exchange(self.layout.format)
        return form.restore(self.layout.source, shown, registers)

    @with_known_names
    def save(self, path: str | Path) -> None:
        """Write the whole state to one file, bit-exactly, with the graph and the settings."""
        checkpoint.save(path, self.state)

    @classmethod
    def load(cls, path: str | Path) -> Accelerator:
        """Read a chip that ``save`` wrote; it goes on as if it had never stopped."""
        made = cls.__new__(cls)
        made.state = checkpoint.load(path)
        return made

    def _by_name(self, name: str, given: object) -> dict[str, Any]:
        """Return a dict by the names of nodes or registers, NumPy's arrays in it as tensors."""
        if not isinstance(given, Mapping):
            raise TypeError(f"{name} is {shown(given)}; it must be a dict of tensors by name")
        return {
            key: torch.tensor(value, device=self.device)
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
            else value
            for key, value in given.items()
        }
