"""Several chips that hold the same network and live side by side, as one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snu_plugin.accelerator import checkpoint, inference
from snu_plugin.accelerator.calibration import Scope
from snu_plugin.accelerator.machine import Accelerator
from snu_plugin.accelerator.program import Program
from snu_plugin.accelerator.trace import Trace


class Batch:
    """Chips of one program; every operation acts on all, every tensor has a leading axis of chips.

    Chip ``n`` is ``Accelerator(program, seeds[n])``, bit by bit: each keeps devices, clock and
    random streams of its own, whatever the others do. ``batch[n]`` hands it out.

    Args:
        program: What ``snu_plugin.compiler.compile`` made.
        seeds: Seed of each chip, all different.

    Raises:
        ValueError: For no seed, or one that comes twice.
    """

    def __init__(self, program: Program, seeds: Sequence[int]) -> None:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds are {list(seeds)}; give one or more, all different")
        self.chips = tuple(Accelerator(program, seed) for seed in seeds)

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, n: int) -> Accelerator:
        return self.chips[n]

    def __iter__(self) -> Iterator[Accelerator]:
        return iter(self.chips)

    @property
    def layout(self) -> Program:
        """The program the chips were made for."""
        return self.chips[0].layout

    @property
    def clocks_s(self) -> Tensor:
        """Seconds on each chip's clock, ``(chips,)`` float64."""
        return torch.tensor([chip.clock_s for chip in self.chips], dtype=torch.float64)

    @property
    def ages_s(self) -> Tensor:
        """Seconds since each chip was programmed, ``(chips,)`` float64."""
        return torch.tensor([chip.age_s for chip in self.chips], dtype=torch.float64)

    @property
    def registers(self) -> Mapping[str, Tensor]:
        """Digital values, ``(chips, ...)``; see ``Accelerator.registers``."""
        return _stacked([chip.registers for chip in self.chips])

    def program(self) -> None:
        """Write every chip; see ``Accelerator.program``."""
        for chip in self.chips:
            chip.program()

    def wait(self, seconds: float | Tensor) -> None:
        """Let time pass, the same on all chips or ``(chips,)`` seconds."""
        for chip, own in zip(self.chips, torch.as_tensor(seconds).expand(len(self)), strict=True):
            chip.wait(float(own))

    def run(
        self, x: Any, *, record: bool = False, step_by_step: bool = False
    ) -> tuple[Any, tuple[Trace, ...]]:
        """Run the same sequences ``(T, B, ...)`` on all chips; see ``Accelerator.run``.

        Returns:
            The output ``(chips, T, B, ...)`` (a dict if there are several), and a trace of each
            chip.
        """
        with torch.no_grad():
            ran = inference.infer(self.chips, x, record=record, step_by_step=step_by_step)
        out = {name: torch.stack([own.values[name] for own in ran]) for name in self.layout.outputs}
        traces = tuple(own.trace for own in ran)
        return (out if len(out) > 1 else next(iter(out.values()))), traces

    def read_conductances(self) -> dict[str, Tensor]:
        """Read every device once, with noise: ``(chips, 2, out, in)`` by node, µS float64."""
        return _stacked([chip.read_conductances() for chip in self.chips])

    def read_weights(self) -> dict[str, Tensor]:
        """Read the weights back once, with noise: ``(chips, ...)`` in the graph's shapes."""
        return _stacked([chip.read_weights() for chip in self.chips])

    def pulse(self, counts: Mapping[str, Tensor]) -> None:
        """Apply SET pulses; see ``Accelerator.pulse``. Counts may have a leading axis of chips."""
        for chip, own in zip(self.chips, self._own(counts, self._shapes()), strict=True):
            chip.pulse(own)

    def reset(self, pairs: Mapping[str, Tensor]) -> None:
        """RESET pairs; see ``Accelerator.reset``. Masks may have a leading axis of chips."""
        for chip, own in zip(self.chips, self._own(pairs, self._shapes()), strict=True):
            chip.reset(own)

    def set_registers(self, values: Mapping[str, Tensor]) -> None:
        """Replace digital values; they may have a leading axis of chips."""
        shapes = {name: (held.shape,) for name, held in self.chips[0].registers.items()}
        for chip, own in zip(self.chips, self._own(values, shapes), strict=True):
            chip.set_registers(own)

    def calibrate(self, scope: Scope = "column", **settings: Any) -> None:
        """Set the digital gains of every chip; see ``Accelerator.calibrate``."""
        for chip in self.chips:
            chip.calibrate(scope, **settings)

    def remember(self, reads: int = 16) -> None:
        """Take what each chip shows now as the weights to calibrate to."""
        for chip in self.chips:
            chip.remember(reads)

    def save(self, path: str | Path) -> None:
        """Write the whole state of all chips to one file, bit-exactly."""
        checkpoint.save(path, self.chips)

    @classmethod
    def load(cls, path: str | Path) -> Batch:
        """Read chips that ``save`` wrote; they go on as if they had never stopped."""
        batch = cls.__new__(cls)
        batch.chips = tuple(checkpoint.load(path, Accelerator))
        return batch

    def _shapes(self) -> dict[str, tuple[torch.Size, ...]]:
        """Return the shapes in which one chip takes a value for each weight."""
        products = self.layout.products.items()
        return {name: (op.weight.shape, torch.Size(op.geometry.shape)) for name, op in products}

    def _own(
        self, values: Mapping[str, Tensor], shapes: Mapping[str, tuple[torch.Size, ...]]
    ) -> list[dict[str, Tensor]]:
        """Return what each chip gets: all the same, or its part of a leading axis of chips."""
        apart = {
            name: value.shape[:1] == (len(self),) and value.shape[1:] in shapes.get(name, ())
            for name, value in values.items()
        }
        return [
            {name: value[n] if apart[name] else value for name, value in values.items()}
            for n in range(len(self))
        ]


def _stacked(values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([own[name] for own in values]) for name in values[0]}
