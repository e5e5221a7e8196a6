"""A small graph that simulators run."""

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
