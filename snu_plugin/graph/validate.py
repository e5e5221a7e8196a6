"""One NIR node made from plain values: every value checked, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from snu_plugin.graph.snu_nodes import SNU, SRC, SRC_SETTINGS

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
            got |= _src_settings(name, values)
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


def _src_settings(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Take the settings of the node ``name`` out of plain values.

    Raises:
        ValueError: If one is not a single finite number.
    """
    got: dict[str, Any] = {"gate": str(values.pop("gate", SRC.gate))}
    for field in (*SRC_SETTINGS, "version"):
        value = numbers(name, field, values.pop(field, getattr(SRC, field)))
        if value.size != 1:
            raise ValueError(
                f"node {name!r}: {field} has shape {value.shape}; it must be one number for the "
                "layer"
            )
        got[field] = float(value.item())
    return got


Array = NDArray[Any]
Shape = tuple[int, ...]

LARGEST = 2**16
"""Largest stride, padding, dilation, kernel or number of groups."""
LARGEST_LAYER = 2**24
"""Most values that one layer may have."""


def numbers(name: str, field: str, value: Any) -> Array:
    """Return ``value`` as a finite float array, or raise a ValueError that names node and field."""
    value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"node {name!r}: {field} is {_shown(value)}; it must be an array of numbers"
        )
    exact = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    array = array.astype(array.dtype.newbyteorder("=") if exact else np.float64, copy=False)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(
            f"node {name!r}: {bad} of {array.size} values of {field} are NaN or infinite; "
            "every one must be finite"
        )
    return array


def weight_of(name: str, value: Any, dims: int) -> Array:
    weight = numbers(name, "weight", value)
    if weight.ndim < dims or 0 in weight.shape:
        raise ValueError(
            f"node {name!r}: weight has shape {weight.shape}; it must have at least {dims} "
            "dimensions, none of them 0"
        )
    return weight


def spread(name: str, field: str, value: Array, shape: Shape) -> Array:
    """Return a scalar as an array of ``shape``, and an array of that shape as it is."""
    if value.shape == shape:
        return value
    if value.size != 1:
        raise ValueError(
            f"node {name!r}: {field} has shape {value.shape}; it must be {shape} or one number"
        )
    return np.full(shape, value.reshape(()), dtype=value.dtype)


def sizes(name: str, field: str, value: Any, least: int) -> Shape:
    """Return one or more whole numbers of at least ``least`` as a tuple."""
    array = np.asarray(value)
    if array.ndim > 1 or not _whole(array):
        raise ValueError(f"node {name!r}: {field} is {_shown(value)}; it must be whole numbers")
    out = tuple(int(n) for n in array.reshape(-1))
    if not all(least <= n <= LARGEST for n in out):
        raise ValueError(
            f"node {name!r}: {field} is {out}; every number must lie in [{least}, {LARGEST}]"
        )
    return out


def pair(name: str, field: str, value: Any, dims: int, least: int) -> Shape:
    got = sizes(name, field, value, least)
    if len(got) not in (1, dims):
        raise ValueError(f"node {name!r}: {field} is {got}; it must be one number or {dims}")
    return got * dims if len(got) == 1 else got


def padding_of(name: str, value: Any, dims: int) -> Shape | str:
    if not isinstance(value, str):
        return pair(name, "padding", value, dims, 0)
    if value not in ("same", "valid"):
        raise ValueError(
            f"node {name!r}: padding is {_shown(value)}; it must be 'same', 'valid' or numbers"
        )
    return value


def shape_of(name: str, field: str, value: Any) -> Shape | None:
    """Return a declared shape as a tuple; None where it is absent or holds zeros (old files)."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.ndim > 1 or not _whole(array):
        raise ValueError(f"node {name!r}: {field} is {_shown(value)}; it must be whole numbers")
    shape = tuple(int(n) for n in array.reshape(-1))
    if any(n < 0 for n in shape) or np.prod(shape, dtype=float) > LARGEST_LAYER:
        raise ValueError(
            f"node {name!r}: {field} is {shape}; sizes must be positive, with at most "
            f"{LARGEST_LAYER} values in all"
        )
    return None if 0 in shape else shape


def _whole(array: Array) -> bool:
    """Tell whether an array holds nothing but whole, finite numbers."""
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return False
    return bool((array == np.floor(array)).all())


def _shown(value: Any) -> str:
    text = repr(value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."
