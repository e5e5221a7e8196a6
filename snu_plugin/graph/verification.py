"""One graph through every installed simulator, compared with the strict reference."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snu_plugin.accepted import hint, shown, with_known_names
from snu_plugin.environments import available, conflicts, contents, running_version, worker
from snu_plugin.graph.checking import verdicts
from snu_plugin.graph.cycles import Feedback
from snu_plugin.graph.data import from_data
from snu_plugin.graph.discretisation import DiscreteGraph, discretise_checked
from snu_plugin.graph.files import write_checked
from snu_plugin.graph.flattening import CheckedGraph, checked_graph
from snu_plugin.graph.potentials import potentials
from snu_plugin.graph.proving.probe import FACTORS, parted, probe, shares_fired
from snu_plugin.graph.readers import FOLDER as NODES
from snu_plugin.graph.readers import UNKNOWN, Alone, answers, known, write_nodes
from snu_plugin.graph.reference_network import Network, by_input, summed_input
from snu_plugin.graph.report import Comparison, Report, Run, Status
from snu_plugin.simulators import SIMULATORS, adapters, side_by_side

Array = NDArray[Any]

PROCESSES = 2
"""Simulators that run at the same time."""

STEPS, BATCH = 100, 4
"""Of the inputs that are drawn where none are given."""

ULPS = 4
"""A state this many float32 ulps from its threshold may fire in one simulator only."""


@with_known_names
def verify(
    graph: nir.NIRGraph,
    x: Tensor | Array | Mapping[str, Tensor | Array] | nir.NIRGraphData | None = None,
    simulators: Iterable[str] | None = None,
    *,
    dt: float | None = None,
    feedback: Feedback | None = None,
    seed: int = 0,
    limit_s: float = 120.0,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Run ``graph`` in simulators and compare every output with the strict reference's.

    Each simulator with an adapter runs twice, each time in a process of its own: through this
    plugin's importer and through the host's own; those without one run through their own.
    Everything runs in float32 on the same inputs. Each node is also run alone, on what it receives
    in the graph, so that the report says which simulators read it exactly.

    Args:
        graph: The graph; not changed.
        x: Inputs ``(T, B, *shape)``, of several Inputs a dict by their names, or data in NIR's own
            format, of which those called as the Inputs are taken (see ``from_data``); ``None``:
            seeded spikes over 100 steps that make every layer fire, as far as any do; see
            ``probe``.
        simulators: Names of adapters, or of ``simulators.SIMULATORS``; ``None``: all that are
            installed, here or in an environment of their own; then one whose host is missing does
            not count.
        dt: Time step; ``None``: see ``discretise``.
        feedback: What a path that feeds back delivers at the first step; see ``discretise``. The
            file that the simulators read declares it.
        seed: Of the inputs, where ``x`` is None.
        limit_s: Seconds that one run may take.
        progress: Called with a sentence whenever a run is done.

    Raises:
        ValueError: If the graph has no one meaning, or ``x`` does not fit or is not finite.
        LookupError: For a simulator without an adapter.
    """
    if isinstance(simulators, str):
        raise TypeError(
            f"simulators is {shown(simulators)}; give a list of names, such as [{simulators!r}]"
        )
    named = simulators is not None
    ours = adapters()
    names = (*ours, *available()) if simulators is None else tuple(simulators)
    if unknown := [name for name in names if name not in (*ours, *SIMULATORS)]:
        raise LookupError(
            f"no simulator {unknown[0]!r} is known; installed: {', '.join(ours) or 'none'}; "
            f"snu simulators install makes ready: {', '.join(SIMULATORS)}"
            f"{hint(unknown[0], (*ours, *SIMULATORS))}"
        )
    checked = checked_graph(graph).chosen(feedback)
    discrete = discretise_checked(checked, dt)
    net = Network(discrete, torch.float32)
    if isinstance(x, nir.NIRGraphData):
        x = _recorded(discrete, x)
    if x is None:
        drawn, inputs = drawn_inputs(net, seed)
        given = by_input(drawn, discrete.inputs)
    else:
        given, inputs = _checked_inputs(discrete, x), "as given"
    comparison, values = _reference(net, given)
    fired = shares_fired({name: values[name] for name in net.names if discrete.spikes(name)})
    with tempfile.TemporaryDirectory() as folder:
        write_checked(Path(folder) / "graph.nir", checked)
        x_file = _save(Path(folder), given)
        reading = str(checked.declared.get("if", "ode"))
        nodes = write_nodes(Path(folder) / NODES, net, values, reading) if names else []
        job = _Job(Path(folder), x_file, discrete.dt, comparison, nodes, limit_s, progress)
        runs, alone = job.run_all(names)
    return Report(
        dt=discrete.dt,
        dt_source=discrete.dt_source,
        steps=len(comparison.expected),
        batch=comparison.expected.shape[1],
        inputs=inputs,
        compared=comparison.how,
        near_threshold=near_threshold(net, values),
        nodes=tuple(verdicts(checked, dt)),
        notes=(
            *discrete.notes,
            *_silence(fired, drawn=x is None),
            *(f"{n} runs with {', '.join(told)}" for n in names if (told := conflicts(n))),
        ),
        active=float((comparison.expected != 0).mean()),
        fired=fired,
        runs=runs,
        readers=alone,
        known=_known(
            checked, discrete.dt, {run.simulator for run in runs if run.status != "missing"}
        ),
        named=named,
        versions={
            n: running_version(n) for n in ("snu-plugin", "torch", "nir", "nirtorch", *names)
        },
        expected=comparison.expected,
        elsewhere=tuple(name for name in names if contents(name) is not None),
    )


def _known(graph: CheckedGraph, dt: float | None, here: set[str]) -> dict[str, dict[str, str]]:
    """Return how simulators that did not run read each node, as far as that is known."""
    found: dict[str, dict[str, str]] = {}
    for name in {name for name, one in SIMULATORS.items() if one.by_default} - here:
        told = {node: known(name, graph.nodes[node], dt) for node in graph.nodes}
        found[name] = {node: text for node, text in told.items() if text != UNKNOWN}
    return {name: found[name] for name in sorted(found) if found[name]}


def near_threshold(net: Network, values: dict[str, Tensor]) -> float:
    """Return the share of states within a few float32 ulps of their threshold.

    Args:
        net: The network.
        values: Outputs of all its nodes, as ``net.run`` returns them.
    """
    close, total = 0, 0
    for name, neuron in net.discrete.neurons.items():
        if neuron.threshold is None or neuron.config.soft:
            continue
        threshold = neuron.threshold.to(values[name])
        s = potentials(summed_input(net.discrete, name, values), neuron.to(values[name]))
        scale = torch.maximum(s.abs(), threshold.abs())
        close += int(((s - threshold).abs() <= ULPS * 2.0**-23 * scale).sum())
        total += s.numel()
    return close / total if total else 0.0


@torch.no_grad()
def drawn_inputs(net: Network, seed: int = 0) -> tuple[Any, str]:
    """Return inputs that make as many spiking layers fire as can be, and what they are.

    A tensor, of several Inputs a dict of these by their names.
    """
    spiking = [name for name in net.names if net.discrete.spikes(name)]
    shapes = {name: net.discrete.shapes[name] for name in net.discrete.inputs}
    found = probe(
        lambda x: shares_fired(net.run(parted(x, shapes), keep=spiking)[0]),
        (STEPS, BATCH, sum(map(prod, shapes.values()))),
        seed=seed,
    )
    given = parted(found.x, shapes)
    return given if len(given) > 1 else next(iter(given.values())), found.how


def _save(folder: Path, given: Mapping[str, Tensor]) -> Path:
    """Write the inputs for the processes, of several Inputs by their names; return the file."""
    arrays = {name: x.numpy() for name, x in given.items()}
    if len(arrays) > 1:
        named: dict[str, Any] = {f"x.{name}": array for name, array in arrays.items()}
        np.savez(folder / "x.npz", **named)
        return folder / "x.npz"
    np.save(folder / "x.npy", next(iter(arrays.values())), allow_pickle=False)
    return folder / "x.npy"


def _silence(fired: dict[str, float], *, drawn: bool) -> list[str]:
    """Return what to say of nodes of which no neuron fired."""
    tried = f", with drawn inputs times {min(FACTORS):g} to {max(FACTORS):g}" if drawn else ""
    verb = "could be made to fire" if drawn else "fired"
    return [
        f"no neuron of {name} {verb}{tried}: what it does when it fires was not compared"
        for name, share in fired.items()
        if not share
    ]


def _recorded(discrete: DiscreteGraph, data: nir.NIRGraphData) -> dict[str, Tensor]:
    """Return the data for the Inputs of a graph: those of their names, or the only ones."""
    names = {name: name for name in discrete.inputs}
    if len(names) == len(data.nodes) == 1:
        names = dict(zip(data.nodes, discrete.inputs, strict=True))
    if missing := [name for name in names if name not in data.nodes]:
        raise ValueError(
            f"the data are of {', '.join(map(repr, data.nodes)) or 'no node'}; one must be called "
            f"{missing[0]!r}, as the Input of the graph"
        )
    wanted = nir.NIRGraphData({name: data.nodes[name] for name in names})
    shapes = {name: discrete.shapes[names[name]] for name in names}
    x = from_data(wanted, discrete.dt, shapes=shapes).x
    return {names[name]: x if isinstance(x, Tensor) else x[name] for name in names}


def _checked_inputs(
    discrete: DiscreteGraph, x: Tensor | Array | Mapping[str, Tensor | Array]
) -> dict[str, Tensor]:
    """Return a user's inputs by Input, checked, as float32."""
    names = discrete.inputs
    if not isinstance(x, Mapping) and len(names) > 1:
        raise ValueError(
            f"x is one sequence; the graph has the Inputs {', '.join(map(repr, names))}: give a "
            "dict with one for each"
        )
    parts = x if isinstance(x, Mapping) else {names[0]: x}
    given = {n: torch.as_tensor(part).detach().cpu().float() for n, part in parts.items()}
    given = by_input(given, names)
    for name, part in given.items():
        shape, called = discrete.shapes[name], "x" if len(names) == 1 else f"x of {name!r}"
        if part.dim() < 2 or tuple(part.shape[2:]) != shape or 0 in part.shape:
            raise ValueError(
                f"{called} has shape {tuple(part.shape)}; it must be "
                f"(T, B, {', '.join(map(str, shape))}), T and B at least 1"
            )
        if bad := int((~torch.isfinite(part)).sum()):
            raise ValueError(
                f"{bad} of {part.numel()} values of {called} are not finite; give numbers"
            )
    if len({part.shape[:2] for part in given.values()}) > 1:
        told = ", ".join(f"{tuple(part.shape[:2])} of {name!r}" for name, part in given.items())
        raise ValueError(f"x has steps and sequences {told}; they must be the same for every Input")
    return {name: given[name] for name in names}


@torch.no_grad()
def _reference(net: Network, x: dict[str, Tensor]) -> tuple[Comparison, dict[str, Tensor]]:
    """Run the strict reference; return what to compare with, and the outputs of all nodes."""
    discrete = net.discrete
    values, _ = net.run(x)
    y = _output(discrete, values)
    if _fires(discrete):
        return Comparison(y.numpy(), 0.0, "spikes, which must be equal"), values
    exact, _ = Network(discrete, torch.float64).run(x)
    same = all(
        torch.equal(values[n].double(), exact[n]) for n in discrete.neurons if discrete.spikes(n)
    )
    own = float((y.double() - _output(discrete, exact)).abs().max()) if same else 0.0
    budget = 2 * (own + 2.0**-23 * float(y.abs().max()))
    how = f"real values, which must agree to {budget:.2g}: twice the reference's own rounding"
    return Comparison(y.numpy(), budget, how), values


def _output(discrete: DiscreteGraph, values: dict[str, Tensor]) -> Tensor:
    """Return what the Output gives, of several all that they give, as ``run_steps`` does."""
    if len(discrete.outputs) == 1:
        return values[discrete.outputs[0]]
    return side_by_side({name: values[name] for name in discrete.outputs}, 2)


def _fires(discrete: DiscreteGraph) -> bool:
    """Whether the Outputs carry nothing but spikes, each of one node."""
    for output in discrete.outputs:
        sources = discrete.wiring.sources[output]
        while len(sources) == 1 and isinstance(discrete.nodes[sources[0]], nir.Flatten):
            sources = discrete.wiring.sources[sources[0]]
        if len(sources) != 1 or not discrete.spikes(sources[0]):
            return False
    return True


class _Job(NamedTuple):
    """What every simulator runs."""

    folder: Path
    """Holds the graph, its inputs, and the nodes alone."""
    x_file: Path
    dt: float | None
    comparison: Comparison
    nodes: list[Alone]
    limit_s: float
    progress: Callable[[str], None]

    def run_all(self, names: Iterable[str]) -> tuple[tuple[Run, ...], dict[str, tuple[Run, ...]]]:
        """Run both importers of every simulator, a few at a time; results keep the order.

        Returns what came of the graph, and of each node alone.
        """
        jobs = [
            (name, importer)
            for name in names
            for importer in (("stock",) if name in SIMULATORS else ("plugin", "stock"))
        ]
        self.progress(f"{len(jobs)} importers to go")
        with ThreadPoolExecutor(PROCESSES) as pool:
            results = list(pool.map(lambda job: self.run(*job), jobs))
        alone = [
            answers(self.folder / f"{name}-{importer}", self.nodes, name, importer)
            for (name, importer), run in zip(jobs, results, strict=True)
            if run.status != "missing"
        ]
        by_node = zip(*alone, strict=True) if alone else ((),) * len(self.nodes)
        names_of = [node.name for node in self.nodes]
        return tuple(results), dict(zip(names_of, by_node, strict=True))

    def run(self, name: str, importer: str) -> Run:
        """Run one importer of one simulator in its own process and judge what comes back."""
        run = self._judged(name, importer)
        self.progress(f"{name}, {importer} importer: {run.status}")
        return run

    def _judged(self, name: str, importer: str) -> Run:
        y_path = self.folder / f"{name}-{importer}.npy"
        command, environment = worker(name)
        command += [name, importer, str(self.folder / "graph.nir"), str(self.x_file)]
        command += [repr(self.dt or 1.0), str(y_path)]
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,  # where nothing lies that Python could import
                env=environment,
                capture_output=True,
                text=True,
                timeout=self.limit_s,
                check=False,
            )
            ended = f"exit status {done.returncode}, no message"
            status, message = _told((done.stderr.strip().splitlines() or [ended])[-1])
        except subprocess.TimeoutExpired:
            status, message = "timed out", f"no result after {self.limit_s:g} s"
        # What came of the whole graph is on disk before nodes are run alone.
        if y_path.is_file():
            return self.comparison.judge(name, importer, np.load(y_path, allow_pickle=False))
        if (failure := y_path.with_suffix(".json")).is_file():
            status, message = _told(failure.read_text())
        return Run(name, importer, status, message=message)


def _told(line: str) -> tuple[Status, str]:
    """Return status and message out of what a process said last."""
    try:
        answer = json.loads(line)
        return answer["status"], answer["message"]
    except (ValueError, KeyError, TypeError):
        return "crashed", line
