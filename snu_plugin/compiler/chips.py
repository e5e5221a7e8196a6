"""Which chip every node with weights lies on: one for all, or chips by node."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from snu_plugin.accelerator import CHIPS, Chip
from snu_plugin.compiler.lower import matrices
from snu_plugin.graph import DiscreteGraph

DEFAULT = "default"
"""The key of a mapping that stands for every node not named in it."""

Chips = Chip | Mapping[str, Chip]
"""One chip for the whole graph; or chips by the name of the node, ``DEFAULT`` for the others."""


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


def chip_names(chips: Chips | Mapping[str, Chip]) -> str:
    """Return what reports call the chips."""
    if isinstance(chips, Chip):
        return chips.name
    return ", ".join(dict.fromkeys(chip.name for chip in chips.values()))


def _shown(value: object) -> str:
    if isinstance(value, str) and value in CHIPS:
        return f"{value!r}, a text; the chip of that name is snu_plugin.accelerator.{value}"
    return repr(value)[:60]
