"""The same graph run by every simulator: how fast, beside how equal."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor

from snu_plugin import archives
from snu_plugin.bench import complexity
from snu_plugin.bench.timing import FEWEST_ROUNDS, check_settings, counted, table
from snu_plugin.environments import worker
from snu_plugin.graph import Run, discretise, encode_snu, stamp, verify, write
from snu_plugin.neuron import SNUConfig

REFERENCE = "strict reference"

EXAMPLE = "12 -> 38 (recurrent) -> 7, random weights, seed 0"
"""The sizes of the Braille readers of the NIR paper, Pedersen et al. 2024."""
STEPS, BATCH, RATE = 256, 64, 0.1


def example() -> nir.NIRGraph:
    """Return the graph that is run where none is given."""
    draw = np.random.default_rng(0)
    dt = 2.0**-10
    nodes = {
        "input": nir.Input({"input": np.array([12])}),
        "fc1": nir.Linear(draw.normal(0, 0.8, (38, 12))),
        "hidden": encode_snu(SNUConfig(), 0.8, np.full(38, 1.0), dt=dt),
        "loop": nir.Linear(draw.normal(0, 0.2, (38, 38))),
        "fc2": nir.Linear(draw.normal(0, 0.4, (7, 38))),
        "last": encode_snu(SNUConfig(), 0.9, np.full(7, 1.0), dt=dt),
        "output": nir.Output({"output": np.array([7])}),
    }
    edges = [("input", "fc1"), ("fc1", "hidden"), ("hidden", "loop"), ("loop", "hidden")]
    edges += [("hidden", "fc2"), ("fc2", "last"), ("last", "output")]
    return stamp(nir.NIRGraph(nodes, edges), dt)


def data(path: Path) -> Tensor:
    """Read inputs ``(T, B, ...)`` from an ``.npy``, or from ``x`` of an ``.npz``.

    Raises:
        ValueError: If the file holds no such array.
    """
    if path.suffix == ".npz":
        arrays = archives.read_arrays(path)
        if "x" not in arrays:
            raise ValueError(
                f"{path} holds {', '.join(arrays)}; inputs (T, B, ...) must be named x"
            )
        found = arrays["x"]
    else:
        found = archives.read_array(path)
    if found.dtype.kind not in "biuf" or not np.isfinite(found).all():
        raise ValueError(f"{path} holds {found.dtype}; inputs must be finite numbers, (T, B, ...)")
    return torch.from_numpy(found.astype(np.float32))


def run(
    graph: nir.NIRGraph | None = None,
    x: Tensor | None = None,
    *,
    seconds: float = 10.0,
    simulators: Iterable[str] | None = None,
    dt: float | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Verify a graph in every simulator, then time those that gave outputs, in turns.

    Each simulator lives in a process of its own; the rounds go from one to the next.

    Args:
        graph: One Input, one Output; ``None``: ``example``.
        x: Inputs ``(T, B, ...)``; ``None``: 256 steps of 64 seeded spike trains, rate 0.1.
        seconds: About how long the timing takes; at least five rounds.
        simulators: As for ``graph.verify``.
        dt: Time step; ``None``: the one of the graph.
        threads: Of each process; ``None``: as many as it takes.

    Returns:
        ``runs``: a row for each simulator and importer with ``status`` and ``differing`` (share of
        outputs unlike the strict reference's) and, where it ran, ``ms`` (quartiles of reading the
        graph and running it), ``first_step_ms`` (reading it and one step) and ``ratio`` to the
        strict reference; ``complexity``: the network in NeuroBench's measures.
    """
    check_settings(seconds, threads)
    name = EXAMPLE if graph is None else "as given"
    graph = example() if graph is None else graph
    discrete = discretise(graph, dt)
    if x is None:
        shape = discrete.shapes[discrete.inputs[0]]
        random = torch.Generator().manual_seed(0)
        x = (torch.rand((STEPS, BATCH, *shape), generator=random) < RATE).float()
    report = verify(graph, x, simulators, dt=dt)
    ran = [run for run in report.runs if run.status in ("exact", "approximate")]
    reference = Run(REFERENCE, "reference", "exact", 0.0)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "graph.nir", graph)
        np.save(Path(folder) / "x.npy", x.numpy(), allow_pickle=False)
        times = _timed([reference, *ran], Path(folder), discrete.dt, seconds, threads)
    measures: dict[str, Any] = {"our count": complexity.counted(graph, x, dt)}
    try:
        measures["neurobench"] = complexity.by_library(graph, x, dt)
    except (ImportError, ValueError, TypeError) as error:
        measures["neurobench"] = {"missing": " ".join(str(error).split())}
    return {
        "graph": name,
        "steps": report.steps,
        "batch": report.batch,
        "active": report.active,
        "threads": threads,
        "runs": [_row(run, times) for run in (reference, *report.runs)],
        "complexity": measures,
        "versions": report.versions,
    }


def _timed(
    runs: Sequence[Run], folder: Path, dt: float | None, seconds: float, threads: int | None
) -> dict[tuple[str, str], Any]:
    """Return for each run its times in every round, or why there are none."""
    more = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    times: dict[tuple[str, str], Any] = {}
    with ExitStack() as stack:
        children = {}
        for run in runs:
            key = (run.simulator, run.importer)
            command, environment = worker(run.simulator)
            command += [
                *key,
                str(folder / "graph.nir"),
                str(folder / "x.npy"),
                repr(dt or 1.0),
                "timed",
            ]
            child = stack.enter_context(_child(command, environment | more, folder))
            times[key] = _answer(child)
            if "error" not in times[key]:
                children[key], times[key] = child, []
        end, rounds = time.perf_counter() + seconds, 0
        while children and (rounds < FEWEST_ROUNDS or time.perf_counter() < end):
            for key, child in children.items():
                times[key].append(_answer(child, "run\n"))
            rounds += 1
        for child in children.values():
            child.communicate()
    return times


def _child(
    command: list[str], environment: Mapping[str, str], folder: Path
) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=folder,  # where nothing lies that Python could import
    )


def _answer(child: subprocess.Popen[str], asked: str = "") -> dict[str, Any]:
    """Return the next line of a simulator's process, after asking for it."""
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("a simulator's process was started without a pipe")
    child.stdin.write(asked)
    child.stdin.flush()
    line = child.stdout.readline()
    answer: dict[str, Any] = json.loads(line) if line else {"error": "ended without a word"}
    return answer


def _row(run: Run, times: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    key = (run.simulator, run.importer)
    row: dict[str, Any] = {
        "simulator": run.simulator,
        "importer": run.importer,
        "status": run.status,
        "differing": run.differing,
        "message": run.message,
    }
    found = times.get(key)
    if not isinstance(found, list):
        return row | ({"message": found["error"]} if found else {})
    reference = times[REFERENCE, "reference"]
    ratios = [a["all_s"] / b["all_s"] for a, b in zip(found, reference, strict=True)]
    return row | {
        "ms": [1e3 * q for q in statistics.quantiles([t["all_s"] for t in found], n=4)],
        "first_step_ms": 1e3 * statistics.median(t["first_step_s"] for t in found),
        "ratio": statistics.median(ratios),
        "rounds": len(found),
    }


def text(answer: Mapping[str, Any]) -> str:
    """Return the answer of ``run`` as tables in Markdown."""
    head = ("simulator", "importer", "outputs that differ", "ms", "quartiles", "1 step, ms", "x")
    threads = "" if answer["threads"] is None else f", {counted(answer['threads'])} each"
    rows, messages = [], []
    for row in answer["runs"]:
        who = row["simulator"], row["importer"]
        equal = row["status"] if not row["differing"] else f"{row['differing']:.3%}"
        timed = ("", "", "", "")
        if "ms" in row:
            low, median, high = (f"{value:.3g}" for value in row["ms"])
            step, ratio = f"{row['first_step_ms']:.3g}", f"{row['ratio']:.2f}"
            timed = (median, f"{low} to {high}", step, ratio)
        rows.append((*who, equal, *timed))
        if row["message"]:
            messages.append(f"{', '.join(who)}: {row['status']}: {row['message']}")
    found = answer["complexity"]
    measured = {name: values for name, values in found.items() if "missing" not in values}
    measures = [
        (name, *(f"{values[name]:.6g}" for values in measured.values()))
        for name in next(iter(measured.values()))
    ]
    return "\n\n".join(
        [
            f"Graph: {answer['graph']}; {answer['steps']} steps, batch {answer['batch']}{threads}; "
            f"{answer['active']:.1%} of the outputs are not zero.",
            table(head, rows),
            *messages,
            table(("by NeuroBench's definitions", *measured), measures),
            *(f"{n}: {v['missing']}" for n, v in found.items() if "missing" in v),
        ]
    )
