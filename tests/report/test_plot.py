"""Pictures from Python: axes in, the same axes out."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import nir
import numpy as np
import pytest
import snntorch as snn
import torch

import snu_snntorch as st
from forked import Process
from snu_plugin import graph, plot
from snu_plugin.accelerator import IDEAL, PCM
from snu_plugin.compiler import compile
from snu_plugin.origin import how_to_install

matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib")
matplotlib.use("agg")

from matplotlib import pyplot  # noqa: E402


@pytest.fixture
def ax() -> Iterator[Any]:
    figure, axes = pyplot.subplots()
    yield axes
    figure.canvas.draw()  # whatever was drawn can be shown
    pyplot.close(figure)


def network() -> nir.NIRGraph:
    draw, ones = np.random.default_rng(0), np.ones(6)
    nodes = {
        "in": nir.Input({"input": np.array([4])}),
        "fc": nir.Linear(draw.normal(size=(6, 4))),
        "lif": nir.LIF(0.02 * ones, 20 * ones, 0 * ones, ones, 0 * ones),
        "rec": nir.Linear(draw.normal(size=(6, 6))),
        "out": nir.Output({"output": np.array([6])}),
    }
    edges = [("in", "fc"), ("fc", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "out")]
    return graph.stamp(nir.NIRGraph(nodes, edges), 0.001)


def arrow(text: Any) -> Any:
    return getattr(text, "arrow_patch", None)


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_a_raster_has_a_dot_for_each_spike_of_the_sequence(ax: Any) -> None:
    spikes = torch.zeros(10, 2, 3, 2)
    spikes[4, 1, 2, 1] = 1
    returned: Any = plot.raster(spikes, ax, sequence=1, dt=0.5)
    assert returned is ax
    assert ax.collections[0].get_offsets().tolist() == [[2.0, 5.0]]
    assert ax.get_xlabel() == "time (s)"


def test_layers_of_a_raster_stand_above_one_another(ax: Any) -> None:
    plot.raster({"a": torch.eye(3), "b": torch.eye(3)}, ax)
    assert [c.get_offsets()[:, 1].max() for c in ax.collections] == [2, 5]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


def test_a_large_layer_of_a_raster_shows_every_nth_neuron_and_says_so(ax: Any) -> None:
    plot.raster({"a": torch.eye(9), "b": torch.eye(3)}, ax, most=4)
    assert ax.collections[0].get_offsets().tolist() == [[0, 0], [3, 1], [6, 2]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a\n1 in 3", "b"]


def test_traces_are_those_of_the_graph_with_its_threshold(ax: Any) -> None:
    net = graph.network(network(), dt=0.001)
    values = graph.membranes(net, torch.ones(20, 2, 4))["lif"]
    plot.traces(values, ax, neurons=(1, 5), threshold=1.0)
    drawn, level = ax.lines[1].get_ydata(), ax.lines[2].get_ydata()
    assert np.allclose(drawn, values[:, 0, 5])
    assert set(level) == {1.0}


def test_membranes_lie_above_the_threshold_where_neurons_fire_and_nowhere_else() -> None:
    net = graph.network(network(), dt=0.001)
    x = 2 * torch.rand((30, 2, 4), generator=torch.Generator().manual_seed(0))
    y, _ = net(x)
    assert 0 < y.mean() < 1
    assert torch.equal(graph.membranes(net, x)["lif"] > 1, y > 0)


def test_rates_are_means_over_time_and_batch(ax: Any) -> None:
    plot.rates({"a": torch.ones(4, 2, 3), "b": torch.zeros(4, 2, 3)}, ax)
    assert [bar.get_width() for bar in ax.patches] == [1.0, 0.0]


def test_a_graph_shows_every_node_and_dashes_the_way_back(ax: Any) -> None:
    returned: Any = plot.graph(network(), ax)
    assert returned is ax
    said = [text for text in texts(ax) if text]
    assert "lif\nLIF 6" in said
    assert len(said) == 5
    dashed = [a for t in ax.texts if (a := arrow(t)) and a.get_linestyle() == "--"]
    assert len(dashed) == 1


def test_a_graph_with_a_cell_of_several_nodes_and_a_reset_by_a_wire_is_drawn(ax: Any) -> None:
    cell = snn.RLeaky(0.9, init_hidden=True, linear_features=3)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), cell)
    returned: Any = plot.graph(st.to_nir(net, torch.rand(2, 4)), ax)
    back = [a for t in returned.texts if (a := arrow(t)) and a.get_linestyle() == "--"]
    assert len(back) == 2  # the recurrent weights, and the reset


@pytest.mark.parametrize("layers", [1, 4])
def test_boxes_of_a_graph_do_not_overlap(layers: int) -> None:
    linear = torch.nn.Linear(4, 4)
    torch.nn.init.eye_(linear.weight)  # so that every layer fires
    parts = [torch.nn.Sequential(linear, snn.Leaky(0.9, init_hidden=True))] * layers
    g = st.to_nir(torch.nn.Sequential(*map(copy.deepcopy, parts)), torch.full((2, 4), 2.0))
    ax = plot.graph(g)
    ax.figure.canvas.draw()
    patches = [patch for text in ax.texts if (patch := text.get_bbox_patch())]
    boxes = [patch.get_window_extent() for patch in patches]
    assert len(boxes) > 2 * layers
    over = [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    pyplot.close("all")
    assert not over


def test_a_chip_map_says_how_full_each_tile_is(ax: Any) -> None:
    program = compile(network(), IDEAL, dt=0.001)
    returned: Any = plot.chip_map(program, ax)
    assert returned is ax
    drawn = [patch.get_width() * patch.get_height() for patch in ax.patches]
    tiles, weights = drawn[: program.tile_count], drawn[program.tile_count :]
    assert tiles == [1.0] * program.tile_count
    assert sum(weights) / sum(tiles) == pytest.approx(program.utilisation)
    assert len(texts(ax)) == program.tile_count
    assert all(text.startswith("tile ") and text.endswith("%") for text in texts(ax))


def test_scores_have_a_band_over_chips_and_lines_to_compare(ax: Any) -> None:
    plot.score([20, 86400], {"left alone": np.ones((3, 2)), "tuned": [2, 2]}, ax, lines={"f": 3})
    assert len(ax.collections) == 1
    assert [label.get_text() for label in ax.get_xticklabels()] == ["20 s", "1 h", "1 d"]


def test_devices_drift_down_and_ideal_ones_stay(ax: Any) -> None:
    plot.device(PCM, ax)
    assert all(line.get_ydata()[-1] < line.get_ydata()[0] for line in ax.lines)


def test_ideal_devices_stay_where_they_were_written(ax: Any) -> None:
    plot.device(IDEAL, ax)
    assert [line.get_ydata()[-1] / IDEAL.g_max_us for line in ax.lines] == list(plot.LEVELS)


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: plot.raster(torch.ones(3)), r"values have shape \(3,\); give \(T, B, ...\)"),
        (lambda: plot.raster(torch.ones(3, 1, 2), sequence=4), "sequence is 4; the batch has 0 to"),
        (lambda: plot.traces(torch.ones(3, 2), neurons=[7]), "neurons holds 7; the layer has 0 to"),
        (lambda: plot.score([0, 1], {}), "give a list of times above 0"),
        (lambda: plot.score([1, 2], {"a": [1]}), "curve 'a' has shape"),
        (lambda: plot.device(PCM, seconds=1.0), "seconds is 1; it must be above"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(draw: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        draw()  # type: ignore[operator]
    pyplot.close("all")


def test_without_matplotlib_a_line_says_what_to_install_and_import_needs_it_not() -> None:
    code = (
        "import sys, torch; sys.modules['matplotlib'] = None\n"
        "from snu_plugin import plot\n"
        "try: plot.raster(torch.ones(3, 2))\n"
        "except ImportError as error: print(error)"
    )
    ran = Process(code)
    assert ran.wait() == 0, ran.err
    assert ran.out.strip() == (
        f"pictures need matplotlib; install it with: {how_to_install('report')}"
    )
