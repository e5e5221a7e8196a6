"""A small recurrent network on chips that were written a year ago, and what it should answer."""

from __future__ import annotations

from functools import cache

import nir
import numpy as np
import torch
from torch import Generator, Tensor

from snu_plugin import graph
from snu_plugin.accelerator import PCM, Accelerator, Chip
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig

YEAR_S = 365 * 86_400.0


def network() -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([20])}),
        "fc1": nir.Linear(draw.uniform(-0.8, 0.8, (30, 20))),
        "snu": encode_snu(SNUConfig(soft=True), 0.6, np.full(30, 0.5), dt=2.0**-10),
        "rec": nir.Linear(draw.uniform(-0.2, 0.2, (30, 30))),
        "fc2": nir.Affine(draw.uniform(-0.8, 0.8, (6, 30)), np.zeros(6)),
        "out": nir.Output({"output": np.array([6])}),
    }
    edges = [("in", "fc1"), ("fc1", "snu"), ("snu", "rec"), ("rec", "snu"), ("snu", "fc2")]
    return stamp(nir.NIRGraph(nodes, [*edges, ("fc2", "out")]), 2.0**-10)


def aged(chip: Chip = PCM, seed: int = 0, age_s: float = YEAR_S) -> Accelerator:
    made = Accelerator(compile(network(), chip), seed)
    made.program()
    made.wait(age_s)
    return made


def inputs(seed: int = 0) -> Tensor:
    drawn = torch.rand(8, 16, 20, generator=Generator().manual_seed(seed))
    return (drawn < 0.4).float()


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


@cache
def task() -> tuple[tuple[Tensor, Tensor], ...]:
    net = graph.network(network(), dtype=torch.float32)
    return tuple((x, net(x)[0].detach()) for x in map(inputs, range(40)))
