"""Design rules: what a graph must satisfy to be laid out on a chip.

Each rule is a function whose name is the rule; it yields one sentence for each way it is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from snu_plugin.accelerator import Chip
from snu_plugin.compiler.chips import distinct
from snu_plugin.compiler.lower import matrices
from snu_plugin.compiler.tiling import Matrix, arrange
from snu_plugin.graph import DiscreteGraph

Chips = Mapping[str, Chip]
"""The chip of every node with weights."""

Rule = Callable[[DiscreteGraph, Chips], Iterator[str]]

LARGEST = float(np.finfo(np.float32).max)
"""Of the digital side of the chip, which computes in float32."""


def something_is_stored_in_devices(network: DiscreteGraph, chips: Chips) -> Iterator[str]:
    if not any(True for _ in matrices(network)):
        yield (
            "the graph has no node with weights (Linear, Affine, Conv1d, Conv2d), so there is "
            "nothing to put on devices"
        )


def something_comes_out(network: DiscreteGraph, chips: Chips) -> Iterator[str]:
    if not network.outputs:
        yield "the graph has no Output, so that nothing would leave the chip"


def every_value_fits_float32(network: DiscreteGraph, chips: Chips) -> Iterator[str]:
    for name, node in network.nodes.items():
        for field, value in vars(node).items():
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
                continue
            if beyond := int((np.abs(value) > LARGEST).sum()):
                yield (
                    f"{name}: {beyond} of {value.size} values of {field} are beyond "
                    f"{LARGEST:.3g}, the largest of float32"
                )


def the_tiles_suffice(network: DiscreteGraph, chips: Chips) -> Iterator[str]:
    yield from lacking_tiles(list(matrices(network)), chips)


def lacking_tiles(matrices: Sequence[Matrix], chips: Chips) -> Iterator[str]:
    """Yield a sentence for every chip on which these matrices do not find a place."""
    for chip in distinct(chips):
        placed = arrange((m for m in matrices if chips[m.node] == chip), chip)
        used = {tile.number for tile in placed}
        if len(used) > chip.tiles:
            by_node: dict[str, set[int]] = {}
            for tile in placed:
                by_node.setdefault(tile.node, set()).add(tile.number)
            parts = ", ".join(f"{name} {len(numbers)}" for name, numbers in by_node.items())
            yield (
                f"{len(used)} tiles of {chip.tile_rows} x {chip.tile_columns} are needed "
                f"({parts}), {chip.name} has {chip.tiles}"
            )


RULES: tuple[Rule, ...] = (
    something_is_stored_in_devices,
    something_comes_out,
    every_value_fits_float32,
    the_tiles_suffice,
)


def broken(network: DiscreteGraph, chips: Chips) -> list[str]:
    """Return a sentence for everything that keeps the graph off its chips."""
    return [sentence for rule in RULES for sentence in rule(network, chips)]
