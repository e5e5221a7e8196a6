"""What ``snu doctor`` looks at: an installation, or a graph, its data and a chip."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nir
import torch
from torch import Tensor

from snu_plugin import environments, graph
from snu_plugin.accelerator import Accelerator, Chip
from snu_plugin.compiler import compile
from snu_plugin.diagnosis import Diagnosis, diagnose
from snu_plugin.experiments.data_files import as_inputs
from snu_plugin.experiments.info import installed
from snu_plugin.origin import how_to_install

EXTRAS = {
    "snntorch": ("snntorch",),
    "norse": ("norse",),
    "numba": ("numba",),
    "tasks": ("scipy", "music21", "mido"),
    "report": ("matplotlib", "jinja2"),
    "board": ("zmq",),
}
"""Modules of each extra of this distribution."""


def network(
    path: Path,
    x: Tensor | nir.NIRGraphData | None,
    chip: Chip | None = None,
    *,
    dt: float | None = None,
    feedback: graph.Feedback | None = None,
) -> Diagnosis:
    """Diagnose the graph in a file, and on a chip that is written with it.

    Raises:
        ValueError: For inputs that do not fit; of data in NIR's format those are taken that are
            called as the Input.
    """
    g = graph.read(path)
    x = None if x is None else as_inputs(g, x, dt, feedback)
    found = diagnose(g, x, dt=dt, feedback=feedback)
    if chip is None:
        return found
    if x is None:
        x, _ = graph.drawn_inputs(graph.network(g, dt, torch.float32, feedback=feedback))
    board = Accelerator(compile(g, chip, dt=dt, feedback=feedback), seed=0)
    board.program()
    on_chip = diagnose(board, x)
    return Diagnosis((*found.findings, *on_chip.findings), found.layers, found.inputs)


def installation() -> dict[str, Any]:
    """Return what is installed, where caches lie, and what is wrong with it, a line each."""
    here = installed()
    missing = {
        extra: f"{', '.join(absent)} not installed: {how_to_install(extra)}"
        for extra, modules in EXTRAS.items()
        if (absent := [name for name in modules if find_spec(name) is None])
    }
    simulators_in = environments.folder("")
    kernels_in = [
        Path(os.environ.get("NUMBA_CACHE_DIR", Path(__file__).parents[1] / "neuron")),
        simulators_in.parents[1] / "numba",
    ]
    caches = {
        "simulators": simulators_in,
        "kernels": next(filter(_writable, kernels_in), kernels_in[0]),
    }
    findings = [
        f"{name}: {said}"
        for name, said in here["simulators"].items()
        if said != "ready" and find_spec(name) is not None
    ]
    findings += [
        f"cache of {name}: {folder} cannot be written; compiled loops and simulators are made anew "
        "each time: mend its permissions, or set NUMBA_CACHE_DIR and XDG_CACHE_HOME"
        for name, folder in caches.items()
        if not _writable(folder)
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores is not None and torch.get_num_threads() > cores:
        findings.append(
            f"threads: torch takes {torch.get_num_threads()} on {cores} cores; set "
            f"OMP_NUM_THREADS={cores}"
        )
    return {
        **here,
        "extras": {extra: missing.get(extra, "installed") for extra in EXTRAS},
        "caches": {name: str(folder) for name, folder in caches.items()},
        "findings": findings,
    }


def text(answer: dict[str, Any]) -> str:
    """Return ``installation()`` as a terminal shows it, what is wrong first."""
    lines = answer["findings"] or ["nothing found"]
    for title in ("versions", "implementations", "simulators", "extras", "caches"):
        lines = [*lines, title, *(f"  {name:16}{said}" for name, said in answer[title].items())]
    return "\n".join(lines)


def _writable(folder: Path) -> bool:
    """Tell whether files can be made in a folder, or in the nearest one above that is there."""
    there = next(part for part in (folder, *folder.parents) if part.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return True
    except OSError:
        return False
