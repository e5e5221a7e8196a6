"""One graph through every simulator."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

from same_process import simulators_forked, simulators_here
from snu_plugin import SNUConfig, simulators
from snu_plugin.graph import encode_snu, network, stamp, to_data, verify, write
from snu_plugin.graph.report import Report, Run
from snu_plugin.graph.verification import near_threshold
from snu_plugin.graph.worker import main
from snu_plugin.simulators import side_by_side

DT = 2.0**-10


def graph(readout: bool = False, grid: bool = False) -> nir.NIRGraph:
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.6, (5, 4)).astype(np.float32)
    nodes = {
        "input": nir.Input(input_type={"input": np.array([4])}),
        "fc": nir.Linear(np.round(4 * weight) / 4 if grid else weight),
        "lif": encode_snu(SNUConfig(), np.full(5, 0.5), np.full(5, 0.5), dt=DT),
    }
    if readout:
        nodes["out"] = nir.Affine(random.normal(0, 1, (3, 5)), np.ones(3))
    nodes["output"] = nir.Output(output_type={"output": None})
    names = list(nodes)
    edges = list(itertools.pairwise(names))
    return stamp(nir.NIRGraph(nodes, edges, {}, type_check=False), DT)


ADAPTER = '''
"""A simulator whose own importer refuses."""
import torch
from snu_plugin.graph import network

def simulate(g, x, dt):
    with torch.no_grad():
        return network(g, dt)(torch.tensor(x))[0].numpy()

def simulate_stock(g, x, dt):
    raise ValueError("reset to zero only;\\n use another")
'''


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str = ADAPTER) -> list[str]:
    """Install a simulator as an adapter, for this process and those it starts."""
    monkeypatch.delitem(sys.modules, "told", raising=False)
    (folder / "told.py").write_text(code)
    info = folder / "told-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: told\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{simulators.GROUP}]\ntold = told\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return ["told"]


def stand_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, y: Any = None
) -> list[str]:
    """Let a shell script stand in for the processes of a simulator; ``$out`` is the result."""
    np.save(folder / "y.npy", np.zeros(1) if y is None else y)
    program = folder / "program"
    last = 'for out in "$@"; do :; done'
    program.write_text(f"#!/bin/sh\n{last}\n{script.replace('Y', str(folder / 'y.npy'))}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return install(folder, monkeypatch)


def reference(readout: bool = False) -> Any:
    """What the strict reference gives for the inputs that ``verify`` makes."""
    x = (torch.rand((100, 4, 4), generator=torch.Generator().manual_seed(0)) < 0.3).float()
    return network(graph(readout))(x)[0].detach().numpy()


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, list[str]]:
    """Run a simulator in processes of its own; return the report, and what was told meanwhile."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        names = install(tmp_path_factory.mktemp("told"), patch)
        simulators_forked(patch)
        return verify(graph(readout=True), simulators=names, progress=said.append), said


def test_a_run_in_a_process_of_its_own_is_judged(judged: tuple[Report, list[str]]) -> None:
    report, _ = judged
    ours, theirs = report.runs
    assert (ours.importer, ours.status, ours.differing) == ("plugin", "exact", 0.0)
    assert (theirs.importer, theirs.status) == ("stock", "refused")
    assert theirs.message == "ValueError: reset to zero only; use another"
    assert report.exact


def test_each_node_is_judged_alone_in_every_importer(judged: tuple[Report, list[str]]) -> None:
    report, _ = judged
    assert report.readers.keys() == {"fc", "lif", "out"}
    for ours, theirs in report.readers.values():
        assert (ours.simulator, ours.importer, ours.status) == ("told", "plugin", "exact")
        assert (theirs.importer, theirs.status) == ("stock", "refused")
        assert theirs.message == "ValueError: reset to zero only; use another"
    assert "lif         LIF     exact        refused" in str(report)
    assert report.to_dict()["readers"]["lif"][1]["status"] == "refused"


def test_a_neuron_of_several_nodes_is_judged_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [np.full(5, v) for v in (2 * DT, 2.0, 0.0, 0.5)]
    weight = np.random.default_rng(0).normal(0, 0.6, (5, 4))
    nodes: dict[str, nir.NIRNode] = {
        "input": nir.Input(np.array([4])), "fc": nir.Linear(weight), "mem": nir.LI(*full[:3]),
        "spike": nir.Threshold(full[3]), "reset": nir.Scale(-full[3]),
        "output": nir.Output(np.array([5])),
    }  # fmt: skip
    edges = [*itertools.pairwise(("input", "fc", "mem", "spike", "output"))]
    given = nir.NIRGraph(nodes, [*edges, ("spike", "reset"), ("reset", "mem")])
    report = verify(stamp(given, DT), simulators=agreeing(tmp_path, monkeypatch))
    assert report
    assert {name: runs[0].status for name, runs in report.readers.items()} == dict.fromkeys(
        ("fc", "mem", "reset", "spike"), "exact"
    )


PARTIAL = '''
import os
import nir
import numpy as np
import torch
from snu_plugin.graph import network

def simulate(g, x, dt):
    """Reads thresholds as twice as high, and dies of an Affine alone."""
    if len(g.nodes) == 3 and isinstance(g.nodes["node"], nir.Affine):
        os._exit(9)
    if len(g.nodes) == 3 and isinstance(g.nodes["node"], nir.LIF):
        x = x / 2
    with torch.no_grad():
        return network(g, dt)(torch.tensor(x))[0].numpy()

simulate_stock = simulate
'''


def test_a_node_that_ends_the_process_leaves_the_verdict_on_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulators_forked(monkeypatch)
    report = verify(graph(readout=True), simulators=install(tmp_path, monkeypatch, PARTIAL))
    assert [run.status for run in report.runs] == ["exact", "exact"]
    assert report
    assert report.readers["fc"][0].status == "exact"
    assert report.readers["lif"][0].status == "approximate"
    assert 0 < (report.readers["lif"][0].differing or 0) < 1
    assert report.readers["out"][0].status == "crashed"


def test_a_node_that_gave_nothing_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = agreeing(tmp_path, monkeypatch)
    x = np.zeros((3, 1, 4), np.float32)
    assert verify(graph(), x, names).readers["lif"][0].status == "silent"


def test_progress_is_told_run_by_run(judged: tuple[Report, list[str]]) -> None:
    _, said = judged
    assert said[0] == "2 importers to go"
    assert sorted(said[1:]) == ["told, plugin importer: exact", "told, stock importer: refused"]


@pytest.mark.parametrize(
    ("script", "status", "message"),
    [
        ("exit 139", "crashed", "exit status 139, no message"),
        ("kill -9 $$", "crashed", "exit status -9, no message"),
        ("echo oops >&2; exit 1", "crashed", "oops"),
        ("exec sleep 60", "timed out", "no result after 2 s"),
        ("cp Y $out", "approximate", "gave the shape (1,) instead of (100, 4, 5)"),
        ('echo \'{"status": "missing", "message": "m"}\' >&2; exit 1', "missing", "m"),
    ],
)
def test_every_bad_end_of_a_process_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, status: str, message: str
) -> None:
    report = verify(graph(), simulators=stand_in(tmp_path, monkeypatch, script), limit_s=2)
    assert [(run.status, run.message) for run in report.runs] == [(status, message)] * 2
    assert not report.exact


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("ValueError('no')", "refused"),
        ("AssertionError('v_leak not supported')", "refused"),
        ("NotImplementedError('LI')", "refused"),
        ("AssertionError()", "crashed"),
        ("KeyError('lif')", "crashed"),
        ("AttributeError('tau_mem')", "crashed"),
    ],
)
def test_a_refusal_is_no_crash(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: str,
    status: str,
) -> None:
    code = f"def simulate(g, x, dt):\n    raise {error}\n\nsimulate_stock = simulate\n"
    install(tmp_path, monkeypatch, code)
    write(tmp_path / "graph.nir", graph())
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 4), np.float32))
    files = [str(tmp_path / name) for name in ("graph.nir", "x.npy")]
    assert main(["told", "plugin", *files, "1.0", str(tmp_path / "y.npy")]) == 1
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["status"] == status


def test_a_missing_host_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, monkeypatch, "import a_host_that_is_not_there\n")
    assert main(["told", "plugin", "g", "x", "1.0", "y"]) == 1
    told = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert told["status"] == "missing"
    assert "pip install" in told["message"]


def test_a_differing_output_is_counted_and_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    y = reference()
    y[3, 0, 0] += 1
    report = verify(graph(), simulators=stand_in(tmp_path, monkeypatch, "cp Y $out", y))
    run = report.runs[0]
    assert (run.status, run.differing, run.first_step) == ("approximate", 1 / (100 * 4 * 5), 3)
    assert run.only_first
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["exact"] is False
    assert plain["nodes"][1]["verdict"] == "exact"
    assert plain["versions"]["told"] == "1.0"
    lines = str(report).splitlines()
    assert lines[0] == "dt 0.000976562: declared in the metadata of the graph"
    assert "told       plugin    approximate  0.05% of outputs differ, the first at" in str(report)
    assert lines[-1].startswith("snu-plugin ")


def test_real_outputs_may_differ_by_rounding_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    y = reference(readout=True)
    y[3, 0, 0] = np.nextafter(y[3, 0, 0], np.float32(9))
    names = stand_in(tmp_path, monkeypatch, "cp Y $out", y)
    report = verify(graph(readout=True), simulators=names)
    assert report.compared.startswith("real values, which must agree to")
    assert report.exact
    y[3, 0, 0] += 1e-4
    np.save(tmp_path / "y.npy", y)
    assert not verify(graph(readout=True), simulators=names).exact


def test_outputs_that_are_no_numbers_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    y = reference()
    y[5] = np.nan
    run = verify(graph(), simulators=stand_in(tmp_path, monkeypatch, "cp Y $out", y)).runs[0]
    assert (run.status, run.first_step) == ("approximate", 5)


def test_spikes_must_be_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    y = reference()
    y[3, 0, 0] += 1e-7
    report = verify(graph(), simulators=stand_in(tmp_path, monkeypatch, "cp Y $out", y))
    assert report.compared == "spikes, which must be equal"
    assert not report.exact


def test_given_inputs_are_used() -> None:
    report = verify(graph(), np.zeros((7, 2, 4), np.float32), [])
    assert (report.steps, report.batch, report.active) == (7, 2, 0.0)
    assert "silence was compared" in str(report)


def chain(*thresholds: float, weight: float = 1.0) -> nir.NIRGraph:
    """Layers of five neurons one after the other, each fed by one weight."""
    nodes: dict[str, nir.NIRNode] = {"input": nir.Input(np.array([5]))}
    for i, threshold in enumerate(thresholds):
        nodes[f"fc{i}"] = nir.Linear(weight * np.eye(5))
        nodes[f"lif{i}"] = encode_snu(SNUConfig(), np.full(5, 0.5), np.full(5, threshold), dt=DT)
    nodes["output"] = nir.Output(np.array([5]))
    return stamp(nir.NIRGraph(nodes, list(itertools.pairwise(nodes))), DT)


def agreeing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A simulator that gives what the strict reference gives."""
    simulators_here(monkeypatch)
    return install(folder, monkeypatch, ADAPTER)


def test_silence_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = verify(chain(1e6), simulators=agreeing(tmp_path, monkeypatch))
    assert report.runs[0].status == "exact"
    assert not report
    assert not report.exact
    assert report.problems[0].startswith("nothing fired, so that silence was compared")
    assert report.silent == ("lif0",)
    assert "no neuron of lif0 could be made to fire" in str(report)
    plain = report.to_dict()
    assert (plain["exact"], plain["fired"], plain["silent"]) == (False, {"lif0": 0.0}, ["lif0"])
    assert plain["problems"] == list(report.problems)


def test_silent_outputs_are_no_success_where_layers_before_them_fire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = verify(chain(0.5, 1e6), simulators=agreeing(tmp_path, monkeypatch))
    assert report.fired["lif0"] == 1.0
    assert report.silent == ("lif1",)
    assert report.problems[0].startswith("no output fired")
    assert not report


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        (chain(0.5), "seeded spikes of rate 0.3"),
        (chain(50.0), "seeded spikes of rate 0.3 times 64"),
        (chain(0.5, weight=-1.0), "seeded spikes of rate 0.3 with random signs"),
    ],
)
def test_drawn_inputs_are_changed_until_every_layer_fires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: nir.NIRGraph, inputs: str
) -> None:
    report = verify(given, simulators=agreeing(tmp_path, monkeypatch))
    assert report.inputs == inputs
    assert report.fired == {"lif0": 1.0}
    assert report


def test_a_share_of_the_neurons_that_fired_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.zeros((3, 2, 5), np.float32)
    x[1, 0, :2] = 1.0
    report = verify(chain(0.5), x, agreeing(tmp_path, monkeypatch))
    assert report.fired == {"lif0": 0.4}
    assert "lif0    LIF     40%    exact" in str(report)
    assert report


def test_a_graph_without_spikes_is_compared_by_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = {
        "input": nir.Input(np.array([4])),
        "fc": nir.Linear(np.ones((3, 4))),
        "output": nir.Output(np.array([3])),
    }
    linear = nir.NIRGraph(nodes, list(itertools.pairwise(nodes)))
    names = agreeing(tmp_path, monkeypatch)
    assert verify(linear, simulators=names).fired == {}
    assert verify(linear, simulators=names)
    assert verify(linear, np.zeros((3, 1, 4)), names)


def test_an_approximate_node_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = graph()
    given.nodes["rec"] = nir.Affine(np.full((5, 5), 0.25), np.full(5, 0.25))
    given.edges += [("lif", "rec"), ("rec", "lif")]
    report = verify(given, simulators=agreeing(tmp_path, monkeypatch))
    assert report.runs[0].status == "exact"
    assert report.problems == ("rec is approximate",)
    assert not report


def test_simulators_are_compared_with_the_feedback_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, x = graph(), np.zeros((9, 2, 4), np.float32)
    given.nodes["rec"] = nir.Affine(np.full((5, 5), 0.25), np.full(5, 0.75))
    given.edges += [("lif", "rec"), ("rec", "lif")]
    names = agreeing(tmp_path, monkeypatch)
    first = {}
    for feedback in ("silent", "biased"):
        report = verify(given, x, names, feedback=feedback)
        assert report.exact, str(report)
        assert report.expected is not None
        first[feedback] = float(report.expected[0].sum())
    assert first == {"silent": 0.0, "biased": 10.0}


def test_a_missing_host_counts_only_where_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = verify(graph(), simulators=agreeing(tmp_path, monkeypatch))
    run = Run("absent", "plugin", "missing")
    assert not replace(named, runs=(*named.runs, run))
    assert replace(named, runs=(*named.runs, run), named=False)
    assert replace(named, runs=(run,), named=False).problems == ("no simulator ran",)


def test_without_simulators_nothing_is_exact() -> None:
    assert not verify(graph(), simulators=[]).exact


def test_states_on_their_threshold_are_counted() -> None:
    x = (torch.rand(100, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    nets = network(graph()), network(graph(grid=True))
    shares = [near_threshold(net, net.run(x)[0]) for net in nets]
    assert shares[0] == 0
    assert 0.001 < shares[1] < 0.2


def test_the_potential_is_seen_through_a_delayed_edge() -> None:
    given = graph(grid=True)
    given.nodes["rec"] = nir.Linear(np.full((5, 5), 0.25))
    given.edges += [("lif", "rec"), ("rec", "lif")]
    net = network(given)
    x = (torch.rand(50, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    values, _ = net.run(x)
    v, close, count = torch.zeros(4, 5), 0, 0
    for t in range(50):
        last = values["rec"][t - 1] if t else torch.zeros(4, 5)
        s = 0.5 * v + values["fc"][t] + last
        close += int((s == 0.5).sum())
        count += s.numel()
        v = s * (s <= 0.5)
    assert near_threshold(net, values) == close / count > 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"simulators": ["brian"]}, LookupError, "no simulator 'brian' is known; installed: "),
        ({"x": np.zeros((5, 4))}, ValueError, r"x has shape \(5, 4\); it must be \(T, B, 4\)"),
        ({"x": np.zeros((0, 1, 4))}, ValueError, "T and B at least 1"),
        ({"x": np.full((1, 1, 4), np.nan)}, ValueError, "4 of 4 values of x are not finite"),
        ({"dt": -1.0}, ValueError, "dt is -1.0"),
    ],
)
def test_a_call_that_cannot_be_answered_is_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        verify(graph(), **{"simulators": [], **arguments})


def with_two_ends() -> nir.NIRGraph:
    """Return a graph of two Inputs, of different shapes, and two Outputs."""
    given = graph()
    given.nodes |= {
        "more": nir.Input(input_type={"input": np.array([5])}),
        "all": nir.Output(output_type={"output": np.array([5])}),
    }
    given.edges += [("more", "lif"), ("lif", "all")]
    return given


def test_several_inputs_and_outputs_are_compared_in_both_adapters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulators_here(monkeypatch)
    report = verify(with_two_ends(), simulators=["norse", "snntorch"])
    assert [(r.simulator, r.importer, r.status) for r in report.runs if r.importer == "plugin"] == [
        ("norse", "plugin", "exact"), ("snntorch", "plugin", "exact")
    ]  # fmt: skip
    stock = [run for run in report.runs if run.importer == "stock"]
    assert all(run.status == "refused" for run in stock)
    assert all("2 Inputs; " in run.message for run in stock)
    assert all(report.fired.values())
    assert report.expected is not None
    assert report.expected.shape[:2] == (100, 4)


def test_what_several_inputs_receive_is_given_by_name_or_as_data() -> None:
    given, random = with_two_ends(), np.random.default_rng(0)
    x = {name: random.integers(0, 2, (9, 2, n)).astype(np.float32)
         for name, n in (("input", 4), ("more", 5))}  # fmt: skip
    expected = network(given, DT)({n: torch.from_numpy(part) for n, part in x.items()})[0]
    for sequences in (x, to_data(x, DT)):
        report = verify(given, sequences, simulators=[], dt=DT)
        assert report.expected is not None
        assert np.array_equal(report.expected, side_by_side(expected, 2).detach())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((5, 1, 4)), "x is one sequence; the graph has the Inputs 'input', 'more': give"),
        ({"input": np.zeros((5, 1, 4))}, "x is given for 'input'; the Inputs"),
        ({"input": np.zeros((5, 1, 4)), "more": np.zeros((5, 1, 3))}, "x of 'more' has shape"),
        ({"input": np.zeros((5, 1, 4)), "more": np.zeros((6, 1, 5))}, r"\(5, 1\) of 'input', \(6"),
    ],
)
def test_inputs_that_do_not_fit_several_are_refused(x: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify(with_two_ends(), x, simulators=[])


@pytest.mark.slow
@pytest.mark.parametrize("readout", [False, True])
def test_this_plugin_is_exact_in_every_installed_simulator(readout: bool) -> None:
    report = verify(graph(readout))
    assert report.exact, str(report)


def test_stock_importers_that_run_another_network_stand_in_the_last_word() -> None:
    run = Run("norse", "plugin", "exact", 0.0)
    zeros = np.zeros((4, 1, 5), np.float32)
    stock = Run("norse", "stock", "approximate", 0.18765, 0, outputs=zeros)
    report = replace(verify(graph(), simulators=[]), runs=(run, stock))
    assert "18.8% of outputs differ, the first at step 0; it gives nothing but zeros" in " ".join(
        str(report).split()
    )
    last = "exact as this plugin imports it; not as their own importers do: norse"
    assert last in str(report).splitlines()
    assert "exact" in str(replace(report, runs=(run,))).splitlines()
