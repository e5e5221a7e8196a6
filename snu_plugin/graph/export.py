"""A torch model turned into a NIR graph."""

from __future__ import annotations

from functools import singledispatch

import nir


@singledispatch
def to_node(module: object, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    """Return the NIR node for one module; adapters add rules with ``@to_node.register``.

    Args:
        module: A module of a type that has a rule.
        shape: Shape of what the module receives in one step, without batch and time.
        dt: Time step in seconds that the graph declares.

    Returns:
        A node whose parameters have their full shape. A recurrent layer returns a
        ``nir.NIRGraph`` with the nodes ``input``, ``lif``, ``w_rec``, ``output``.

    Raises:
        TypeError: If the type has no rule.
    """
    raise TypeError(f"no NIR rule for {type(module).__qualname__}; add one with @to_node.register")
