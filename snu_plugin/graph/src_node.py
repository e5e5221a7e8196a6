"""How a Spiking Recurrent Cell is spelt in NIR: an extension node, since standard NIR has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
from numpy.typing import ArrayLike, NDArray

from snu_plugin.graph.values import numbers
from snu_plugin.neuron import SRCConfig

Array = NDArray[Any]

VERSION = 1
"""Of the meaning of ``SRC`` nodes; a reader refuses all others."""

SETTINGS = ("alpha", "rho", "z", "r", "r_s", "z_hyp", "z_dep")
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


def encode_src(config: SRCConfig, bias: ArrayLike, shape: tuple[int, ...]) -> SRC:
    """Return the node of one layer of ``shape``, to which ``bias`` broadcasts.

    Raises:
        ValueError: If it does not, or a bias is not finite.
    """
    given = np.asarray(bias, dtype=np.float64)
    if not np.isfinite(given).all():
        raise ValueError("bias holds NaN or infinity; every bias must be finite")
    try:
        values = np.array(np.broadcast_to(given, shape))
    except ValueError:
        raise ValueError(
            f"bias has shape {given.shape}; it must broadcast to the layer's, {shape}"
        ) from None
    settings: dict[str, Any] = {name: float(getattr(config, name)) for name in SETTINGS}
    return SRC(values, config.gate, **settings)


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
    settings = {field: getattr(node, field) for field in SETTINGS}
    largest = max(SRCConfig().bias_max, float(np.max(node.bias, initial=-np.inf)))
    try:
        return SRCConfig(gate=node.gate, bias_max=largest, **settings)
    except ValueError as error:
        raise ValueError(f"node {name!r}: {error}") from None


def settings_of(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Take the settings of the node ``name`` out of plain values.

    Raises:
        ValueError: If one is not a single finite number.
    """
    got: dict[str, Any] = {"gate": str(values.pop("gate", SRC.gate))}
    for field in (*SETTINGS, "version"):
        value = numbers(name, field, values.pop(field, getattr(SRC, field)))
        if value.size != 1:
            raise ValueError(
                f"node {name!r}: {field} has shape {value.shape}; it must be one number for the "
                "layer"
            )
        got[field] = float(value.item())
    return got
