"""What results show in a notebook."""

from __future__ import annotations

import re
from io import StringIO

import nir
import numpy as np
import pytest
import torch

import snu_plugin as sp
from snu_plugin import graph
from snu_plugin.accelerator import IDEAL, Accelerator
from snu_plugin.compiler import compile

AWKWARD = "<script>alert(1)</script>"


def network() -> nir.NIRGraph:
    draw, ones = np.random.default_rng(0), np.ones(6)
    nodes = {
        "in": nir.Input({"input": np.array([4])}),
        AWKWARD: nir.Linear(draw.normal(size=(6, 4))),
        "lif": nir.LIF(0.02 * ones, 20 * ones, 0 * ones, ones, 0 * ones),
        "out": nir.Output({"output": np.array([6])}),
    }
    edges = [("in", AWKWARD), (AWKWARD, "lif"), ("lif", "out")]
    return graph.stamp(nir.NIRGraph(nodes, edges), 0.001)


def cells(html: str) -> list[list[str]]:
    assert "<script" not in html
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in rows]


def test_a_verdict_shows_what_each_importer_did() -> None:
    html = graph.verify(network(), None, [])._repr_html_()
    assert html.startswith("<p><b>not exact: no simulator ran</b></p>")
    assert cells(html) == [["simulator", "importer", "result", ""]]


def test_a_program_shows_what_lies_where() -> None:
    html = compile(network(), IDEAL)._repr_html_()
    assert cells(html)[1] == ["&lt;script&gt;alert(1)&lt;/script&gt;", "6 × 4", "48", "0"]


def test_a_trace_shows_spikes_and_saturation() -> None:
    chip = Accelerator(compile(network(), IDEAL), seed=0)
    chip.program()
    _, trace = chip.run(torch.ones(10, 2, 4))
    shown = {row[0]: row[1:] for row in cells(trace._repr_html_())}
    assert shown["lif"] == [f"{trace.spikes_per_step['lif']:.4g}"]
    assert shown["&lt;script&gt;alert(1)&lt;/script&gt;"] == ["", "0.00%", "0.00%"]


def test_a_diagnosis_shows_each_finding_and_what_layers_did() -> None:
    found = sp.diagnose(network(), torch.zeros(10, 2, 4))
    html = found._repr_html_()
    assert cells(html)[1][:2] == ["inputs", "no input"]
    assert "lif: 0.0000 spikes a step" in html


def written() -> Accelerator:
    chip = Accelerator(compile(network(), IDEAL), seed=0)
    chip.program()
    return chip


def test_results_show_themselves_in_a_line_or_a_table() -> None:
    g = network()
    chip = written()
    _, trace = chip.run(torch.ones(10, 2, 4))
    assert repr(chip.layout) == "Program(IDEAL: 48 devices, 0.0366% of the cells)"
    assert repr(chip) == "Accelerator(IDEAL, 48 devices, 2.66 µs since it was written)"
    assert "not written yet" in repr(Accelerator(chip.layout, seed=0))
    assert repr(trace).startswith("Trace(10 steps of 2 sequences: ")
    assert str(trace).splitlines()[-1].split() == ["lif", f"{trace.spikes_per_step['lif']:.4g}"]
    verdicts = graph.check(g)
    assert verdicts == list(verdicts)
    assert repr(verdicts).splitlines()[:2] == [
        "4 exact",
        "node                       type    " + "verdict  reason",
    ]
    assert repr(sp.diagnose(g, torch.zeros(10, 2, 4))) == "Diagnosis(1 found)"
    assert "lif: Neuron" in repr(graph.network(g))


def test_rich_prints_what_a_notebook_shows() -> None:
    console = pytest.importorskip("rich.console").Console(width=100, record=True, file=StringIO())
    found = sp.diagnose(network(), torch.zeros(10, 2, 4))
    for result in (
        written().layout,
        found,
        graph.check(network()),
        graph.verify(network(), None, []),
    ):
        console.print(result)
    said = console.export_text()
    assert "IDEAL: 48 devices" in said
    assert AWKWARD in said
    assert "no input" in said
    assert "strict forward Euler" in said
