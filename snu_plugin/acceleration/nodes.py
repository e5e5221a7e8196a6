"""What a recording is made of: operations, and what their arguments come from."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


class Ref(NamedTuple):
    """One value: what a node gives, or one of the tensors that it gives, at one step."""

    node: int
    part: int | None
    step: int | None
    """``None``: it is static; ``NOW``: at the step of whoever takes it."""


NOW = -1


class Held(NamedTuple):
    """A tensor that an attribute of a module holds, read whenever the network runs."""

    module: str
    keys: tuple[Any, ...]


class Constant:
    """A tensor from outside of the network, taken as it is."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@dataclass(eq=False)
class Node:
    """One operation, of one step or of many."""

    kind: str
    """``input``, ``function``, ``step`` (one of the steps of a static tensor), ``neuron``,
    ``norm`` (a batch normalisation, which keeps running statistics) or ``check`` (of values, of
    which another outcome would have raised an error)."""
    name: str
    func: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    grad: bool = True
    """Whether gradients were enabled."""
    random: bool = False
    steps: list[int] | None = None
    """The steps at which it is done; ``None``: it is static."""
    fixed: bool = False
    """Whether its values depend on nothing, such as ``torch.ones(3)``."""
    sign: int = 0
    """The same for nodes that are made of the same in another run."""
    cuts: dict[int, set[str]] = field(default_factory=dict)
    """Of a neuron: the steps at which it begins again, and the states that lose their gradients."""
    without: set[int] = field(default_factory=set)
    """Of a neuron: the steps at which gradients were not enabled."""

    @property
    def refs(self) -> list[Ref]:
        """The values that it is made of."""
        return refs_in((self.args, self.kwargs))


class Unseen(ValueError):
    """Why a network cannot be accelerated."""


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif is_record(value):
        yield from tensors_in(fields_of(value))


def is_record(value: Any) -> bool:
    """Tell whether a value is an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def fields_of(record: Any) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested tuples, lists, dicts, dataclasses and slices, all else in them changed."""
    if isinstance(value, tuple):
        items = [mapped(item, change) for item in value]
        if isinstance(value, (Ref, Held)):
            return change(value)
        if hasattr(value, "_fields"):
            return type(value)(*items)
        if type(value).__module__ == "torch.return_types":
            return type(value)(items)
        return tuple(items)
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    if isinstance(value, dict):
        made: Any = {} if type(value) is dict else copy.copy(value)
        for key, item in value.items():
            made[key] = mapped(item, change)
        return made
    if is_record(value):
        made = copy.copy(value)
        for name, item in fields_of(value).items():
            object.__setattr__(made, name, mapped(item, change))  # frozen ones, too
        return made
    if isinstance(value, slice):
        return slice(*(mapped(part, change) for part in (value.start, value.stop, value.step)))
    return change(value)


def key_of(value: Any) -> Any:
    """Return something hashable that is equal for arguments that mean the same."""
    if isinstance(value, (Ref, Held)):
        return type(value).__name__, *value
    if isinstance(value, (tuple, list)):
        return type(value).__name__, *map(key_of, value)
    if isinstance(value, Mapping):
        return "dict", *((key, key_of(item)) for key, item in sorted(value.items()))
    if isinstance(value, slice):
        return "slice", key_of(value.start), key_of(value.stop), key_of(value.step)
    if isinstance(value, Constant):
        return "constant", id(value.tensor)
    try:
        hash(value)
    except TypeError:
        return "object", id(value)
    return type(value).__name__, value


class Nodes:
    """The nodes of a recording: calls that do the same to values of one step share one."""

    def __init__(self) -> None:
        self.all: list[Node] = []
        self._places: dict[Any, int] = {}

    def __getitem__(self, place: int) -> Node:
        return self.all[place]

    def place(self, key: Any, node: Node) -> int:
        """Return the place of the node of ``key``, which is ``node`` where there was none."""
        if key not in self._places:
            node.sign = self.sign(key)
            self._places[key] = len(self.all)
            self.all.append(node)
        return self._places[key]

    def sign(self, key: Any) -> int:
        """Return a number for a key that does not depend on how nodes are numbered."""

        def one(value: Any) -> Any:
            if isinstance(value, Ref):
                return self.all[value.node].sign, value.part, value.step
            if isinstance(value, tuple):
                if value[:1] == ("Ref",):
                    return one(Ref(*value[1:]))
                return tuple(map(one, value))
            return value

        return hash(one(key))

    def at(self, place: int, step: int) -> None:
        """Note that a node is done at a step; what moves statistics is done as often as called."""
        node = self.all[place]
        if node.steps is not None and (node.kind == "norm" or step not in node.steps):
            node.steps.append(step)


def named(nodes: Sequence[Node], source: Any) -> str:
    """Return what a value is, in words."""
    if isinstance(source, Held):
        return f"what {source.module or 'the network'} holds"
    if not isinstance(source, Ref):
        return "a constant"
    node = nodes[source.node]
    if node.kind == "function" and isinstance(node.args, tuple):
        for value in node.args:
            if isinstance(value, Ref) and value != source:
                return f"{node.name.strip('_')}() of {named(nodes, value)}"
    return {"input": f"the input {node.name!r}", "neuron": f"the output of {node.name!r}"}.get(
        node.kind, f"{node.name.strip('_')}()"
    )


def refs_in(value: Any) -> list[Ref]:
    """Return every ``Ref`` within nested arguments."""
    found: list[Ref] = []
    mapped(value, lambda part: found.append(part) if isinstance(part, Ref) else None)
    return found


class Circle(Exception):
    """Nodes each of which is made of the next, and the last of the first."""

    def __init__(self, places: list[int]) -> None:
        super().__init__(places)
        self.places = places


def in_order(nodes: Sequence[Node], roots: Iterable[int]) -> list[int]:
    """Return some nodes and all that they are made of, each behind what it is made of.

    Raises:
        Circle: If there is no such order.
    """
    order: list[int] = []
    done: set[int] = set()

    def made_of(place: int) -> Iterator[int]:
        return iter(sorted({ref.node for ref in nodes[place].refs}))

    for root in sorted(set(roots)):
        way = {} if root in done else {root: made_of(root)}
        while way:
            last = next(reversed(way))
            place = next((p for p in way[last] if p not in done), None)
            if place is None:
                del way[last]
                done.add(last)
                order.append(last)
            elif place in way:
                places = list(way)
                raise Circle(places[places.index(place) :])
            else:
                way[place] = made_of(place)
    return order
