"""One NIR node made from plain values: every value checked, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import nir
import numpy as np
from numpy.typing import NDArray

from snu_plugin.graph.snu_nodes import SNU, SRC, SRC_SETTINGS

Array = NDArray[Any]
Shape = tuple[int, ...]

LARGEST = 2**16
"""Largest stride, padding, dilation, kernel or number of groups."""
LARGEST_LAYER = 2**24
"""Most values that one layer may have."""

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
    fields = _Fields(name, kind, dict(values))
    metadata = fields.values.pop("metadata", None) or {}
    try:
        node = BUILDERS[kind](fields)
    except KeyError as error:
        raise ValueError(
            f"node {name!r} ({kind}) lacks the field {error.args[0]!r}: it is incomplete; give it"
        ) from None
    if fields.values:
        raise ValueError(f"node {name!r} ({kind}) has the unknown field {min(fields.values)!r}")
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


@dataclass
class _Fields:
    """The fields of one node in the making; each is taken out once, as what it must be.

    What is missing raises a KeyError with the field's name.
    """

    name: str
    kind: str
    values: dict[str, Any]

    def refuse(self, why: str) -> NoReturn:
        raise ValueError(f"node {self.name!r}: {why}")

    def numbers(self, field: str, *default: Any) -> Array:
        """Take a finite float array."""
        value = self.values.pop(field, *default)
        value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.array(None)
        if array.dtype.kind not in "fiub":
            self.refuse(f"{field} is {_shown(value)}; it must be an array of numbers")
        exact = array.dtype.kind == "f" and array.dtype.itemsize <= 8
        array = array.astype(array.dtype.newbyteorder("=") if exact else np.float64, copy=False)
        if not (finite := np.isfinite(array)).all():
            bad = int((~finite).sum())
            self.refuse(
                f"{bad} of {array.size} values of {field} are NaN or infinite; every one must be "
                "finite"
            )
        return array

    def number(self, field: str, default: float) -> float:
        """Take a finite number, the first of several."""
        array = self.numbers(field, default)
        return float(array.flat[0]) if array.size else self.refuse(f"{field} is empty")

    def weight(self, dims: int) -> Array:
        weight = self.numbers("weight")
        if weight.ndim < dims or 0 in weight.shape:
            self.refuse(
                f"weight has shape {weight.shape}; it must have at least {dims} dimensions, none "
                "of them 0"
            )
        return weight

    def full(self, field: str, shape: Shape, value: Array | None = None) -> Array:
        """Take an array of ``shape``, or one number for all of it; ``value`` if that is taken."""
        value = self.numbers(field) if value is None else value
        if value.shape == shape:
            return value
        if value.size != 1:
            self.refuse(f"{field} has shape {value.shape}; it must be {shape} or one number")
        return np.full(shape, value.reshape(()), dtype=value.dtype)

    def whole(self, field: str, *default: Any) -> Shape:
        """Take one or more whole numbers."""
        value = self.values.pop(field, *default)
        array = np.asarray(value)
        finite = array.dtype.kind in "iuf" and bool(np.isfinite(array).all())
        if array.ndim > 1 or not finite or not bool((array == np.floor(array)).all()):
            self.refuse(f"{field} is {_shown(value)}; it must be whole numbers")
        return tuple(int(n) for n in array.reshape(-1))

    def sizes(self, field: str, least: int, *default: Any) -> Shape:
        """Take one or more whole numbers of at least ``least``."""
        out = self.whole(field, *default)
        if not all(least <= n <= LARGEST for n in out):
            self.refuse(f"{field} is {out}; every number must lie in [{least}, {LARGEST}]")
        return out

    def size(self, field: str, least: int, *default: Any) -> int:
        """Take a whole number, the first of several."""
        out = self.sizes(field, least, *default)
        return out[0] if out else self.refuse(f"{field} is empty; it must be a whole number")

    def each(self, field: str, dims: int, least: int) -> Shape:
        """Take a whole number for each of some dimensions, or one for all of them."""
        got = self.sizes(field, least)
        if len(got) not in (1, dims):
            self.refuse(f"{field} is {got}; it must be one number or {dims}")
        return got * dims if len(got) == 1 else got

    def shape(self, field: str) -> Shape | None:
        """Take a declared shape; None where it is absent or holds zeros (old files)."""
        if self.values.get(field) is None:
            self.values.pop(field, None)
            return None
        shape = self.whole(field)
        if any(n < 0 for n in shape) or np.prod(shape, dtype=float) > LARGEST_LAYER:
            self.refuse(
                f"{field} is {shape}; sizes must be positive, with at most {LARGEST_LAYER} values "
                "in all"
            )
        return None if 0 in shape else shape


def _elementwise(fields: _Fields) -> nir.NIRNode:
    kind, names = fields.kind, PARAMETERS[fields.kind]
    got: dict[str, Any] = {names[0]: fields.numbers(names[0])}
    first = got[names[0]]
    for field in names[1:]:
        absent = field in ABSENT and field not in fields.values
        got[field] = np.full_like(first, ABSENT[field]) if absent else fields.numbers(field)
    if "w_in" in got:
        got["w_in"] = fields.full("w_in", first.shape, got["w_in"])
    if len({array.shape for array in got.values()}) > 1:
        shapes = ", ".join(f"{field} {array.shape}" for field, array in got.items())
        raise ValueError(
            f"node {fields.name!r} ({kind}): its fields have different shapes ({shapes}); "
            "write every field with the shape of the layer"
        )
    if kind == "SNU":
        slope = fields.number("slope", 0.1)
        got |= {"slope": slope, "soft": bool(fields.number("soft", False))}
        if not 0 <= slope <= 1:
            fields.refuse(f"slope is {slope}; it must lie in [0, 1]")
        got["g"] = str(fields.values.pop("g", SNU.g))
    if kind == "SRC":
        got["gate"] = str(fields.values.pop("gate", SRC.gate))
        for field in (*SRC_SETTINGS, "version"):
            value = fields.numbers(field, getattr(SRC, field))
            if value.size != 1:
                fields.refuse(
                    f"{field} has shape {value.shape}; it must be one number for the layer"
                )
            got[field] = float(value.item())
    node: nir.NIRNode = (EXTENSIONS.get(kind) or getattr(nir, kind))(**got)
    return node


def _linear(fields: _Fields) -> nir.NIRNode:
    weight = fields.weight(2)
    if fields.kind == "Linear":
        return nir.Linear(weight=weight)
    return nir.Affine(weight=weight, bias=fields.full("bias", weight.shape[:-1]))


def _conv(fields: _Fields) -> nir.NIRNode:
    dims = 1 if fields.kind == "Conv1d" else 2
    weight = fields.weight(dims + 2)
    if weight.ndim != dims + 2:
        fields.refuse(
            f"weight has shape {weight.shape}; a {dims}-d convolution takes {dims + 2} dimensions"
        )
    bias = fields.full("bias", weight.shape[:1])
    groups = fields.size("groups", 1)
    if weight.shape[0] % groups:
        fields.refuse(f"groups is {groups}; it must divide {weight.shape[0]} channels")
    spatial = fields.shape("input_shape")
    if spatial is not None and len(spatial) != dims:
        fields.refuse(f"input_shape is {spatial}; it must have {dims} sizes")
    padding = fields.values["padding"]
    if not isinstance(padding, str):
        padding = fields.each("padding", dims, 0)
    elif fields.values.pop("padding") not in ("same", "valid"):
        fields.refuse(f"padding is {_shown(padding)}; it must be 'same', 'valid' or numbers")
    settings = [fields.each("stride", dims, 1), padding, fields.each("dilation", dims, 1)]
    if dims == 1:
        settings = [value if isinstance(value, str) else value[0] for value in settings]
    node: nir.NIRNode = getattr(nir, fields.kind)(None, weight, *settings, groups, bias)
    # Set later: the shapes that nir finds itself are wrong for kernels that are not square.
    node.input_shape = spatial[0] if spatial is not None and dims == 1 else spatial
    return node


def _pool(fields: _Fields) -> nir.NIRNode:
    least = {"kernel_size": 1, "stride": 1, "padding": 0}
    kernel, stride, padding = (np.array(fields.each(field, 2, n)) for field, n in least.items())
    if (2 * padding > kernel).any():
        fields.refuse(
            f"padding is {tuple(padding)}; it must be at most half of kernel_size, {tuple(kernel)}"
        )
    node: nir.NIRNode = getattr(nir, fields.kind)(kernel, stride, padding)
    return node


def _flatten(fields: _Fields) -> nir.NIRNode:
    fields.values.pop("input_type", None)
    start, end = fields.size("start_dim", -LARGEST, 1), fields.size("end_dim", -LARGEST, -1)
    return nir.Flatten({"input": None}, start, end)


def _port(fields: _Fields) -> nir.NIRNode:
    shape, key = fields.shape("shape"), fields.kind.lower()
    node: nir.NIRNode = getattr(nir, fields.kind)(
        {key: None if shape is None else np.array(shape, dtype=int)}
    )
    return node


BUILDERS: dict[str, Callable[[_Fields], nir.NIRNode]] = {
    **dict.fromkeys(PARAMETERS, _elementwise),
    **{"Affine": _linear, "Linear": _linear, "Conv1d": _conv, "Conv2d": _conv},
    **{"SumPool2d": _pool, "AvgPool2d": _pool, "Flatten": _flatten},
    **{"Input": _port, "Output": _port},
}


def _shown(value: Any) -> str:
    text = repr(value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."
