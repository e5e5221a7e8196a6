"""What a recording is made of: operations, and what their arguments come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    """``input``, ``function``, ``step`` (one of the steps of a static tensor), ``neuron`` or
    ``norm`` (a batch normalisation, which keeps running statistics)."""
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


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested tuples, lists, dicts and slices with every other value changed."""
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
        return {key: mapped(item, change) for key, item in value.items()}
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
        """Note that a node is done at a step."""
        steps = self.all[place].steps
        if steps is not None and step not in steps:
            steps.append(step)

    def named(self, source: Ref) -> str:
        """Return what a value is, in words."""
        node = self.all[source.node]
        if node.kind == "function" and isinstance(node.args, tuple):
            for value in node.args:
                if isinstance(value, Ref) and value != source:
                    return f"{node.name.strip('_')}() of {self.named(value)}"
        return {"input": f"the input {node.name!r}", "neuron": f"the output of {node.name!r}"}.get(
            node.kind, f"{node.name.strip('_')}()"
        )
