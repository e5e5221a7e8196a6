"""What an adapter to a simulator promises, as claims that prove themselves.

Third parties test theirs like this::

    @pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
    def test_adapter(claim):
        claim(snu_brian)
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nir
import numpy as np
import torch
from torch import Tensor

from snu_plugin import graph
from snu_plugin.neuron import SNUConfig

Claim = Callable[[ModuleType], None]
DT = 2.0**-10


def network(kind: str, seed: int = 0) -> nir.NIRGraph:
    """Return a random network: ``feed-forward``, ``recurrent``, ``convolutional`` or ``soft``."""
    draw = np.random.default_rng(seed)
    if kind == "convolutional":
        kernel = draw.normal(0, 0.5, (3, 2, 3, 3))
        nodes = {
            "input": nir.Input({"input": np.array([2, 6, 6])}),
            "conv": nir.Conv2d((6, 6), kernel, 1, 0, 1, 1, np.zeros(3)),
            "snu": graph.encode_snu(SNUConfig(), 0.8, np.full((3, 4, 4), 0.7), dt=DT),
            "flat": nir.Flatten({"input": np.array([3, 4, 4])}, 0, -1),
            "fc": nir.Linear(draw.normal(0, 0.4, (4, 48))),
        }
    else:
        h = draw.normal(0, 0.5, (7, 7)) if kind == "recurrent" else None
        config = SNUConfig(soft=kind == "soft")
        unit = graph.encode_snu(config, draw.uniform(0.3, 0.9, 7), draw.uniform(0.4, 1.1, 7), dt=DT)
        nodes = {
            "input": nir.Input({"input": np.array([5])}),
            "fc1": nir.Affine(draw.normal(0, 0.8, (7, 5)), draw.normal(0, 0.2, 7)),
            "snu": unit,
            "fc2": nir.Linear(draw.normal(0, 0.8, (4, 7))),
        }
    nodes["last"] = graph.encode_snu(SNUConfig(), 0.7, np.full(4, 0.6), dt=DT)
    nodes["output"] = nir.Output({"output": np.array([4])})
    edges = list(itertools.pairwise(nodes))
    if kind == "recurrent":
        nodes["rec"] = nir.Linear(h)
        edges += [("snu", "rec"), ("rec", "snu")]
    return graph.stamp(nir.NIRGraph(nodes, edges), DT)


def spikes(g: nir.NIRGraph, seed: int = 0, steps: int = 30, batch: int = 3) -> Tensor:
    """Return seeded inputs ``(T, B, ...)`` of 0 and 1 for the one Input of ``g``."""
    (entry,) = (node for node in g.nodes.values() if isinstance(node, nir.Input))
    shape = tuple(int(n) for n in entry.input_type["input"])
    drawn = torch.rand((steps, batch, *shape), generator=torch.Generator().manual_seed(seed))
    return (drawn < 0.4).float()


def expected(g: nir.NIRGraph, x: Tensor) -> np.ndarray:
    """Return what the strict reference answers."""
    with torch.no_grad():
        y, _ = graph.network(g)(x)
    if not isinstance(y, Tensor):
        raise ValueError("claims are made about graphs with one Output")
    return y.numpy()


def _same(found: np.ndarray, wanted: np.ndarray, what: str) -> None:
    if found.shape != wanted.shape:
        raise AssertionError(f"{what}: shape {found.shape} instead of {wanted.shape}")
    if not np.array_equal(found, wanted):
        share = float((found != wanted).mean())
        raise AssertionError(f"{what}: {share:.2%} of the outputs differ from the reference")
    if not wanted.any() or wanted.all():
        raise AssertionError(f"{what}: the reference never changes, so nothing was shown")


def it_runs_a_feed_forward_graph_as_the_reference_does(adapter: ModuleType) -> None:
    _runs(adapter, "feed-forward")


def it_runs_a_recurrent_graph_as_the_reference_does(adapter: ModuleType) -> None:
    _runs(adapter, "recurrent")


def it_runs_a_convolutional_graph_as_the_reference_does(adapter: ModuleType) -> None:
    _runs(adapter, "convolutional")


def it_runs_soft_units_as_the_reference_does(adapter: ModuleType) -> None:
    _runs(adapter, "soft")


def _runs(adapter: ModuleType, kind: str) -> None:
    for seed in range(3):
        g = network(kind, seed)
        x = spikes(g, seed)
        _same(adapter.simulate(g, x.numpy(), DT), expected(g, x), f"{kind} graph {seed}")


def what_it_imports_it_exports_again(adapter: ModuleType) -> None:
    for kind in ("feed-forward", "recurrent", "convolutional", "soft"):
        g = network(kind)
        x = spikes(g)
        back = adapter.to_nir(adapter.from_nir(g), x[0], dt=DT)
        with tempfile.TemporaryDirectory() as folder:
            graph.write(Path(folder) / "back.nir", back)
            read = graph.read(Path(folder) / "back.nir")
        _same(expected(read, x), expected(g, x), f"{kind} graph after import and export")


def a_strict_export_refuses_what_nir_cannot_say(adapter: ModuleType) -> None:
    g = network("soft")
    try:
        adapter.to_nir(adapter.from_nir(g), spikes(g)[0], dt=DT, strict=True)
    except ValueError:
        return
    raise AssertionError("a soft unit left with strict=True")


def what_it_builds_survives_copy_and_state_dict(adapter: ModuleType) -> None:
    g = network("recurrent")
    net = adapter.from_nir(g)
    values = net.state_dict()
    if not values:
        raise AssertionError("the network has no parameters in its state_dict")
    twin = copy.deepcopy(net)
    twin.load_state_dict(values)
    x = spikes(g)
    back = adapter.to_nir(twin, x[0], dt=DT)
    _same(expected(back, x), expected(g, x), "a copy of the network")


def registering_can_be_undone_and_done_twice(adapter: ModuleType) -> None:
    for _ in range(2):
        adapter.register()
        adapter.register()
        adapter.unregister()
    with adapter.registered():
        pass
    adapter.unregister()


CLAIMS: tuple[Claim, ...] = (
    it_runs_a_feed_forward_graph_as_the_reference_does,
    it_runs_a_recurrent_graph_as_the_reference_does,
    it_runs_a_convolutional_graph_as_the_reference_does,
    it_runs_soft_units_as_the_reference_does,
    what_it_imports_it_exports_again,
    a_strict_export_refuses_what_nir_cannot_say,
    what_it_builds_survives_copy_and_state_dict,
    registering_can_be_undone_and_done_twice,
)
"""What every adapter promises."""
