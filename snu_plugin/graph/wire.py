"""How a Spiking Neural Unit is spelt in NIR: the one place that knows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import nir
import numpy as np
from numpy.typing import ArrayLike, NDArray

from snu_plugin.neuron import Activation, SNUConfig

Array = NDArray[Any]

KEY = "snu"
"""Key of the metadata of a graph under which one JSON string holds what we declare."""

NO_RESET = "no_v_reset"
"""Entry of our metadata that names the neurons for which a file gave no ``v_reset``."""

NEVER = 2.0**60
"""Steps after which a unit with decay 1 forgets, where other units of its layer do leak:
``1 - 1/NEVER`` is 1 in float64 and in float32."""


@dataclass(eq=False)
class SNU(nir.NIRNode):  # type: ignore[misc]
    """A layer of SNU or sSNU that standard NIR cannot say: an extension node.

    ``s = g(x + decay s (1 - y))``, ``y = h(s - threshold)`` with the last step's ``s`` and ``y``
    on the right, zero at the start (Woźniak et al. 2020, eq. 1). The update is per step: it does
    not depend on ``dt``, so a graph moves to another ``dt`` without touching this node.
    ``nir.read`` refuses it; ``snu_plugin.graph.read`` loads it.
    """

    decay: Array
    """Share of the potential kept from step to step, in [0, 1], of the layer's shape."""
    threshold: Array
    """Potential above which the unit fires, of the layer's shape."""
    g: str = "identity"
    """Activation of the potential: identity, relu or leaky_relu."""
    slope: float = 0.1
    """Slope of the leaky ReLU below zero."""
    soft: bool = False
    """h is the sigmoid (sSNU) instead of the step (SNU)."""

    def __post_init__(self) -> None:
        if np.shape(self.decay) != np.shape(self.threshold):
            raise ValueError(
                f"SNU node: decay has shape {np.shape(self.decay)} and threshold "
                f"{np.shape(self.threshold)}; both must have the layer's shape"
            )
        if self.g not in get_args(Activation):
            raise ValueError(
                f"SNU node: g is {self.g!r}; it must be one of {', '.join(get_args(Activation))}"
            )
        self.input_type = {"input": np.array(np.shape(self.decay), dtype=int)}
        self.output_type = {"output": np.array(np.shape(self.decay), dtype=int)}


def encode(
    config: SNUConfig,
    decay: ArrayLike,
    threshold: ArrayLike,
    *,
    dt: float,
    recurrent: ArrayLike | None = None,
) -> nir.NIRNode:
    """Return the NIR node of one layer: standard NIR wherever that is exact, else ``SNU``.

    With ``g`` the identity and decay l in [0, 1) the layer *is* ``nir.LIF(tau=dt/(1-l),
    r=tau/dt, v_leak=0, v_threshold=threshold, v_reset=0)``; with l = 1 it is ``nir.IF(r=1/dt)``.
    With l = 0 and thresholds that are not negative a (leaky) ReLU changes nothing that shows,
    and the layer is a LIF too.

    Args:
        config: What the layer computes; its ``decay`` and ``threshold`` are not read.
        decay: Decays in [0, 1]; numbers, arrays or tensors that broadcast with ``threshold``
            to the layer's shape (without batch).
        threshold: Thresholds, likewise.
        dt: Time step in seconds that the graph declares; a power of two loses nothing.
        recurrent: Weights H, ``(features, features)``, row = receiving unit.

    Returns:
        The node; with ``recurrent`` a ``nir.NIRGraph`` with the nodes ``input``, ``lif``,
        ``w_rec`` (a bias-free ``nir.Linear``) and ``output``.

    Raises:
        ValueError: For values outside their range, contradicting shapes, or lateral inhibition,
            which neither NIR nor the extension node can say.
    """
    if config.lateral_inhibition:
        raise ValueError(
            f"config.lateral_inhibition is {config.lateral_inhibition!r}; a NIR graph cannot say "
            "that one unit resets the others, so the layer cannot be exported"
        )
    _check_dt(dt)
    l, theta = _arrays(decay, threshold)
    node = _standard(l, theta, dt) if _is_standard(config, l, theta) else None
    if node is None:
        node = SNU(
            decay=l, threshold=theta, g=config.g, slope=float(config.slope), soft=config.soft
        )
    return node if recurrent is None else _looped(node, _float64(recurrent), l.shape)


def time_constant(decay: Array, dt: float) -> Array:
    """Return the float64 ``tau`` with ``1 - dt/tau`` nearest to ``decay``.

    From 0.5 on it is equal; below, quotients are a little coarser than decays, and it misses by at
    most 2⁻⁵³, which is nothing in float32.
    """
    with np.errstate(divide="ignore"):
        tau = np.where(decay == 1, dt * NEVER, dt / (1 - decay))
    best = tau
    for side in (0.0, np.inf):
        near = np.nextafter(tau, side)
        closer = np.abs((1 - dt / near) - decay) < np.abs((1 - dt / best) - decay)
        best = np.where(closer, near, best)
    return best


def stamp(graph: nir.NIRGraph, dt: float, **more: Any) -> nir.NIRGraph:
    """Declare in the metadata of ``graph`` how it is meant to run; returns the same graph.

    The declaration is one JSON string: a hint for people and for ``discretise``, never needed for
    meaning, because every importer drops metadata (NIR#129, NIR#175). ``more`` adds or replaces
    entries.
    """
    _check_dt(dt)
    said = {"dt": float(dt), "if": "ode", "reset": "value", "start": 0, "feedback": "last step"}
    graph.metadata[KEY] = json.dumps(said | more, sort_keys=True)
    return graph


def declared(graph: nir.NIRNode) -> dict[str, Any]:
    """Return what ``stamp`` declared in a graph, or an empty dict.

    Raises:
        ValueError: If the entry is not a JSON object, or its ``dt`` is not a positive number.
    """
    text = graph.metadata.get(KEY)
    if text is None:
        return {}
    try:
        said = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata {KEY!r} is {text!r:.60}; it must be a JSON object") from error
    if not isinstance(said, dict):
        raise ValueError(f"metadata {KEY!r} is {text!r:.60}; it must be a JSON object")
    if "dt" in said:
        _check_dt(said["dt"])
    return said


def without_reset(said: Mapping[str, Any]) -> list[str]:
    """Return the neurons whose reset to 0 is an assumption, from what a graph declares.

    Files from before nir 1.0.6 have no ``v_reset``. nir reads them as 0; the text of NIR said
    ``v - v_threshold`` then, and what trained them may have subtracted (NIR#129).
    """
    names = said.get(NO_RESET)
    return [str(name) for name in names] if isinstance(names, list) else []


def _check_dt(dt: object) -> None:
    if isinstance(dt, bool) or not isinstance(dt, (int, float)) or not 0 < dt < math.inf:
        raise ValueError(f"dt is {dt!r}; it must be a positive number of seconds")


def _is_standard(config: SNUConfig, decay: Array, threshold: Array) -> bool:
    linear = config.g == "identity" or (config.g == "leaky_relu" and config.slope == 1)
    forgets = not decay.any() and bool((threshold >= 0).all())
    return not config.soft and (linear or forgets)


def _standard(decay: Array, threshold: Array, dt: float) -> nir.NIRNode:
    zero = np.zeros_like(threshold)
    if (decay == 1).all():
        return nir.IF(r=np.full_like(threshold, 1 / dt), v_threshold=threshold, v_reset=zero)
    tau = time_constant(decay, dt)
    return nir.LIF(tau=tau, r=tau / dt, v_leak=zero, v_threshold=threshold, v_reset=zero.copy())


def _looped(node: nir.NIRNode, weight: Array, shape: tuple[int, ...]) -> nir.NIRGraph:
    if len(shape) != 1 or weight.shape != shape * 2:
        raise ValueError(
            f"recurrent has shape {weight.shape}; a layer of shape {shape} takes "
            f"{shape * 2 if len(shape) == 1 else 'none, only layers of one dimension do'}"
        )
    if not np.isfinite(weight).all():
        raise ValueError("recurrent holds NaN or infinity; every weight must be finite")
    nodes = {
        "input": nir.Input(input_type={"input": np.array(shape)}),
        "lif": node,
        "w_rec": nir.Linear(weight=weight),
        "output": nir.Output(output_type={"output": np.array(shape)}),
    }
    edges = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata={}, type_check=False)


def _arrays(decay: ArrayLike, threshold: ArrayLike) -> tuple[Array, Array]:
    given = _float64(decay), _float64(threshold)
    try:
        l, theta, _ = (np.array(a) for a in np.broadcast_arrays(*given, np.zeros(1)))
    except ValueError as error:
        raise ValueError(
            f"decay has shape {given[0].shape} and threshold {given[1].shape}; "
            "they must broadcast to the layer's shape"
        ) from error
    if not ((l >= 0) & (l <= 1)).all():
        raise ValueError(f"decay is {l[~((l >= 0) & (l <= 1))][0]}; it must lie in [0, 1]")
    if not np.isfinite(theta).all():
        raise ValueError("threshold holds NaN or infinity; every threshold must be finite")
    return l, theta


def _float64(value: Any) -> Array:
    """Return a number, array or tensor as a float64 array of its own."""
    value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    return np.array(value, dtype=np.float64)
