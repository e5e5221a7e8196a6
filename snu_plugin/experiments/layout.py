"""How a graph comes onto chips, and what scores it there: what all studies of chips begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nir
import torch

from snu_plugin import graph
from snu_plugin.accelerator import Chip, Program
from snu_plugin.accelerator import settings as chip_settings
from snu_plugin.compiler import compile
from snu_plugin.experiments.datasets import Judged, ScoredData, TuningData
from snu_plugin.experiments.resuming import contents
from snu_plugin.experiments.settings import one_thread, ports

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
        how: dict[str, Any] = {"dt": self.dt, "feedback": self.feedback, "outliers": self.outliers}
        program = compile(g, chip, **how)
        return program, data(*ports(program))

    def strict(self, g: nir.NIRGraph, program: Program, data: ScoredData) -> Judged:
        """Return what the strict reference comes to, without a chip."""
        with one_thread(), torch.no_grad():
            reference = graph.network(g, program.dt, feedback=self.feedback)
            return data.judge(lambda x: reference(x)[0])


AS_DECLARED = Layout()
"""As the graph says, and all of it on devices."""


def conditions(
    data: ScoredData | TuningData, chip: Chip, inputs: Mapping[str, Path] | None
) -> dict[str, Any]:
    """Return what must be the same when a run is taken up: what is minimised, chip, files."""
    about = {"loss": data.loss_says, "metric": data.metric, "chip": chip_settings(chip)}
    return about | contents(inputs)
