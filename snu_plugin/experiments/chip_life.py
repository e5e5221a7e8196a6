"""The life of a chip: a graph laid out on it, written, aged, and looked at again and again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import nir
import torch
from torch import Tensor

from snu_plugin import files, graph
from snu_plugin.accelerator import Accelerator, Chip, Program
from snu_plugin.accelerator import settings as chip_settings
from snu_plugin.compiler import compile
from snu_plugin.durations import span
from snu_plugin.experiments.datasets import Judged, ScoredData, TuningData
from snu_plugin.experiments.runs import Running
from snu_plugin.experiments.settings import one_thread
from snu_plugin.training import load_checkpoint, save_checkpoint

AnyData = TypeVar("AnyData", bound=ScoredData | TuningData)
Load = Callable[[tuple[int, ...], tuple[int, ...]], AnyData]
"""Called with the shapes of a graph's one Input and one Output, returns the data for them."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What else decides how chips run a graph; as in ``compile``."""

    dt: float | None = None
    feedback: graph.Feedback | None = None
    outliers: float = 0.0
    """Share of each matrix that stays in digital logic."""

    def lay_out(self, g: nir.NIRGraph, chip: Chip, data: Load[AnyData]) -> tuple[Program, AnyData]:
        """Return the graph laid out on a chip, and the data for it.

        Raises:
            CannotMap: If the chip cannot hold the graph.
            ValueError: For a graph with several Inputs or Outputs, or data that do not fit.
        """
        program = compile(g, chip, dt=self.dt, feedback=self.feedback, outliers=self.outliers)
        if len(program.inputs) != 1 or len(program.outputs) != 1:
            raise ValueError(
                f"the graph has the Inputs {', '.join(program.inputs)} and the Outputs "
                f"{', '.join(program.outputs)}; data are scored on graphs with one of each: export "
                "a model that returns what is scored alone, such as its spikes"
            )
        return program, data(*(program.shapes[n] for n in (*program.inputs, *program.outputs)))

    def strict(self, g: nir.NIRGraph, program: Program, data: ScoredData) -> Judged:
        """Return what the strict reference comes to, without a chip."""
        with one_thread(), torch.no_grad():
            reference = graph.network(g, program.dt, feedback=self.feedback)
            return data.judge(lambda x: reference(x)[0])


def conditions(data: ScoredData | TuningData, chip: Chip, running: Running) -> dict[str, Any]:
    """Return what must be the same when a run is taken up: what is minimised, chip, files."""
    about = {"loss": data.loss_says, "metric": data.metric, "chip": chip_settings(chip)}
    return about | {name: files.sha256(file) for name, file in running.inputs.items()}


Case = Callable[[Accelerator], Accelerator]
"""Brings an aged chip, or a copy of it, to a state to look at, and returns it."""


def left_alone(chip: Accelerator) -> Accelerator:
    """Return the chip as it is."""
    return chip


def recalibrated(chip: Accelerator) -> Accelerator:
    """Fit the digital gain of every column anew."""
    chip.calibrate()
    return chip


def chip_life(
    program: Program,
    seed: int,
    ages: Mapping[str, float | None],
    cases: Mapping[str, Case],
    *,
    chip: Accelerator | None = None,
    on_age: Callable[[str, Accelerator], None] = lambda age, chip: None,
) -> Iterator[tuple[str, str, Accelerator]]:
    """Write one chip and hand it out at every age in every case.

    A case begins where the one before left the chip. Digital values are set back before the chip
    ages on, so that the next age meets it as it was written.

    Args:
        program: The network laid out.
        seed: Of the chip.
        ages: Seconds since programming by name, rising; ``None``: as soon as it can be read.
        cases: What is done to the chip at every age, by name, in this order.
        chip: The chip as ``on_age`` was given it at the age before the first of ``ages``; ``None``:
            it is written anew.
        on_age: Called when all cases of an age are done, with its name and the chip as it ages on.

    Yields:
        Name of the age, name of the case, the chip.

    Raises:
        ValueError: For an age before the chip can first be read.
    """
    born = chip is None
    if chip is None:
        chip = Accelerator(program, seed)
        chip.program()
    for age, seconds in ages.items():
        if born and seconds is not None and seconds < chip.age_s and age == next(iter(ages)):
            raise ValueError(
                f"age {age} is too early: {program.chip_name} is first read "
                f"{span(chip.age_s)} after programming"
            )
        chip.wait(max(0.0, (seconds or 0.0) - chip.age_s))
        written = chip.registers
        for case, bring in cases.items():
            yield age, case, bring(chip)
        chip.set_registers(written)
        on_age(age, chip)


def aged_chip(program: Program, seed: int, age_s: float) -> Accelerator:
    """Return a chip that was written, and left alone until that age."""
    _, _, chip = next(chip_life(program, seed, {span(age_s): age_s}, {"": left_alone}))
    return chip


def chip_bytes(chip: Accelerator) -> Tensor:
    """Return a chip's whole state as bytes, uint8; ``chip_from_bytes`` brings it back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chip.npz"
        chip.save(path)
        return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def chip_from_bytes(state: Tensor) -> Accelerator:
    """Return a chip in a state that ``chip_bytes`` gave, random streams included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chip.npz"
        path.write_bytes(state.numpy().tobytes())
        return Accelerator.load(path)


def copy_chip(chip: Accelerator) -> Accelerator:
    """Return a chip in the same state, random streams included."""
    return chip_from_bytes(chip_bytes(chip))


class ChipFile:
    """The checkpoint of a chip that is followed, with what is known of it so far.

    Args:
        file: Where; ``None``: nowhere.
        settings: What must be the same when it is taken up.
        every_s: Seconds from one saving to the next, at least; the last is always done.
    """

    def __init__(
        self, file: Path | None, settings: Mapping[str, Any], every_s: float = 0.0
    ) -> None:
        self.file, self.settings, self.every_s = file, settings, every_s
        self._saved = time.monotonic()

    def load(self) -> tuple[Accelerator | None, dict[str, Any]]:
        """Return the chip and what was kept with it; where nothing lies, ``None`` and nothing.

        Raises:
            ValueError: As ``load_checkpoint``.
        """
        if self.file is None or not self.file.is_file():
            return None, {}
        found = load_checkpoint(self.file, self.settings)
        return chip_from_bytes(found["chip"]), found

    def save(self, chip: Accelerator, known: Mapping[str, Any], *, last: bool) -> None:
        """Keep the chip, unless that was just done and it is to be kept again."""
        if self.file is None or not (last or time.monotonic() - self._saved > self.every_s):
            return
        save_checkpoint(self.file, {"chip": chip_bytes(chip), **known}, self.settings)
        self._saved = time.monotonic()


class Score(NamedTuple):
    """One run of the data on one chip."""

    case: str
    age: str
    age_s: float
    chip: int
    """Number of the chip, which is its seed."""
    read: int
    score: float
    silent: int
    """Sequences on which every output was silent."""
