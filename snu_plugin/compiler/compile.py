"""A NIR graph compiled into a program for a chip."""

from __future__ import annotations

from typing import get_args

import nir

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.program import Product, Program, Scaling
from snu_plugin.compiler.lower import lower
from snu_plugin.compiler.rules import broken
from snu_plugin.compiler.source import as_file
from snu_plugin.compiler.tiling import tiles
from snu_plugin.graph import discretise


class CannotMap(ValueError):
    """A graph that a chip cannot hold, with every reason at once."""

    def __init__(self, chip: Chip, reasons: list[str]) -> None:
        super().__init__(f"{chip.name} cannot hold the graph: {'; '.join(reasons)}")
        self.reasons = tuple(reasons)
        """One sentence for each broken rule, with the node's name."""


def compile(
    g: nir.NIRGraph, chip: Chip, scaling: Scaling = "column", *, dt: float | None = None
) -> Program:
    """Lay a graph out on a chip.

    Weights of Linear and Affine nodes become differential pairs, G+ - G-, on tiles; everything
    else runs in digital next to them, biases included.

    Args:
        g: A NIR graph as ``snu_plugin.graph.read`` or ``to_nir`` give it.
        chip: The chip's settings.
        scaling: What the largest weight of takes the whole conductance range: the ``layer``, each
            ``tile``, or each ``column`` of a tile.
        dt: Time step in seconds; ``None`` takes the one the graph was made with.

    Returns:
        The program, frozen; ``Accelerator`` takes it.

    Raises:
        CannotMap: With every broken design rule and the node's name.
        ValueError: For a scaling that does not exist, or a graph that cannot be discretised.
    """
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling is {scaling!r}; it must be {', '.join(get_args(Scaling))}")
    network = discretise(g, dt)
    if reasons := broken(network, chip):
        raise CannotMap(chip, reasons)
    ops = dict(lower(network, chip, scaling))
    return Program(
        chip=chip,
        scaling=scaling,
        ops=ops,
        wiring=network.wiring,
        inputs=network.inputs,
        outputs=network.outputs,
        shapes=network.shapes,
        tiles=tuple(
            tile
            for name, op in ops.items()
            if isinstance(op, Product)
            for tile in tiles(name, (op.weight.shape[0], op.weight.shape[1]), chip)
        ),
        dt=network.dt,
        source=as_file(g),
    )
