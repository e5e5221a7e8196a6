"""Small graphs that simulators and chips run."""

from __future__ import annotations

import nir
import numpy as np

from snu_plugin import SNUConfig
from snu_plugin.graph import encode_snu, stamp

DT = 2.0**-10


def graph() -> nir.NIRGraph:
    weight = np.random.default_rng(0).normal(0, 0.8, (5, 4)).astype(np.float32)
    nodes = {
        "input": nir.Input({"input": np.array([4])}),
        "fc": nir.Linear(weight),
        "lif": encode_snu(SNUConfig(), np.full(5, 0.5), np.full(5, 0.3), dt=DT),
        "output": nir.Output({"output": np.array([5])}),
    }
    edges = [("input", "fc"), ("fc", "lif"), ("lif", "output")]
    return stamp(nir.NIRGraph(nodes, edges, type_check=False), DT)


def layered(*, recurrent: bool = False, soft: bool = False) -> nir.NIRGraph:
    """Two layers with weights, of which the first one's units may feed themselves."""
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([10])}),
        "fc1": nir.Linear(draw.uniform(-0.8, 0.8, (14, 10))),
        "snu": encode_snu(SNUConfig(soft=soft), 0.6, np.full(14, 0.5), dt=DT),
        "fc2": nir.Affine(draw.uniform(-0.8, 0.8, (6, 14)), draw.normal(0, 0.1, 6)),
        "out": nir.Output({"output": np.array([6])}),
    }
    edges = [("in", "fc1"), ("fc1", "snu"), ("snu", "fc2"), ("fc2", "out")]
    if recurrent:
        nodes["rec"] = nir.Linear(draw.uniform(-0.5, 0.5, (14, 14)))
        edges += [("snu", "rec"), ("rec", "snu")]
    return stamp(nir.NIRGraph(nodes, edges), DT)
