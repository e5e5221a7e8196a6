"""How Spiking Neural Units and Recurrent Cells are spelt in NIR: the one place that knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import nir
import numpy as np
from numpy.typing import ArrayLike, NDArray

from snu_plugin.graph.metadata import check_dt
from snu_plugin.neuron import Activation, SNUConfig, SRCConfig

Array = NDArray[Any]


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


VERSION = 1
"""Of the meaning of ``SRC`` nodes; a reader refuses all others."""

SRC_SETTINGS = ("alpha", "rho", "z", "r", "r_s", "z_hyp", "z_dep")
"""Settings of the cell that are one number for a layer."""


@dataclass(eq=False)
class SRC(nir.NIRNode):  # type: ignore[misc]
    """A layer of Spiking Recurrent Cells.

    Equations: see ``snu_plugin.neuron.src_step`` (De Geeter, Ernst, Drion, arXiv 2306.03623); all
    states are zero at the start. The update is per step: it does not depend on ``dt``.
    ``nir.read`` refuses the node; ``snu_plugin.graph.read`` loads it.
    """

    bias: Array
    """What the cells add to their drive, of the layer's shape."""
    gate: str = "prev"
    """What slows the slow state: prev, cur, prev_hard or cur_hard; see ``SRCConfig``."""
    alpha: float = 0.9
    """Share of the input current kept from step to step."""
    rho: float = 3.0
    """Bound of the input."""
    z: float = 0.0
    """Share of the potential kept from step to step."""
    r: float = 2.0
    """Weight of the last potential."""
    r_s: float = -7.0
    """Weight of the last slow state."""
    z_hyp: float = 0.9
    """Share of the slow state kept while the potential is low."""
    z_dep: float = 0.0
    """Share of the slow state kept while the potential is high."""
    version: float = VERSION
    """Of this meaning."""

    def __post_init__(self) -> None:
        shape = np.array(np.shape(self.bias), dtype=int)
        self.input_type, self.output_type = {"input": shape}, {"output": shape.copy()}


def encode_snu(
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
            f"config.lateral_inhibition is {config.lateral_inhibition!r}; a neuron of NIR resets "
            "itself alone, so the layer cannot be exported"
        )
    check_dt(dt)
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
    linear = config.g == "identity" or (config.g == "leaky_relu" and config.slope == 1)
    forgets = not l.any() and bool((theta >= 0).all())
    zero = np.zeros_like(theta)
    node: nir.NIRNode
    if config.soft or not (linear or forgets):
        node = SNU(l, theta, config.g, float(config.slope), config.soft)
    elif (l == 1).all():
        node = nir.IF(r=np.full_like(theta, 1 / dt), v_threshold=theta, v_reset=zero)
    else:
        tau = time_constant(l, dt)
        node = nir.LIF(tau=tau, r=tau / dt, v_leak=zero, v_threshold=theta, v_reset=zero.copy())
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


def _looped(node: nir.NIRNode, weight: Array, shape: tuple[int, ...]) -> nir.NIRGraph:
    if len(shape) != 1 or weight.shape != shape * 2:
        raise ValueError(
            f"recurrent has shape {weight.shape}; a layer of shape {shape} takes "
            f"{shape * 2 if len(shape) == 1 else 'none, only layers of one dimension do'}"
        )
    if not np.isfinite(weight).all():
        raise ValueError("recurrent holds NaN or infinity; every weight must be finite")
    ports = np.array(shape)
    nodes = {
        "input": nir.Input({"input": ports}),
        "lif": node,
        "w_rec": nir.Linear(weight),
        "output": nir.Output({"output": ports.copy()}),
    }
    edges = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
    return nir.NIRGraph(nodes, edges, metadata={}, type_check=False)


def _float64(value: Any) -> Array:
    """Return a number, array or tensor as a float64 array of its own."""
    value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    return np.array(value, dtype=np.float64)


def encode_src(config: SRCConfig, bias: ArrayLike, shape: tuple[int, ...]) -> SRC:
    """Return the node of one layer of ``shape``, to which ``bias`` broadcasts.

    Raises:
        ValueError: If it does not, or a bias is not finite.
    """
    if not np.isfinite(np.asarray(bias, dtype=np.float64)).all():
        raise ValueError("bias holds NaN or infinity; every bias must be finite")
    settings: dict[str, Any] = {name: float(getattr(config, name)) for name in SRC_SETTINGS}
    return SRC(in_full("bias", bias, shape), config.gate, **settings)


def in_full(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return a value as a float64 array of a layer's shape, of its own.

    Raises:
        ValueError: If it does not broadcast to that; calls it by ``name``.
    """
    values = _float64(value)
    try:
        return np.array(np.broadcast_to(values, shape))
    except ValueError:
        raise ValueError(
            f"{name} has shape {values.shape}; it must broadcast to the layer's, {shape}"
        ) from None


def src_config(name: str, node: Any) -> SRCConfig:
    """Return what the cells of a node compute, with what training needs besides at its default.

    Raises:
        ValueError: For a version or setting that we do not know; names the node and the field.
    """
    if node.version != VERSION:
        raise ValueError(
            f"node {name!r}: version is {node.version:g}; this release knows version {VERSION} of "
            "the SRC node"
        )
    settings = {field: getattr(node, field) for field in SRC_SETTINGS}
    largest = max(SRCConfig().bias_max, float(np.max(node.bias, initial=-np.inf)))
    try:
        return SRCConfig(gate=node.gate, bias_max=largest, **settings)
    except ValueError as error:
        raise ValueError(f"node {name!r}: {error}") from None
