"""The operations of a network, seen while it runs, with its loop over time rolled up.

Every call of a function of torch becomes a node, and so does every neuron. Calls that do the same
to values of one step are one node with many steps; what depends on no step is static, done once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from snu_plugin.acceleration.neurons import Rule, rule_of


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


RANDOM = frozenset((
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
    "bernoulli", "bernoulli_", "rand", "randn", "randint", "rand_like", "randn_like",
    "randint_like", "randperm", "normal", "normal_", "uniform_", "poisson", "multinomial",
    "exponential_", "rrelu", "gumbel_softmax",
))  # fmt: skip
"""Functions that draw random numbers."""

KNOWN_SHAPE = frozenset((
    "shape", "size", "dim", "ndim", "ndimension", "dtype", "device", "numel", "nelement", "stride",
    "is_contiguous", "element_size", "is_floating_point", "is_complex", "is_cuda", "is_cpu",
    "is_sparse", "is_leaf", "requires_grad", "layout", "names", "__len__", "__hash__", "__repr__",
    "__format__", "get_device", "type", "is_tensor", "grad_fn", "grad", "_version",
    "storage_offset", "is_quantized", "is_meta", "is_nested", "data_ptr", "untyped_storage",
    "is_same_size", "__dir__", "register_hook", "is_inference", "is_conj", "is_neg", "itemsize",
    "nbytes", "retains_grad", "requires_grad_", "retain_grad",
))  # fmt: skip
"""Functions that tell nothing of a tensor's values."""

OUT_OF_PLACE = {
    "__iadd__": "__add__", "__isub__": "__sub__", "__imul__": "__mul__",
    "__itruediv__": "__truediv__", "__ipow__": "__pow__", "__iand__": "__and__",
    "__ior__": "__or__", "__ixor__": "__xor__",
}  # fmt: skip

ZEROS = frozenset(["zeros", "zeros_like", "new_zeros"])


def written(base: Tensor, index: Any, value: Any) -> Tensor:
    """Return a copy of ``base`` with ``value`` at ``index``."""
    copy = base.clone()
    copy[index] = value
    return copy


def name_of(func: Any) -> str:
    """Return the name under which users know a function of torch."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":
        return str(getattr(func.__self__, "__name__", name))
    return name


class Made(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every tensor that is made while a network runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tensors_in(out):
            self.tensors[id(tensor)] = tensor
        return out


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


def held_tensors(model: nn.Module) -> dict[int, Held]:
    """Return where in a network each of its tensors is held, by the tensor's identity."""
    found: dict[int, Held] = {}

    def walk(path: str, keys: tuple[Any, ...], value: Any) -> None:
        if isinstance(value, Tensor):
            found.setdefault(id(value), Held(path, keys))
        elif isinstance(value, Mapping) and len(keys) < 4:
            for key, item in value.items():
                walk(path, (*keys, key), item)
        elif isinstance(value, (tuple, list)) and len(keys) < 4:
            for place, item in enumerate(value):
                walk(path, (*keys, place), item)

    for path, module in model.named_modules():
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            walk(path, (name,), value)
        for name, value in vars(module).items():
            if not name.startswith("_"):
                walk(path, (name,), value)
    return found


def same(before: tuple[Any, int] | None, now: tuple[Any, int]) -> bool:
    """Tell whether an attribute holds what it held: the same object, or an equal number."""
    if before is None or before[1] != now[1]:
        return False
    plain = isinstance(now[0], (bool, int, float, str))
    return before[0] is now[0] or bool(plain and before[0] == now[0])


class Recorder(TorchFunctionMode):
    """Records what a network does with its inputs; ``record`` runs it."""

    def __init__(
        self,
        model: nn.Module,
        lone: frozenset[Any] = frozenset(),
        often: frozenset[Any] = frozenset(),
    ) -> None:
        """Take a copy of a network, in which calls of neurons are watched from now on.

        ``lone`` are static tensors of which but one step is taken, which is then no step, ``often``
        the places that draw random numbers at every step; an earlier run has shown both.
        """
        super().__init__()
        self.model, self.lone, self.often = model, lone, often
        self.nodes: list[Node] = []
        self.places: dict[Any, int] = {}
        self.known: dict[int, Ref] = {}
        self.kept: list[Any] = []
        self.held = held_tensors(model)
        self.made = Made()
        self.inside = False
        self.calls: dict[str, int] = {}
        self.rules: dict[str, Rule] = {}
        self.neurons: dict[str, int] = {}
        self.indices: dict[Any, set[int]] = {}
        self.draws: dict[Any, int] = {}
        self.result: Any = None
        self.problem: Unseen | None = None
        self.paths = {id(module): path for path, module in model.named_modules()}
        for path, module in model.named_modules():
            rule = rule_of(module)
            if rule is not None:
                self.rules[path] = rule
                call: Any = partial(self._neuron, path, module, rule, module.forward)
                module.forward = call  # of a copy
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                call = partial(self._norm, path, module, module.forward)
                module.forward = call  # type: ignore[method-assign]

    # What the network is given and gives

    def add_input(self, tensor: Tensor, name: str) -> None:
        place = self._place(("input", name), Node("input", name))
        self._know(tensor, Ref(place, None, None))

    def source(self, tensor: Tensor) -> Ref | Held | Constant:
        """Return what a tensor comes from."""
        found = self.known.get(id(tensor)) or self.held.get(id(tensor))
        if found is not None:
            return found
        if id(tensor) in self.made.tensors:
            raise Unseen(
                f"a tensor of shape {tuple(tensor.shape)} comes from something that torch does not "
                "show (a torch.autograd.Function of your own?); accelerate cannot see through it"
            )
        self.kept.append(tensor)
        return Constant(tensor)

    def _know(self, tensor: Tensor, ref: Ref) -> None:
        self.known[id(tensor)] = ref
        self.kept.append(tensor)

    # Functions of torch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            return func(*args, **kwargs)
        name = name_of(func)
        given = list(tensors_in((args, kwargs)))
        sources = [self.source(t) for t in given] if name not in KNOWN_SHAPE else []
        versions = [t._version for t in given]
        grad = torch.is_grad_enabled()
        with self.made:
            out = func(*args, **kwargs)
        results = list(tensors_in(out))
        changed = [t for t, v in zip(given, versions, strict=True) if t._version != v]
        if name in KNOWN_SHAPE:
            return out
        if name == "__set__":
            raise Unseen(
                "forward assigns to an attribute of a tensor; accelerate cannot see through it"
            )
        if not results and name != "__setitem__":
            changes = [s for s in sources if not (isinstance(s, Ref) and self.nodes[s.node].fixed)]
            if changes and out is not NotImplemented:
                if None in args and name in ("__eq__", "__ne__"):
                    return out
                raise Unseen(
                    f"forward looks at the values of a tensor ({name.strip('_')}()), so what it "
                    "does may differ from call to call; accelerate needs one that does the same"
                )
            return out
        if changed or name == "__setitem__":
            return self._in_place(name, func, args, kwargs, out, changed, grad)
        if len(results) == 1 and results[0] is out and any(out is t for t in given):
            return out  # nothing was to be done
        taken = self._taken(name, args, kwargs)
        if taken is not None:
            self._take(*taken, results)
            return out
        self._call("function", name, func, args, kwargs, out, grad)
        return out

    def _in_place(
        self,
        name: str,
        func: Any,
        args: Any,
        kwargs: Any,
        out: Any,
        changed: list[Tensor],
        grad: bool,
    ) -> Any:
        target = args[0]
        if [id(t) for t in changed] != [id(target)] or kwargs.get("out") is not None:
            raise Unseen(f"{name}() writes into a tensor; accelerate cannot see through it")
        if not isinstance(self.source(target), Ref):
            raise Unseen(
                f"forward writes into a tensor that it did not make ({name.strip('_')}()); "
                "accelerate would have to do so in every step"
            )
        storage = target.untyped_storage().data_ptr()
        for other in self.kept:
            if not isinstance(other, Tensor) or other is target or id(other) not in self.known:
                continue
            if storage and other.untyped_storage().data_ptr() == storage:
                raise Unseen(
                    f"{name.strip('_')}() writes into a tensor that another one is a view of; "
                    "accelerate cannot see through it"
                )
        if name == "__setitem__":
            pure: Any = written
        elif name in OUT_OF_PLACE or (name.endswith("_") and not name.endswith("__")):
            pure = getattr(Tensor, OUT_OF_PLACE.get(name, name[:-1]), None)
            if name in ("zero_", "fill_", "copy_", "normal_", "uniform_", "bernoulli_"):
                pure = None
        else:  # such as relu(x, inplace=True)
            pure = func
            try:
                bound = inspect.signature(func).bind(*args, **kwargs)
            except (TypeError, ValueError):
                pure = None
            else:
                bound.arguments["inplace"] = False
                args, kwargs = bound.args, bound.kwargs
        if pure is None:
            raise Unseen(f"{name}() writes into a tensor; accelerate cannot see through it")
        self._call("function", name_of(pure), pure, args, kwargs, target, grad)
        return out

    def _taken(self, name: str, args: Any, kwargs: Any) -> tuple[Ref, int, list[int]] | None:
        """Return the static tensor, its axis and the steps that a call takes out of it."""
        if not args or not isinstance(args[0], Tensor):
            return None
        source, shape = self.source(args[0]), args[0].shape
        if not isinstance(source, Ref) or source.step is not None:
            return None
        if name == "unbind" and not kwargs.keys() - {"dim"}:
            axis = kwargs.get("dim", args[1] if len(args) > 1 else 0) % len(shape)
            return source, axis, list(range(shape[axis]))
        if name == "select" and len(args) == 3:
            axis = args[1] % len(shape)
            return source, axis, [args[2] % shape[axis]]
        if name != "__getitem__":
            return None
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        if Ellipsis in [i for i in index if not isinstance(i, Tensor)]:
            place = [i is Ellipsis for i in index].index(True)
            whole = (slice(None),) * (len(shape) - len(index) + 1)
            index = *index[:place], *whole, *index[place + 1 :]
        numbers = [n for n, i in enumerate(index) if type(i) is int]
        others = [i for i in index if type(i) is not int]
        if len(numbers) != 1 or any(i != slice(None) for i in others if not isinstance(i, Tensor)):
            return None
        if any(isinstance(i, Tensor) for i in others):
            return None
        return source, numbers[0], [index[numbers[0]] % shape[numbers[0]]]

    def _take(self, source: Ref, axis: int, steps: list[int], results: list[Tensor]) -> None:
        key = "step", source, axis
        sign = self._sign(key)
        self.indices.setdefault(sign, set()).update(steps)
        for step, tensor in zip(steps, results, strict=True):
            if sign in self.lone:
                place = self._place((*key, step), Node("step", "step", args=(source, axis, step)))
                self._know(tensor, Ref(place, None, None))
            else:
                node = Node("step", "step", args=(source, axis), steps=[])
                place = self._place(key, node)
                self._at(place, step)
                self._know(tensor, Ref(place, None, step))

    def _place(self, key: Any, node: Node) -> int:
        if key not in self.places:
            node.sign = self._sign(key)
            self.places[key] = len(self.nodes)
            self.nodes.append(node)
        return self.places[key]

    def _sign(self, key: Any) -> int:
        """Return a number for a key that does not depend on how nodes are numbered."""

        def one(value: Any) -> Any:
            if isinstance(value, Ref):
                return self.nodes[value.node].sign, value.part, value.step
            if isinstance(value, tuple):
                if value[:1] == ("Ref",):
                    return one(Ref(*value[1:]))
                return tuple(map(one, value))
            return value

        return hash(one(key))

    def _at(self, place: int, step: int) -> None:
        steps = self.nodes[place].steps
        if steps is not None and step not in steps:
            steps.append(step)

    def _call(
        self, kind: str, name: str, func: Any, args: Any, kwargs: Any, out: Any, grad: bool
    ) -> None:
        """Note a call and what it returned."""
        sources: list[Any] = []

        def source(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            sources.append(self.source(value))
            return sources[-1]

        args, kwargs = mapped(tuple(args), source), mapped(dict(kwargs), source)
        steps = {s.step for s in sources if isinstance(s, Ref) and s.step is not None}
        step = next(iter(steps)) if len(steps) == 1 else None
        random = name in RANDOM and kwargs.get("training", True) is not False
        if name in RANDOM and kind == "function" and "dropout" in name:
            bound = inspect.signature(func).bind(*args, **kwargs)
            bound.apply_defaults()
            random = bool(bound.arguments.get("training", True)) and bound.arguments.get("p") != 0
        extra: Any = ()
        if random and step is None:
            where = self._where()
            count = self.draws[where] = self.draws.get(where, 0) + 1
            if where in self.often:
                step, extra = count - 1, where
            else:
                extra = where, count
        if step is not None:

            def now(value: Any) -> Any:
                is_now = isinstance(value, Ref) and value.step is not None
                return value._replace(step=NOW) if is_now else value

            args, kwargs = mapped(args, now), mapped(kwargs, now)
        key = kind, name, func, key_of(args), key_of(kwargs), grad, step is None, extra
        node = Node(kind, name, func, args, kwargs, grad, random, None if step is None else [])
        fixed = [isinstance(s, Ref) and self.nodes[s.node].fixed for s in sources]
        node.fixed = all(fixed) and not random and kind == "function"
        place = self._place(key, node)
        if step is not None:
            self._at(place, step)
        if isinstance(out, Tensor):
            self._know(out, Ref(place, None, step))
        else:
            for part, tensor in enumerate(out):
                if not isinstance(tensor, Tensor):
                    raise Unseen(
                        f"{name}() returns something else beside tensors; accelerate cannot see "
                        "through it"
                    )
                self._know(tensor, Ref(place, part, step))

    def _where(self) -> Any:
        """Return the place in the program of whoever calls, told from others."""
        frame, found = inspect.currentframe(), []
        while frame is not None and frame.f_code is not Recorder.record.__code__:
            owner = self.paths.get(id(frame.f_locals.get("self")))
            found.append((frame.f_code, frame.f_lasti, owner))
            frame = frame.f_back
        return tuple(found)

    # Modules

    def _norm(self, path: str, module: nn.Module, forward: Any, x: Tensor) -> Tensor:
        self.inside = True
        try:
            out: Tensor = forward(x)
        finally:
            self.inside = False
        node = "norm" if module.training or not module.track_running_stats else "function"
        source = self.source(x)
        if node == "norm" and isinstance(source, Ref) and source.step is None:
            # The same in every step, but each step moves the running statistics.
            key = "norm", path, key_of(source)
            count = self.draws[path] = self.draws.get(path, 0) + 1
            often = path in self.often
            steps: list[int] | None = [] if often else None
            once = *key, 0 if often else count
            place = self._place(once, Node("norm", path, path, (source,), steps=steps))
            self._at(place, count - 1)
            self._know(out, Ref(place, None, count - 1 if often else None))
            return out
        self._call(node, path, path, (x,), {}, out, torch.is_grad_enabled())
        return out

    def _neuron(
        self, path: str, module: nn.Module, rule: Rule, forward: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if self.inside:
            return forward(*args, **kwargs)
        self.inside = True
        try:
            x, given = rule.take(module, args, kwargs)
            before = [None if s is None else self.source(s) for s in given]
            source = self.source(x)
            out = forward(*args, **kwargs)
            results = list(rule.results(module, out))
        finally:
            self.inside = False
        if not isinstance(source, Ref):
            raise Unseen(f"{path!r} ({type(module).__name__}) is fed by no input of the network")
        count = self.calls.get(path, 0)
        self.calls[path] = count + 1
        if rule.over_time:
            if source.step is not None:
                self._note(f"{path!r} takes a sequence, and is given one inside of a loop")
            begin = self._begin(path, before)
            key = "neuron", path, key_of(source), key_of(begin), count
            whole = results[0][1]
            node = Node(
                "neuron", path, rule, (source, begin), grad=torch.is_grad_enabled(),
                steps=list(range(len(whole))),
            )  # fmt: skip
            place, last = self._place(key, node), len(whole) - 1
            for part, tensor in results:
                step = None if tensor.dim() == whole.dim() else last
                self._know(tensor, Ref(place, part, step))
        else:
            place = self._stepped(path, module, source, before, count)
            for part, tensor in results:
                self._know(tensor, Ref(place, part, count))
        return out

    def _begin(self, path: str, before: Sequence[Any]) -> tuple[Any, ...]:
        """Return the states that a neuron begins with, ``None`` where they are its reset state."""

        def one(state: Any) -> Any:
            zero = isinstance(state, Ref) and self.nodes[state.node].name in ZEROS
            return None if zero else state

        return tuple(map(one, before))

    def _note(self, problem: str) -> None:
        """Keep the first problem; once it is known which axis is time it is raised."""
        self.problem = self.problem or Unseen(problem)

    def _stepped(
        self, path: str, module: nn.Module, source: Ref, before: Sequence[Any], count: int
    ) -> int:
        who = f"{path!r} ({type(module).__name__})"
        if source.step not in (None, count):
            self._note(
                f"{who} is given step {source.step + 1} of {self._named(source)} at its call "
                f"{count + 1}: a delay, or a way back, which accelerate does not run at once"
            )
        now = source if source.step is None else source._replace(step=NOW)
        if count == 0:
            node = Node(
                "neuron", path, self.rules[path], (now, self._begin(path, before)),
                grad=torch.is_grad_enabled(), steps=[0],
            )  # fmt: skip
            self.neurons[path] = self._place(("neuron", path), node)
            return self.neurons[path]
        place = self.neurons[path]
        node = self.nodes[place]
        if node.args[0] != now:
            self._note(
                f"{who} is given {self._named(now)} at its call {count + 1}, and "
                f"{self._named(node.args[0])} before: accelerate needs steps that are alike (a way "
                "back through layers, or one neuron used for two layers, is none)"
            )
        for part, state in enumerate(before):
            name = self.rules[path].states[part]
            if state != Ref(place, self.rules[path].parts[name], count - 1):
                self._note(
                    f"{who} is not given at its call {count + 1} the state {name!r} that it "
                    "returned at the call before"
                )
        self._at(place, count)
        return place

    def _named(self, source: Ref) -> str:
        node = self.nodes[source.node]
        if node.kind == "function" and isinstance(node.args, tuple):
            for value in node.args:
                if isinstance(value, Ref) and value != source:
                    return f"{node.name.strip('_')}() of {self._named(value)}"
        return {"input": f"the input {node.name!r}", "neuron": f"the output of {node.name!r}"}.get(
            node.kind, f"{node.name.strip('_')}()"
        )

    # The run

    def record(self, *args: Any, **kwargs: Any) -> None:
        """Run the network; ``result`` is what it returned, with sources instead of tensors."""
        for place, tensor in enumerate(tensors_in((args, kwargs))):
            self.add_input(tensor, f"{place}")
        before = self._attributes()
        with self:
            out = self.model(*args, **kwargs)
        for (path, name), value in self._attributes().items():
            if not same(before.get((path, name)), value):
                who = path.removeprefix("net.") or "the network"
                raise Unseen(
                    f"forward writes {name!r} of {who}, which the callable would not; return it"
                )
        self.result = mapped(out, lambda v: self.source(v) if isinstance(v, Tensor) else v)

    def _attributes(self) -> dict[tuple[str, str], tuple[Any, int]]:
        """Return what modules other than neurons hold, and how much is in it."""
        found = {}
        for path, module in self.model.named_modules():
            if path in self.rules or isinstance(module, nn.modules.batchnorm._BatchNorm):
                continue
            for name, value in (*vars(module).items(), *module._buffers.items()):
                if not name.startswith("_"):
                    sized = isinstance(value, (list, dict, set))
                    found[path, name] = value, len(value) if sized else 0
        return found

    def hints(self) -> tuple[frozenset[Any], frozenset[Any]]:
        """Return ``lone`` and ``often``, as this run showed them."""
        lone = {key for key, found in self.indices.items() if len(found) == 1}
        often = {where for where, count in self.draws.items() if count > 1}
        return frozenset(lone), frozenset(often)
