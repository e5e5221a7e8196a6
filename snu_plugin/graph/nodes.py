"""One NIR node made from plain values, every value checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import nir
import numpy as np

from snu_plugin.graph.src_node import SRC, settings_of
from snu_plugin.graph.values import (
    LARGEST,
    Shape,
    numbers,
    padding_of,
    pair,
    shape_of,
    sizes,
    spread,
    weight_of,
)
from snu_plugin.graph.wire import SNU

PARAMETERS: dict[str, tuple[str, ...]] = {
    "I": ("r",),
    "IF": ("r", "v_threshold", "v_reset"),
    "LI": ("tau", "r", "v_leak"),
    "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
    "Scale": ("scale",),
    "Threshold": ("threshold",),
    "Delay": ("delay",),
    "SNU": ("decay", "threshold"),
    "SRC": ("bias",),
}
"""Fields with one value per element of the layer, by node type."""

ABSENT = {"v_reset": 0.0, "w_in": 1.0}
"""What a field means that old files leave out (nir's own defaults)."""

STATEFUL = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF", "SNU", "SRC", "Delay")

EXTENSIONS: dict[str, Any] = {"SNU": SNU, "SRC": SRC}
"""Node types that are not NIR's own; other readers refuse them."""


def build(name: str, kind: str, values: Mapping[str, Any]) -> nir.NIRNode:
    """Return a node of type ``kind`` from its fields; ``name`` is for messages.

    Numbers become float arrays (float dtypes stay, integers become float64), sizes become ints,
    absent ``v_reset`` is 0, absent ``w_in`` is 1, absent shapes stay unknown until
    ``shapes.complete`` finds them.

    Raises:
        ValueError: For an unknown type, missing or unknown fields, values that are not finite
            numbers, or shapes that contradict each other; names node and field.
    """
    if kind not in BUILDERS:
        raise ValueError(
            f"node {name!r} has type {kind!r}, which has no rule; known: {', '.join(BUILDERS)}"
        )
    rest = dict(values)
    metadata = rest.pop("metadata", None) or {}
    try:
        node = BUILDERS[kind](name, rest)
    except KeyError as error:
        raise ValueError(f"node {name!r} ({kind}) lacks the field {error.args[0]!r}") from None
    if rest:
        raise ValueError(f"node {name!r} ({kind}) has the unknown field {min(rest)!r}")
    node.metadata = dict(metadata)
    return node


def rebuild(name: str, node: Any) -> nir.NIRNode:
    """Return a checked copy of a node that someone else made; see ``build``."""
    kind = type(node).__name__
    known: Any = EXTENSIONS.get(kind) or getattr(nir, kind, None)
    if kind not in BUILDERS or known is not node.__class__:
        raise ValueError(
            f"node {name!r} has type {kind!r}, which has no rule; known: {', '.join(BUILDERS)}"
        )
    values: dict[str, Any] = {f.name: getattr(node, f.name) for f in fields(known) if f.init}
    if kind in ("Input", "Output"):
        values["shape"] = values.pop(f"{kind.lower()}_type")[kind.lower()]
    return build(name, kind, {key: value for key, value in values.items() if value is not None})


def parameter_shape(node: nir.NIRNode) -> Shape:
    """Return the shape of the first parameter of a node that has one value per element."""
    return tuple(np.shape(getattr(node, PARAMETERS[type(node).__name__][0])))


def _elementwise(kind: str) -> Callable[[str, dict[str, Any]], nir.NIRNode]:
    def make(name: str, values: dict[str, Any]) -> nir.NIRNode:
        names = PARAMETERS[kind]
        for field in ABSENT.keys() & set(names) - values.keys():
            like = numbers(name, names[0], values[names[0]])
            values[field] = np.full_like(like, ABSENT[field])
        got: dict[str, Any] = {field: numbers(name, field, values.pop(field)) for field in names}
        if "w_in" in got:
            got["w_in"] = spread(name, "w_in", got["w_in"], got[names[0]].shape)
        if len({array.shape for array in got.values()}) > 1:
            shapes = ", ".join(f"{field} {array.shape}" for field, array in got.items())
            raise ValueError(
                f"node {name!r} ({kind}): its fields have different shapes ({shapes}); "
                "write every field with the shape of the layer"
            )
        if kind == "SNU":
            got |= _snu_settings(name, values)
        if kind == "SRC":
            got |= settings_of(name, values)
        node: nir.NIRNode = (EXTENSIONS.get(kind) or getattr(nir, kind))(**got)
        return node

    return make


def _snu_settings(name: str, values: dict[str, Any]) -> dict[str, Any]:
    slope = float(numbers(name, "slope", values.pop("slope", 0.1)).reshape(-1)[0])
    soft = bool(numbers(name, "soft", values.pop("soft", False)).reshape(-1)[0])
    if not 0 <= slope <= 1:
        raise ValueError(f"node {name!r}: slope is {slope}; it must lie in [0, 1]")
    return {"g": str(values.pop("g", "identity")), "slope": slope, "soft": soft}


def _linear(name: str, values: dict[str, Any]) -> nir.NIRNode:
    return nir.Linear(weight=weight_of(name, values.pop("weight"), 2))


def _affine(name: str, values: dict[str, Any]) -> nir.NIRNode:
    weight = weight_of(name, values.pop("weight"), 2)
    bias = numbers(name, "bias", values.pop("bias"))
    return nir.Affine(weight=weight, bias=spread(name, "bias", bias, weight.shape[:-1]))


def _conv(dims: int) -> Callable[[str, dict[str, Any]], nir.NIRNode]:
    def make(name: str, values: dict[str, Any]) -> nir.NIRNode:
        weight = weight_of(name, values.pop("weight"), dims + 2)
        if weight.ndim != dims + 2:
            raise ValueError(
                f"node {name!r}: weight has shape {weight.shape}; a {dims}-d convolution takes "
                f"{dims + 2} dimensions"
            )
        bias = numbers(name, "bias", values.pop("bias"))
        (groups,) = sizes(name, "groups", values.pop("groups"), 1)[:1]
        if weight.shape[0] % groups:
            raise ValueError(
                f"node {name!r}: groups is {groups}; it must divide {weight.shape[0]} channels"
            )
        spatial = shape_of(name, "input_shape", values.pop("input_shape", None))
        settings: dict[str, Any] = {
            "input_shape": spatial,
            "weight": weight,
            "stride": pair(name, "stride", values.pop("stride"), dims, 1),
            "padding": padding_of(name, values.pop("padding"), dims),
            "dilation": pair(name, "dilation", values.pop("dilation"), dims, 1),
            "groups": groups,
            "bias": spread(name, "bias", bias, weight.shape[:1]),
        }
        if spatial is not None and len(spatial) != dims:
            raise ValueError(f"node {name!r}: input_shape is {spatial}; it must have {dims} sizes")
        if dims == 2:
            return _untyped(nir.Conv2d, settings)
        one = {key: settings[key][0] for key in ("stride", "dilation")}
        if not isinstance(settings["padding"], str):
            one["padding"] = settings["padding"][0]
        one["input_shape"] = None if spatial is None else spatial[0]
        return _untyped(nir.Conv1d, settings | one)

    return make


def _untyped(kind: Any, settings: dict[str, Any]) -> nir.NIRNode:
    """Make a convolution without nir's own shapes, which are wrong for kernels not square."""
    node: nir.NIRNode = kind(**(settings | {"input_shape": None}))
    node.input_shape = settings["input_shape"]
    return node


def _pool(kind: str) -> Callable[[str, dict[str, Any]], nir.NIRNode]:
    def make(name: str, values: dict[str, Any]) -> nir.NIRNode:
        got = {
            field: np.array(pair(name, field, values.pop(field), 2, least))
            for field, least in (("kernel_size", 1), ("stride", 1), ("padding", 0))
        }
        if (2 * got["padding"] > got["kernel_size"]).any():
            raise ValueError(
                f"node {name!r}: padding is {tuple(got['padding'])}; it must be at most half of "
                f"kernel_size, {tuple(got['kernel_size'])}"
            )
        node: nir.NIRNode = getattr(nir, kind)(**got)
        return node

    return make


def _flatten(name: str, values: dict[str, Any]) -> nir.NIRNode:
    values.pop("input_type", None)
    ends = []
    for field, default in (("start_dim", 1), ("end_dim", -1)):
        (number,) = sizes(name, field, values.pop(field, default), -LARGEST)[:1]
        ends.append(number)
    return nir.Flatten(input_type={"input": None}, start_dim=ends[0], end_dim=ends[1])


def _port(kind: str) -> Callable[[str, dict[str, Any]], nir.NIRNode]:
    def make(name: str, values: dict[str, Any]) -> nir.NIRNode:
        shape = shape_of(name, "shape", values.pop("shape", None))
        key = kind.lower()
        node: nir.NIRNode = getattr(nir, kind)(
            **{f"{key}_type": {key: None if shape is None else np.array(shape, dtype=int)}}
        )
        return node

    return make


BUILDERS: dict[str, Callable[[str, dict[str, Any]], nir.NIRNode]] = {
    **{kind: _elementwise(kind) for kind in PARAMETERS},
    "Affine": _affine,
    "Linear": _linear,
    "Conv1d": _conv(1),
    "Conv2d": _conv(2),
    "SumPool2d": _pool("SumPool2d"),
    "AvgPool2d": _pool("AvgPool2d"),
    "Flatten": _flatten,
    "Input": _port("Input"),
    "Output": _port("Output"),
}
