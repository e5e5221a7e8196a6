"""What results show in a notebook."""

from __future__ import annotations

import re

import nir
import numpy as np
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
