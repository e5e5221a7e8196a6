"""NIR nodes turned into what a chip can do: crossbars, digital neurons, relays."""

from __future__ import annotations

from collections.abc import Iterator

import nir
import numpy as np
import torch

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.program import Neurons, Op, Product, Relay, Scaling
from snu_plugin.compiler.mapping import weight_per_us
from snu_plugin.compiler.tiling import spans
from snu_plugin.graph.discretise import Discrete

MATRICES = (nir.Linear, nir.Affine)
RELAYS = (nir.Flatten, nir.Output, nir.Scale)


def maps(node: nir.NIRNode) -> bool:
    """Return whether a node without dynamics has a place on the chip."""
    return isinstance(node, (*MATRICES, *RELAYS, nir.Input))


def lower(network: Discrete, chip: Chip, scaling: Scaling) -> Iterator[tuple[str, Op]]:
    """Yield name and operation of every node but the inputs; every node must map."""
    like = torch.zeros((), dtype=torch.float32)
    for name, node in network.nodes.items():
        if name in network.neurons:
            yield name, Neurons(network.neurons[name].to(like))
        elif isinstance(node, MATRICES):
            yield name, product(node, chip, scaling)
        elif isinstance(node, RELAYS):
            scale = torch.from_numpy(np.array(node.scale)) if isinstance(node, nir.Scale) else None
            yield name, Relay(network.shapes[name], None if scale is None else scale.to(like))


def product(node: nir.NIRNode, chip: Chip, scaling: Scaling) -> Product:
    """Return the crossbar of a Linear or Affine node; a bias stays digital."""
    weight = torch.from_numpy(np.array(node.weight, dtype=np.float64))
    bias = getattr(node, "bias", None)
    return Product(
        weight=weight,
        bias=None if bias is None else torch.from_numpy(np.array(bias, dtype=np.float32)),
        weight_per_us=weight_per_us(weight, chip, scaling),
        row_blocks=spans(weight.shape[1], chip.tile_rows),
    )
