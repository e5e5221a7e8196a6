"""The shape of every signal of a flat graph, found from what the nodes declare."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import nir
import numpy as np

from snu_plugin.graph.validate import LARGEST_LAYER, PARAMETERS, Shape, parameter_shape

Path = tuple[str, ...]
Edge = tuple[str, str]


@dataclass
class Flat:
    """A graph without sub-graphs. Inner Inputs and Outputs are still nodes: they pass on."""

    nodes: dict[str, nir.NIRNode] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    names: dict[Path, str] = field(default_factory=dict)
    """Name of each node by its path through the sub-graphs."""
    notes: list[str] = field(default_factory=list)
    """What was repaired or added, a sentence each."""


def ends(
    nodes: Iterable[str], edges: Iterable[Edge]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return what feeds each node and what each node feeds, in the order of the edges."""
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    targets: dict[str, list[str]] = {name: [] for name in nodes}
    for a, b in edges:
        sources[b].append(a)
        targets[a].append(b)
    return sources, targets


Shapes = dict[str, Shape]

MOST_FILLED = 2**25
"""Values that single numbers may be spread over in one graph, 256 MiB: a file of a few bytes must
not fill the memory. Layers that are written in full are not counted."""


def complete(flat: Flat) -> tuple[Shapes, Shapes]:
    """Find the input and output shape of every node and write it into the nodes of ``flat``.

    Signals have no batch and no time. Parameters of size 1 take the shape of the layer. What
    public files get wrong is repaired where the rest of the graph leaves one reading, and noted:
    shapes with a leading batch of 1, Inputs and Outputs that contradict their neighbours, Flatten
    dimensions that count the batch.

    Returns:
        Input shapes and output shapes by node name.

    Raises:
        ValueError: For shapes that contradict each other or cannot be found; names both nodes.
    """
    _drop_batch(flat)
    finder = _Finder(flat)
    finder.run()
    filled = 0.0
    for name, node in flat.nodes.items():
        names = PARAMETERS.get(type(node).__name__, ())
        if names and parameter_shape(node) != finder.takes[name]:
            filled += len(names) * float(np.prod(finder.takes[name], dtype=float))
        if filled > MOST_FILLED:
            raise ValueError(
                f"node {name!r}: single numbers for layers like {finder.takes[name]} would fill "
                f"more than {MOST_FILLED} values; write smaller layers, or their values in full"
            )
        _write(name, node, finder.takes[name], finder.gives[name])
    return finder.takes, finder.gives


def declared(node: nir.NIRNode) -> Shape | None:
    """Return the input shape that a node insists on; None where it adapts or does not say."""
    kind = type(node).__name__
    if kind in PARAMETERS:
        shape = parameter_shape(node)
        return None if np.prod(shape, dtype=int) == 1 and len(shape) < 2 else shape
    if kind in ("Linear", "Affine"):
        return (*node.weight.shape[:-2], node.weight.shape[-1])
    if kind in ("Conv1d", "Conv2d") and node.input_shape is not None:
        return (node.weight.shape[1] * node.groups, *np.atleast_1d(node.input_shape).tolist())
    return None


def output_shape(name: str, node: nir.NIRNode, shape: Shape) -> Shape:
    """Return what a node gives when it takes ``shape``; raise a ValueError where it cannot."""
    kind = type(node).__name__
    if kind in ("Linear", "Affine"):
        return tuple(node.weight.shape[:-1])
    if kind in ("Conv1d", "Conv2d"):
        return _convolved(name, node, shape)
    if kind in ("SumPool2d", "AvgPool2d"):
        if len(shape) != 3:
            raise ValueError(f"node {name!r} ({kind}) is given {shape}; it takes (C, H, W)")
        windows = zip(shape[1:], node.kernel_size, node.stride, node.padding, strict=True)
        return _positive(name, (shape[0], *((n + 2 * p - k) // s + 1 for n, k, s, p in windows)))
    if kind == "Flatten":
        return flattened(name, shape, node.start_dim, node.end_dim)
    return shape


def flattened(name: str, shape: Shape, start: int, end: int) -> Shape:
    """Return ``shape`` with the dimensions from ``start`` to ``end`` (included) made one."""
    first, last = (n + len(shape) if n < 0 else n for n in (start, end))
    if not 0 <= first <= last < len(shape):
        raise ValueError(
            f"node {name!r} (Flatten) joins the dimensions {start} to {end}, but is given {shape}"
        )
    return (*shape[:first], int(np.prod(shape[first : last + 1])), *shape[last + 1 :])


class _Finder:
    """Shapes known so far; grows until every node has both."""

    def __init__(self, flat: Flat) -> None:
        self.flat = flat
        self.sources, self.targets = ends(flat.nodes, flat.edges)
        self.takes: Shapes = {}
        self.gives: Shapes = {}

    def run(self) -> None:
        nodes = self.flat.nodes
        start = [name for name, node in nodes.items() if declared(node) is not None]
        for name in start:
            self.put(name, declared(nodes[name]) or ())
        roots = [name for name in nodes if not self.sources[name]]
        for name in roots:
            shape = self.root(name)
            if shape is not None:
                self.put(name, shape)
        self.spread(deque([*roots, *start]))
        while missing := [name for name in nodes if name not in self.takes]:
            name, shape = self.guess(missing)
            self.put(name, shape)
            self.spread(deque([name]))
        self.check()

    def root(self, name: str) -> Shape | None:
        """Return the shape of an Input: what it says, unless what reads it insists otherwise."""
        stated = _port_shape(self.flat.nodes[name])
        wanted = {s for t in self.targets[name] if (s := declared(self.flat.nodes[t])) is not None}
        if len(wanted) != 1:
            return stated
        (shape,) = wanted
        if stated is not None and stated != shape:
            if stated[-len(shape) :] != shape and np.prod(stated) != np.prod(shape):
                raise self.contradiction(name, stated, self.targets[name][0], shape)
            self.flat.notes.append(f"Input {name!r} has shape {stated}; its readers take {shape}")
        return shape

    def put(self, name: str, shape: Shape) -> None:
        node = self.flat.nodes[name]
        self.takes[name] = shape
        self.gives[name] = output_shape(name, node, shape)
        if isinstance(node, nir.Flatten):
            self.gives[name] = self.unbatched(name, node, shape)

    def unbatched(self, name: str, node: nir.Flatten, shape: Shape) -> Shape:
        """Return what a Flatten gives, reading its dimensions with a batch if only that fits."""
        wanted = {s for t in self.targets[name] if (s := declared(self.flat.nodes[t])) is not None}
        gives = self.gives[name]
        if not wanted or gives in wanted or node.start_dim < 1:
            return gives
        without = _shifted(node)
        shifted = flattened(name, shape, without.start_dim, without.end_dim)
        if shifted not in wanted:
            return gives
        self.flat.notes.append(f"Flatten {name!r} counts a batch dimension; it was left out")
        self.flat.nodes[name] = without
        return shifted

    def spread(self, queue: deque[str]) -> None:
        while queue:
            name = queue.popleft()
            if name not in self.gives:
                continue
            for target in self.targets[name]:
                if target not in self.takes:
                    self.put(target, self.gives[name])
                    queue.append(target)

    def guess(self, missing: list[str]) -> tuple[str, Shape]:
        """Return a node and a shape for it, taken from its readers, else from itself."""
        for name in missing:
            if type(self.flat.nodes[name]).__name__ in (*PARAMETERS, "Input", "Output"):
                for target in self.targets[name]:
                    if target in self.takes:
                        return name, self.takes[target]
        for name in missing:
            node = self.flat.nodes[name]
            if type(node).__name__ in PARAMETERS:
                return name, parameter_shape(node) or (1,)
            if (stated := _port_shape(node)) is not None:
                return name, stated
        raise ValueError(
            f"the shape that node {missing[0]!r} takes cannot be found; give its Input a shape"
        )

    def check(self) -> None:
        for a, b in self.flat.edges:
            gives, takes = self.gives[a], self.takes[b]
            if gives != takes:
                raise self.contradiction(a, gives, b, takes)
        for name, node in self.flat.nodes.items():
            stated = _port_shape(node)
            if self.sources[name] and stated not in (None, self.takes[name]):
                self.flat.notes.append(
                    f"{type(node).__name__} {name!r} has shape {stated}; "
                    f"it is given {self.takes[name]}"
                )

    def contradiction(self, a: str, gives: Shape, b: str, takes: Shape) -> ValueError:
        kinds = [type(self.flat.nodes[name]).__name__ for name in (a, b)]
        return ValueError(
            f"node {a!r} ({kinds[0]}) gives {gives}, but node {b!r} ({kinds[1]}) takes {takes}; "
            "the shapes on an edge must agree"
        )


def _port_shape(node: nir.NIRNode) -> Shape | None:
    if not isinstance(node, (nir.Input, nir.Output)):
        return None
    shape = node.input_type["input"]
    return None if shape is None else tuple(int(n) for n in shape)


def _drop_batch(flat: Flat) -> None:
    """Take a leading batch of 1 out of every shape, if the graph was written with one."""
    shapes = {name: _port_shape(node) for name, node in flat.nodes.items()}
    roots = {name: s for name, s in shapes.items() if isinstance(flat.nodes[name], nir.Input) and s}
    if not roots or not any(
        _is_batched(s, flat.nodes[b]) for a, b in flat.edges if (s := roots.get(a))
    ):
        return
    if any(shape[0] != 1 for shape in roots.values()):
        return
    flat.notes.append("the shapes of the graph carry a batch of 1; it was left out")
    for name, node in flat.nodes.items():
        flat.nodes[name] = _unbatched(node)


def _is_batched(shape: Shape, target: nir.NIRNode) -> bool:
    """Whether an Input of this shape has one dimension more than what reads it."""
    kind = type(target).__name__
    wants = {"Conv1d": 2, "Conv2d": 3, "SumPool2d": 3, "AvgPool2d": 3}.get(kind)
    if kind in ("Linear", "Affine"):
        wants = target.weight.ndim - 1
    return shape[0] == 1 and wants is not None and len(shape) == wants + 1


def _unbatched(node: nir.NIRNode) -> nir.NIRNode:
    kind = type(node).__name__
    if isinstance(node, (nir.Input, nir.Output)):
        shape = _port_shape(node)
        if shape is not None and len(shape) > 1 and shape[0] == 1:
            key = kind.lower()
            return type(node)(**{f"{key}_type": {key: np.array(shape[1:])}})
    if kind in PARAMETERS and len(parameter_shape(node)) > 1 and parameter_shape(node)[0] == 1:
        for field in PARAMETERS[kind]:
            setattr(node, field, getattr(node, field)[0])
    return _shifted(node) if isinstance(node, nir.Flatten) and node.start_dim > 0 else node


def _shifted(node: nir.Flatten) -> nir.Flatten:
    """Return a Flatten whose dimensions do not count the batch."""
    end = node.end_dim if node.end_dim < 0 else node.end_dim - 1
    return nir.Flatten({"input": None}, node.start_dim - 1, end)


def _write(name: str, node: nir.NIRNode, takes: Shape, gives: Shape) -> None:
    """Write its shapes into a node, and give its parameters their full shape."""
    for shape in (takes, gives):
        if np.prod(shape, dtype=float) > LARGEST_LAYER:
            raise ValueError(
                f"node {name!r} has the shape {shape}; at most {LARGEST_LAYER} values can be"
            )
    kind = type(node).__name__
    if kind in PARAMETERS and parameter_shape(node) != takes:
        if np.prod(parameter_shape(node), dtype=int) != 1:
            raise ValueError(
                f"node {name!r} ({kind}) is given {takes}, but its parameters have the shape "
                f"{parameter_shape(node)}; they must agree"
            )
        for field in PARAMETERS[kind]:
            value = getattr(node, field)
            setattr(node, field, np.full(takes, value.reshape(()), value.dtype))
    if kind == "Conv1d":
        node.input_shape = takes[1]
    if kind == "Conv2d":
        node.input_shape = takes[1:]
    node.input_type = {"input": np.array(takes, dtype=int)}
    node.output_type = {"output": np.array(gives, dtype=int)}


def _convolved(name: str, node: nir.NIRNode, shape: Shape) -> Shape:
    channels = node.weight.shape[1] * node.groups
    dims = node.weight.ndim - 2
    if len(shape) != dims + 1 or shape[0] != channels:
        raise ValueError(
            f"node {name!r} ({type(node).__name__}) is given {shape}; it takes "
            f"({channels}, {', '.join('HWD'[:dims])})"
        )
    stride, dilation = (np.atleast_1d(v).tolist() for v in (node.stride, node.dilation))
    if isinstance(node.padding, str) and node.padding == "same":
        if set(stride) != {1}:
            raise ValueError(f"node {name!r}: padding 'same' takes a stride of 1, not {stride}")
        return (node.weight.shape[0], *shape[1:])
    padding = [0] * dims if isinstance(node.padding, str) else np.atleast_1d(node.padding).tolist()
    kernel = node.weight.shape[2:]
    windows = zip(shape[1:], kernel, stride, padding, dilation, strict=True)
    out = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in windows)
    return _positive(name, (node.weight.shape[0], *out))


def _positive(name: str, shape: Shape) -> Shape:
    shape = tuple(int(n) for n in shape)
    if min(shape) < 1:
        raise ValueError(f"node {name!r} would give {shape}; its kernel is larger than its input")
    return shape
