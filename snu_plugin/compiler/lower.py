"""NIR nodes turned into what a chip can do: crossbars, digital neurons, other digital logic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod

import nir
import numpy as np
import torch
from torch import Tensor

from snu_plugin.accelerator import (
    Chip,
    Convolution,
    Digital,
    Geometry,
    Neurons,
    Op,
    Product,
    Scaling,
    Stack,
    WeightLayout,
)
from snu_plugin.compiler.tiling import Matrix, Span, column_spans, spans
from snu_plugin.graph import Conv, DiscreteGraph, node_module

LINEAR = (nir.Linear, nir.Affine)
CONVOLUTIONS = (nir.Conv1d, nir.Conv2d)
ZEROS = 2.0**-60
"""Largest weight that a layer of zeros counts as: the noise of its devices is lost beside any other
value in float32, and gains and sums of squares of it are still exact. Ours."""


def matrices(network: DiscreteGraph) -> Iterator[Matrix]:
    """Yield what every node with weights asks of the tiles."""
    for name, node in network.nodes.items():
        if isinstance(node, (*LINEAR, *CONVOLUTIONS)):
            out, inputs = _matrix(node).shape
            yield Matrix(name, (out, inputs), geometry(network, name).groups)


def lower(
    network: DiscreteGraph, chips: Mapping[str, Chip], scaling: Scaling, outliers: float = 0.0
) -> Iterator[tuple[str, Op]]:
    """Yield name and operation of every node but the inputs; ``chips`` by node with weights.

    Weights go to crossbars, biases stay digital. Neurons keep their input gain (r, w_in) and what
    else they compute in digital, where it is exact. Everything without weights is computed by the
    very module of the strict reference.
    """
    like = torch.zeros((), dtype=torch.float32)
    for name, node in network.nodes.items():
        if name in network.neurons:
            yield name, Neurons(network.neurons[name].to(like))
        elif isinstance(node, (*LINEAR, *CONVOLUTIONS)):
            yield name, product(network, name, chips[name], scaling, outliers)
        elif not isinstance(node, nir.Input):
            yield name, Digital(node_module(name, network, torch.float32).requires_grad_(False))


def product(
    network: DiscreteGraph, name: str, chip: Chip, scaling: Scaling, outliers: float
) -> Product:
    """Return the crossbar of a node with weights; a bias and a share of outliers stay digital."""
    node = network.nodes[name]
    weight, kept = _matrix(node), None
    if outliers:
        beside = find_outliers(weight, outliers, scaling, chip.tile_rows)
        kept = weight.where(beside, 0.0).float()
        weight = weight.where(~beside, 0.0)
    bias = getattr(node, "bias", None)
    return replace(
        on_devices(weight, geometry(network, name), chip, scaling),
        bias=None if bias is None else torch.from_numpy(np.array(bias, np.float32).reshape(-1)),
        outliers=kept,
    )


def on_devices(weight: Tensor, shaped: Geometry, chip: Chip, scaling: Scaling) -> Product:
    """Return the crossbar that holds a matrix ``(out, in)``, float64, without a bias."""
    return Product(
        chip=chip,
        weight=weight,
        bias=None,
        weight_per_us=weight_per_us(weight, chip, scaling, shaped.groups),
        row_blocks=spans(weight.shape[1], chip.tile_rows),
        geometry=shaped,
        layout=WeightLayout.of(chip, column_spans(len(weight), shaped.groups, chip.tile_columns)),
    )


def weight_per_us(weight: Tensor, chip: Chip, scaling: Scaling, groups: int = 1) -> Tensor:
    """Return the weight that one µS stands for, ``(out, in)`` float64, constant within a group.

    The largest magnitude of each group takes the whole range, ``span_us``: from ``g_min_us`` to
    ``g_max_us`` on a pair, half of that on one device (docs/devices.md, scaling). Groups:
    the ``layer``, each ``tile``, or each ``column`` (one output) of each row of tiles.

    A group of zeros, or of weights that float32 holds as such, has no largest magnitude of its
    own and takes that of the layer: its devices add no more noise than those of the others. A
    layer of zeros takes ``ZEROS``.
    """
    out, inputs = weight.shape
    rows = ((0, inputs),) if scaling == "layer" else spans(inputs, chip.tile_rows)
    least = torch.finfo(torch.float32).tiny
    of_layer = weight.abs().max()
    of_layer = of_layer if of_layer >= least else of_layer.new_tensor(ZEROS)
    largest = torch.empty_like(weight)
    for first, end in rows:
        by_output = weight[:, first:end].abs().amax(1)
        if scaling != "column":
            together: tuple[Span, ...] = (
                ((0, out),) if scaling == "layer" else column_spans(out, groups, chip.tile_columns)
            )
            for top, bottom in together:
                by_output[top:bottom] = by_output[top:bottom].max()
        own = torch.where(by_output >= least, by_output, of_layer)
        largest[:, first:end] = own[:, None]
    return largest / chip.span_us


def find_outliers(weight: Tensor, share: float, scaling: Scaling, tile_rows: int) -> Tensor:
    """Return which weights of a matrix ``(out, in)`` stay beside the devices, bool.

    The ``share`` that is largest beside the root of the mean square of its scale group: one output
    in a row of tiles, or the whole matrix where a ``layer`` or ``tile`` shares its scale. Weights
    of 0 are none; of equal ones the first.

    >>> w = torch.tensor([[0.1, 0.2, 0.9, -0.2], [0.5, 0.5, 0.5, -0.5]])
    >>> find_outliers(w, 0.25, "column", 256)
    tensor([[False, False,  True, False],
            [ True, False, False, False]])
    """
    usual = torch.empty_like(weight)
    for first, end in spans(weight.shape[1], tile_rows):
        part = weight[:, first:end] if scaling == "column" else weight
        mean = part.square().mean(1, keepdim=True) if scaling == "column" else part.square().mean()
        usual[:, first:end] = mean.sqrt()
    size = (weight.abs() / usual).nan_to_num(0.0).flatten()
    order = size.sort(descending=True, stable=True).indices[: int(share * weight.numel())]
    found = torch.zeros(size.shape, dtype=torch.bool)
    found[order] = True
    return (found & (size > 0)).view(weight.shape)


def geometry(network: DiscreteGraph, name: str) -> Geometry:
    """Return how the matrix of a node meets its input."""
    node = network.nodes[name]
    shape = tuple(node.weight.shape)
    if isinstance(node, LINEAR):
        plain = len(shape) == 2
        return Geometry(shape=shape) if plain else Stack(shape=shape, groups=prod(shape[:-2]))
    reference, output = Conv(node, torch.float32), network.shapes[name][1:]
    settings = {name: reference.settings[name] for name in ("stride", "dilation", "groups")}
    return Convolution(
        shape=shape, positions=prod(output), pads=tuple(reference.pads), output=output, **settings
    )


def _matrix(node: nir.NIRNode) -> Tensor:
    """Return the weights of a node as one matrix ``(out, in)``, groups below one another."""
    weight = torch.from_numpy(np.array(node.weight, dtype=np.float64))
    if isinstance(node, LINEAR):
        return weight.reshape(-1, weight.shape[-1])
    return weight.flatten(1)
