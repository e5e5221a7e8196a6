"""Which chip every node with weights lies on, and what a graph must satisfy to be laid out there.

Each design rule is a function whose name is the rule; it yields one sentence for each way it is
broken.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from snu_plugin.accelerator import CHIPS, Chip
from snu_plugin.compiler.lower import matrices
from snu_plugin.compiler.tiling import Matrix, arrange
from snu_plugin.graph import DiscreteGraph

DEFAULT = "default"
"""The key of a mapping that stands for every node not named in it."""

Chips = Chip | Mapping[str, Chip]
"""One chip for the whole graph; or chips by the name of the node, ``DEFAULT`` for the others."""

ByNode = Mapping[str, Chip]
"""The chip of every node with weights."""

Rule = Callable[[DiscreteGraph, ByNode], Iterator[str]]

LARGEST = float(np.finfo(np.float32).max)
"""Of the digital side of the chip, which computes in float32."""


def chips_by_node(network: DiscreteGraph, chip: Chips) -> dict[str, Chip]:
    """Return the chip of every node with weights, in the order of the graph.

    Nodes of equal settings share a chip and its tiles; other settings are a chip of their own.

    Raises:
        TypeError: For something that is not a ``Chip`` or a mapping to such.
        ValueError: For names that the graph has not or that have no weights, or if nodes are left
            without a chip.
    """
    holding = [matrix.node for matrix in matrices(network)]
    if isinstance(chip, Chip):
        return dict.fromkeys(holding, chip)
    if not isinstance(chip, Mapping):
        raise TypeError(f"chip is {_shown(chip)}; give a Chip, or a mapping of node names to Chips")
    for name, one in chip.items():
        if not isinstance(one, Chip):
            raise TypeError(f"chip[{name!r}] is {_shown(one)}; give a Chip")
        if name in network.nodes and name not in holding and name != DEFAULT:
            raise ValueError(
                f"chip names {name!r}, which has no weights and lies on no chip; nodes with "
                f"weights are {', '.join(holding) or 'none'}"
            )
        if name not in network.nodes and name != DEFAULT:
            near = difflib.get_close_matches(str(name), [*holding, DEFAULT], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"nodes are {', '.join(holding)}"
            raise ValueError(f"chip names {name!r}, which is no node of the graph; {hint}")
    if left := [name for name in holding if name not in chip and DEFAULT not in chip]:
        raise ValueError(
            f"chip names no chip for {', '.join(left)}; give them one, or one for the rest as "
            f"{DEFAULT!r}"
        )
    return {name: chip[name if name in chip else DEFAULT] for name in holding}


def distinct(chips: Mapping[str, Chip]) -> list[Chip]:
    """Return the chips that differ, in the order in which nodes meet them."""
    return list(dict.fromkeys(chips.values()))


def chip_names(chips: Chips) -> str:
    """Return what reports call the chips."""
    if isinstance(chips, Chip):
        return chips.name
    return ", ".join(dict.fromkeys(chip.name for chip in chips.values()))


def _shown(value: object) -> str:
    if isinstance(value, str) and value in CHIPS:
        return f"{value!r}, a text; the chip of that name is snu_plugin.accelerator.{value}"
    return repr(value)[:60]


def something_is_stored_in_devices(network: DiscreteGraph, chips: ByNode) -> Iterator[str]:
    if not any(True for _ in matrices(network)):
        yield (
            "the graph has no node with weights (Linear, Affine, Conv1d, Conv2d), so there is "
            "nothing to put on devices"
        )


def something_comes_out(network: DiscreteGraph, chips: ByNode) -> Iterator[str]:
    if not network.outputs:
        yield "the graph has no Output, so that nothing would leave the chip"


def every_value_fits_float32(network: DiscreteGraph, chips: ByNode) -> Iterator[str]:
    for name, node in network.nodes.items():
        for field, value in vars(node).items():
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
                continue
            if beyond := int((np.abs(value) > LARGEST).sum()):
                yield (
                    f"{name}: {beyond} of {value.size} values of {field} are beyond "
                    f"{LARGEST:.3g}, the largest of float32"
                )


def the_tiles_suffice(network: DiscreteGraph, chips: ByNode) -> Iterator[str]:
    yield from lacking_tiles(list(matrices(network)), chips)


def lacking_tiles(matrices: Sequence[Matrix], chips: ByNode) -> Iterator[str]:
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


def broken(network: DiscreteGraph, chips: ByNode) -> list[str]:
    """Return a sentence for everything that keeps the graph off its chips."""
    return [sentence for rule in RULES for sentence in rule(network, chips)]
