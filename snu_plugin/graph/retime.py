"""A node moved to another time step."""

from __future__ import annotations

import copy

import nir


def retimed(node: nir.NIRNode, old: float | None, new: float) -> nir.NIRNode:
    """Return a copy of a node that does in a step of ``new`` seconds what it did in ``old``.

    What an Euler step sees is ``dt/tau``, and ``r dt`` of IF and I.
    """
    node = copy.deepcopy(node)
    if old is None or old == new:
        return node
    for field in ("tau", "tau_mem", "tau_syn", "delay"):
        if hasattr(node, field):
            setattr(node, field, getattr(node, field) * (new / old))
    if isinstance(node, (nir.I, nir.IF)):
        node.r = node.r * (old / new)
    return node
