"""How simulators that are not here read a node, as far as it is known: docs/hosts.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np

from snu_plugin.graph.snu_nodes import SNU, SRC

UNKNOWN = "not known"

NEURONS = (nir.LIF, nir.IF, nir.CubaLIF)


def known(simulator: str, node: nir.NIRNode, dt: float | None) -> str:
    """Return "exact", what becomes of the node instead, or "not known".

    Args:
        simulator: One of ``simulators.SIMULATORS``.
        node: A node of a flat graph, with parameters of full shape.
        dt: Time step of the graph.
    """
    if isinstance(node, (SNU, SRC)):
        return "refused: nir.read knows no extension node"
    return RULES[simulator](node, dt)


def _spikingjelly(node: nir.NIRNode, dt: float | None) -> str:
    if not isinstance(node, NEURONS) or dt is None:
        return UNKNOWN
    if not all(_uniform(value) for value in vars(node).values() if isinstance(value, np.ndarray)):
        return "refused: parameters differ from neuron to neuron"
    if np.any(node.v_reset) or np.any(getattr(node, "v_leak", 0)):
        return UNKNOWN if not isinstance(node, nir.LIF) else "refused: v_leak or v_reset is not 0"
    if isinstance(node, nir.LIF) and not (_is(node.r, 1) or _is(node.r * dt, node.tau)):
        return "refused: r is neither 1 nor tau / dt"
    if isinstance(node, nir.IF) and not _is(node.r * dt, 1):
        return "refused: r is not 1 / dt"
    return "exact, but for states on their threshold, which fire"


def _sinabs(node: nir.NIRNode, dt: float | None) -> str:
    if isinstance(node, NEURONS):
        return "crashes: its nir, 1.0.4 at most, reads no v_reset"
    if isinstance(node, nir.LI):
        return UNKNOWN if _is(node.r, 1) else "refused: r is not 1"
    if isinstance(node, (nir.Scale, nir.I, nir.Delay, nir.Linear, nir.Threshold, nir.AvgPool2d)):
        return "left out without a word; refused where nothing else is"
    return UNKNOWN


def _rockpool(node: nir.NIRNode, dt: float | None) -> str:
    if isinstance(node, nir.LIF):
        return "crashes: it looks for the fields of CubaLIF"
    if isinstance(node, nir.CubaLIF):
        return "differs: exponential decay, a spike subtracts"
    return UNKNOWN


def _spyx(node: nir.NIRNode, dt: float | None) -> str:
    if isinstance(node, NEURONS):
        return "differs: a spike subtracts and comes a step late"
    if isinstance(node, (nir.Threshold, nir.Scale, nir.I, nir.Delay, nir.CubaLI)):
        return "left out without a word"
    return UNKNOWN


def _sc_neurocore(node: nir.NIRNode, dt: float | None) -> str:
    if not isinstance(node, NEURONS):
        return UNKNOWN
    if np.any(getattr(node, "v_leak", 0)):
        return "differs at first: it starts at v_leak"
    return "exact"


def _nirtorch(node: nir.NIRNode, dt: float | None) -> str:
    if isinstance(node, nir.Affine):
        return "differs: its bias is replaced by a random one"
    mute = (nir.LI, nir.CubaLI, nir.I, nir.Scale, nir.Delay, nir.Threshold)
    return "refused: it maps layers alone" if isinstance(node, (*NEURONS, *mute)) else UNKNOWN


RULES: dict[str, Callable[[nir.NIRNode, float | None], str]] = {
    "spikingjelly": _spikingjelly,
    "sinabs": _sinabs,
    "rockpool": _rockpool,
    "spyx": _spyx,
    "sc-neurocore": _sc_neurocore,
    "nirtorch": _nirtorch,
}


def _uniform(value: Any) -> bool:
    return bool(np.ptp(value) <= 1e-6 * np.abs(value).max())


def _is(value: Any, wanted: Any) -> bool:
    return bool(np.allclose(value, wanted, rtol=1e-5, atol=0))
