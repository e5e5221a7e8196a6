"""Change one property of a chip at a time and see what a network on it loses."""

from dataclasses import replace
from itertools import pairwise

import nir
import numpy as np
import torch

from snu_plugin import SNUConfig, graph
from snu_plugin.accelerator import PCM, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp


def network() -> nir.NIRGraph:
    """Return 64-128-10 random weights with a layer of soft SNU between them."""
    draw = np.random.default_rng(0)
    nodes = {
        "input": nir.Input({"input": np.array([64])}),
        "fc1": nir.Linear(draw.normal(0, 0.25, (128, 64))),
        "ssnu": encode_snu(SNUConfig(soft=True), decay=np.full(128, 0.8), threshold=1.0, dt=2**-10),
        "fc2": nir.Linear(draw.normal(0, 0.2, (10, 128))),
        "output": nir.Output({"output": np.array([10])}),
    }
    names = list(nodes)
    return stamp(nir.NIRGraph(nodes, list(pairwise(names))), 2**-10)


def main() -> None:
    """Print the error of the outputs after a day, calibrated, for several chips."""
    g = network()
    x = (torch.rand(30, 20, 64, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    expected = graph.network(g)(x)[0].detach()
    chips = {
        "PCM": PCM,
        "6-bit converters": replace(PCM, adc_bits=6),
        "twice the programming error": replace(PCM, programming_noise=2.0),
        "no drift": replace(PCM, drift=None),
    }
    for name, settings in chips.items():
        chip = Accelerator(compile(g, settings), seed=1)
        chip.program()
        chip.wait(86_400)
        chip.calibrate()
        out, trace = chip.run(x)
        error = float((out - expected).square().mean() / expected.square().mean()) ** 0.5
        print(f"{name:28} error {error:6.1%}  {trace.cost.total_nj:5.2f} nJ per step")


if __name__ == "__main__":
    main()
