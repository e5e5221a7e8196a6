"""Design rules: what a graph must satisfy to be laid out on a chip.

Each rule is a function whose name is the rule; it yields one sentence for each way it is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from snu_plugin.accelerator.chip import Chip
from snu_plugin.compiler.lower import MATRICES, maps
from snu_plugin.compiler.tiling import tiles
from snu_plugin.graph.discretise import Discrete

Rule = Callable[[Discrete, Chip], Iterator[str]]


def every_node_has_a_place(network: Discrete, chip: Chip) -> Iterator[str]:
    for name, node in network.nodes.items():
        if name not in network.neurons and not maps(node):
            yield (
                f"{name}: {type(node).__name__} has no place on the chip; Linear, Affine, Scale, "
                "Flatten and neurons have"
            )


def something_is_stored_in_devices(network: Discrete, chip: Chip) -> Iterator[str]:
    if not any(True for _ in _matrices(network)):
        yield "the graph has no Linear or Affine node, so there is nothing to put on devices"


def the_tiles_suffice(network: Discrete, chip: Chip) -> Iterator[str]:
    needed = {name: len(tiles(name, weight.shape, chip)) for name, weight in _matrices(network)}
    if sum(needed.values()) > chip.tiles:
        parts = ", ".join(f"{name} {count}" for name, count in needed.items())
        yield (
            f"{sum(needed.values())} tiles of {chip.tile_rows} x {chip.tile_columns} are needed "
            f"({parts}), {chip.name} has {chip.tiles}"
        )


RULES: tuple[Rule, ...] = (
    every_node_has_a_place,
    something_is_stored_in_devices,
    the_tiles_suffice,
)


def broken(network: Discrete, chip: Chip) -> list[str]:
    """Return a sentence for everything that keeps the graph off the chip."""
    return [sentence for rule in RULES for sentence in rule(network, chip)]


def _matrices(network: Discrete) -> Iterator[tuple[str, np.ndarray]]:
    for name, node in network.nodes.items():
        if isinstance(node, MATRICES):
            yield name, np.asarray(node.weight)
