"""The operations of a network, seen while it runs, with its loop over time rolled up.

Every call of a function of torch becomes a node, and so does every neuron. Calls that do the same
to values of one step are one node with many steps; what depends on no step is static, done once.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from snu_plugin.acceleration.attributes import (
    PLAIN,
    Watch,
    attributes,
    constants,
    held_tensors,
    same,
)
from snu_plugin.acceleration.calls import Calls
from snu_plugin.acceleration.functions import (
    KNOWN_SHAPE,
    draws,
    name_of,
    out_of_place,
    rows_taken,
    windowed,
)
from snu_plugin.acceleration.neurons import Rule, rule_of
from snu_plugin.acceleration.nodes import (
    NOW,
    Constant,
    Held,
    Node,
    Nodes,
    Ref,
    Unseen,
    key_of,
    mapped,
    tensors_in,
)


def _autocast() -> tuple[Any, ...]:
    """Return whether torch casts by itself, and to what."""
    kinds = "cpu", "cuda"
    return tuple((torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds)


def looks_at_values(function: str, line: str) -> str:
    """Return why a network is refused that looks at values in a line."""
    return (
        f"forward looks at the values of a tensor ({function}() in {line}), so what it does may "
        "differ from call to call; accelerate needs one that does the same"
    )


def _line(frame: FrameType) -> str:
    """Return the line of a program that a frame is at."""
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"


def _derived(kind: Any) -> list[Any]:
    """Return all classes below one."""
    return [c for below in kind.__subclasses__() for c in (below, *_derived(below))]


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


class Recorder(TorchFunctionMode):
    """Records what a network does with its inputs; ``record`` runs it."""

    def __init__(
        self,
        model: nn.Module,
        lone: frozenset[Any] = frozenset(),
        often: frozenset[Any] = frozenset(),
        *,
        once: bool = True,
    ) -> None:
        """Take a copy of a network, in which calls of neurons are watched from now on.

        ``once`` says that a call of it is one of the network's own, which may leave something.

        ``lone`` are static tensors of which but one step is taken, which is then no step, ``often``
        the places that draw random numbers at every step; an earlier run has shown both.
        """
        super().__init__()
        self.model, self.lone, self.often = model, lone, often
        self.nodes = Nodes()
        self.known: dict[int, Ref] = {}
        self.kept: list[Any] = []
        self.held = held_tensors(model)
        self.made = Made()
        self.inside = False
        self.rules: dict[str, Rule] = {}
        self.calls = Calls(self.nodes)
        self.given: dict[str, Tensor] = {}
        self.indices: dict[Any, set[int]] = {}
        self.draws: dict[Any, int] = {}
        self.again: dict[Any, int] = {}
        self.turns: dict[str, list[int]] = {}
        """The nodes of each batch normalisation, as they were called."""
        self.checks: dict[str, int] = {}
        """The first check of each line that asks for a truth."""
        self.denied: int | None = None
        """A check that is to be told the opposite, once."""
        self.result: Any = None
        self.leaves: dict[tuple[str, str], Any] | None = {} if once else None
        """What forward leaves in attributes of modules, with sources instead of tensors."""
        self.unrolled = False
        """Whether the only row of a tensor was taken out of it."""
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
        place = self.nodes.place(("input", name), Node("input", name))
        self._know(tensor, Ref(place, None, None))

    def source(self, tensor: Tensor) -> Ref | Held | Constant:
        """Return what a tensor comes from."""
        found = self.known.get(id(tensor)) or self.held.get(id(tensor))
        if found is not None:
            return found
        if id(tensor) in self.made.tensors:
            raise Unseen(
                f"a tensor of shape {tuple(tensor.shape)} comes from something that torch does not "
                "show; accelerate cannot see through it"
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
        if name == "_set_grad_enabled":
            self.grad = args[0]
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
                line = _line(sys._getframe(1))
                if name == "__bool__":
                    return self._check(changes[0], out, line)
                raise Unseen(looks_at_values(name.strip("_"), line))
            return out
        if name == "detach_":  # what depends on nothing, such as a reset state, has no gradient
            if sources and isinstance(sources[0], Ref) and self.nodes[sources[0].node].fixed:
                return out
            self._call("function", "detach", Tensor.detach, args, kwargs, out, grad)
            return out
        if changed or name == "__setitem__":
            return self._in_place(name, func, args, kwargs, out, changed, grad)
        if len(results) == 1 and results[0] is out and any(out is t for t in given):
            return out  # nothing was to be done
        self._of_one_or_all(name, func, args, kwargs, out, grad)
        return out

    def _of_one_or_all(
        self, name: str, func: Any, args: Any, kwargs: Any, out: Any, grad: bool
    ) -> None:
        """Note what a call returned: steps of a static tensor, or what a function makes."""
        taken, windows = rows_taken(name, args, kwargs), windowed(name, args, kwargs)
        found = taken or windows
        whole = self.source(args[0]) if found is not None else None
        if windows is not None and isinstance(whole, Ref) and whole.step is None:
            axis, size, places = windows
            with self.made:
                apart = args[0].unflatten(axis, (-1, size))
            shape = axis, (-1, size)
            self._call(
                "function", "unflatten", Tensor.unflatten, (args[0], *shape), {}, apart, grad
            )
            results = [out] if isinstance(out, Tensor) else list(out)
            self._take(self.known[id(apart)], axis, places, results)
        elif taken is None or not isinstance(whole, Ref) or whole.step is not None:
            self._call("function", name, func, args, kwargs, out, grad)
        elif not taken.rest:
            self.unrolled |= taken.axis == 0 and len(args[0]) == 1
            self._take(whole, taken.axis, taken.places, list(tensors_in(out)))
        else:  # which of several numbers counts steps is known once only one of the first was seen
            row = args[0].select(taken.axis, *taken.places)
            self._take(whole, taken.axis, taken.places, [row])
            part = row, taken.rest
            self._of_one_or_all("__getitem__", Tensor.__getitem__, part, {}, out, grad)

    def _check(self, source: Any, truth: bool, line: str) -> bool:
        """Note that a truth was asked for; return it, or the other one if that is to be tried."""
        step = source.step if isinstance(source, Ref) else None
        now = source if step is None else source._replace(step=NOW)
        key = "check", key_of(now), truth
        steps: list[int] | None = None if step is None else []
        place = self.nodes.place(key, Node("check", "bool", truth, (now,), steps=steps))
        if step is not None:
            self.nodes.at(place, step)
        if self.checks.setdefault(line, place) != self.denied:
            return truth
        self.denied, self.inside = None, True
        return not truth

    @contextmanager
    def _autograd_functions(self) -> Iterator[None]:
        """Note calls of ``torch.autograd.Function``, which torch shows to no mode, as functions.

        Else what they do forward would be noted, and their gradients lost. Watched is ``forward``
        itself, as networks hold ``Mine.apply`` under names of their own.
        """
        kinds = _derived(torch.autograd.Function)
        own = {kind: vars(kind).get("forward") for kind in kinds}
        watched = partial(self._autograd_function, threading.get_ident())
        calls = {kind: staticmethod(partial(watched, kind, kind.forward)) for kind in kinds}
        for kind, call in calls.items():
            kind.forward = call
        try:
            yield
        finally:
            for kind, forward in own.items():
                if forward is None:
                    del kind.forward
                else:
                    kind.forward = forward

    def _autograd_function(self, thread: int, kind: Any, forward: Any, *args: Any) -> Any:
        """Call ``forward`` of a class and note it; calls of other threads are not."""
        if self.inside or threading.get_ident() != thread:
            return forward(*args)
        given = list(tensors_in(args))
        versions = [t._version for t in given]
        self.inside = True
        try:
            out = forward(*args)
        finally:
            self.inside = False
        if [t._version for t in given] != versions or any(
            o is t for o in tensors_in(out) for t in given
        ):
            raise Unseen(
                f"{kind.__name__}.apply() writes into a tensor, or returns one that it was given; "
                "accelerate cannot see through it"
            )
        if args and isinstance(args[0], torch.autograd.function.FunctionCtx):
            args = args[1:]
        self._call("function", f"{kind.__name__}.apply", kind.apply, args, {}, out, self.grad)
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
        pure = out_of_place(name, func, args, kwargs)
        if pure is None:
            raise Unseen(f"{name}() writes into a tensor; accelerate cannot see through it")
        self._call("function", name_of(pure[0]), *pure, target, grad)
        return out

    def _take(self, source: Ref, axis: int, steps: list[int], results: list[Tensor]) -> None:
        key = "step", source, axis
        sign = self.nodes.sign(key)
        self.indices.setdefault(sign, set()).update(steps)
        for step, tensor in zip(steps, results, strict=True):
            if sign in self.lone:
                node = Node("step", "step", args=(source, axis, step))
                place = self.nodes.place((*key, step), node)
                self._know(tensor, Ref(place, None, None))
            else:
                node = Node("step", "step", args=(source, axis), steps=[])
                place = self.nodes.place(key, node)
                self.nodes.at(place, step)
                self._know(tensor, Ref(place, None, step))

    def _call(
        self, kind: str, name: str, func: Any, args: Any, kwargs: Any, out: Any, grad: bool
    ) -> None:
        """Note a call and what it returned."""
        if _autocast() != self.cast:
            raise Unseen(
                "forward switches torch.autocast on or off by itself; have it around the call, "
                "which accelerate follows"
            )
        sources: list[Any] = []

        def source(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            sources.append(self.source(value))
            return sources[-1]

        args, kwargs = mapped(tuple(args), source), mapped(dict(kwargs), source)
        steps = {s.step for s in sources if isinstance(s, Ref) and s.step is not None}
        step = next(iter(steps)) if len(steps) == 1 else None
        random = kind == "function" and draws(name, func, args, kwargs)
        extra: Any = ()
        if random and step is None:
            where = self._where()
            count = self.draws[where] = self.draws.get(where, 0) + 1
            if where in self.often:
                step, extra = count - 1, where
            else:
                extra = where, count
        elif random:  # numbers for the same step once more are others
            same_call = name, func, key_of(args), key_of(kwargs)
            extra = self.again[same_call] = self.again.get(same_call, -1) + 1
        if step is not None:

            def now(value: Any) -> Any:
                is_now = isinstance(value, Ref) and value.step is not None
                return value._replace(step=NOW) if is_now else value

            args, kwargs = mapped(args, now), mapped(kwargs, now)
        key = kind, name, func, key_of(args), key_of(kwargs), grad, step is None, extra
        node = Node(kind, name, func, args, kwargs, grad, random, None if step is None else [])
        fixed = [isinstance(s, Ref) and self.nodes[s.node].fixed for s in sources]
        node.fixed = all(fixed) and not random and kind == "function"
        place = self.nodes.place(key, node)
        if step is not None:
            self.nodes.at(place, step)
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
        if self.inside:
            return forward(x)  # type: ignore[no-any-return]
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
            place = self.nodes.place(once, Node("norm", path, path, (source,), steps=steps))
            self.nodes.at(place, count - 1)
            self._know(out, Ref(place, None, count - 1 if often else None))
        else:
            self._call(node, path, path, (x,), {}, out, torch.is_grad_enabled())
        if node == "norm":
            turns = self.turns.setdefault(path, [])
            place = self.known[id(out)].node
            if place in turns[:-1] and place != turns[-1]:
                self.calls.note(
                    f"{path!r} ({type(module).__name__}) normalises several inputs by turns, and "
                    "accelerate all steps of one after the other, which moves its statistics "
                    "otherwise; give each a normalisation of its own"
                )
            turns.append(place)
        return out

    def _neuron(
        self, path: str, module: nn.Module, rule: Rule, forward: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if self.inside:
            return forward(*args, **kwargs)
        self.inside = True
        try:
            x, given = rule.take(module, args, kwargs)
            first = self.given.setdefault(path, x)
            before = [None if s is None else self.source(s) for s in given]
            source = self.source(x)
            out = forward(*args, **kwargs)
            results = list(rule.results(module, out))
        finally:
            self.inside = False
        who = f"{path!r} ({type(module).__name__})"
        if x.shape != first.shape:
            self.calls.note(
                f"{who} is given a step of shape {tuple(x.shape)}, and one of {tuple(first.shape)} "
                "at its first call: accelerate needs steps of one shape, a neuron for each layer"
            )
        if rule.over_time:
            if not isinstance(source, Ref):
                raise Unseen(f"{who} is fed by no input of the network")
            whole = results[0][1]
            place = self.calls.over_time(path, rule, source, before, len(whole))
            for part, tensor in results:
                step = None if tensor.dim() == whole.dim() else len(whole) - 1
                self._know(tensor, Ref(place, part, step))
        else:
            place, step = self.calls.step(path, who, rule, source, before)
            for part, tensor in results:
                self._know(tensor, Ref(place, part, step))
        return out

    # The run

    def record(self, *args: Any, **kwargs: Any) -> None:
        """Run the network; ``result`` is what it returned, with sources instead of tensors."""
        before = attributes(self.model, self.rules)
        states = {path: rule.states for path, rule in self.rules.items()}
        set_to = constants(self.model, states)
        out = self._run(args, kwargs)
        for (path, name), held in constants(self.model, states).items():
            if held is not set_to.get((path, name)):
                kind = type(self.model.get_submodule(path)).__name__
                raise Unseen(
                    f"forward sets {name!r} of {path.removeprefix('net.')!r} ({kind}), which the "
                    "callable would not; set it outside of forward"
                )
        for (path, name), value in attributes(self.model, self.rules).items():
            if not same(old := before.get((path, name)), value):
                self._written(path, name, value[0], None if old is None else old[0])
        self.result = mapped(out, self._given_back)
        self.calls.finish()

    def raises_without(self, check: int, *args: Any, **kwargs: Any) -> bool:
        """Run the network; tell whether it raises an error where a check finds the opposite.

        So do ``assert x.isfinite().all()``, ``if x.max() > 1: raise ValueError`` and the checks of
        ``torch.distributions``. Nothing is noted from there on.
        """
        self.denied = check
        try:
            self._run(args, kwargs)
        except Exception:  # whatever it is that it raises
            return self.denied is None
        return False

    def _run(self, args: Any, kwargs: Any) -> Any:
        for place, tensor in enumerate(tensors_in((args, kwargs))):
            self.add_input(tensor, f"{place}")
        self.cast, self.grad = _autocast(), torch.is_grad_enabled()
        with self, self._autograd_functions():
            return self.model(*args, **kwargs)

    def check_leaves(self, *args: Any, **kwargs: Any) -> None:
        """Run the network once more: what it left must not matter, nor count calls.

        Raises:
            Unseen: If it goes on from a tensor that it left, or leaves other numbers.
        """
        before = attributes(self.model, self.rules)
        left = {
            id(tensor): name
            for path, name in self.leaves or {}
            for tensor in tensors_in(before[path, name][0])
        }
        self.inside = True  # the calls of neurons go by
        with Watch(left):
            self.model(*args, **kwargs)
        for (path, name), value in attributes(self.model, self.rules).items():
            if not same(old := before[path, name], value) and isinstance(value[0], PLAIN):
                raise Unseen(
                    f"forward changes {name!r} from call to call, {old[0]!r} to {value[0]!r}; "
                    "accelerate needs one that does the same"
                )

    def _written(self, path: str, name: str, value: Any, old: Any) -> None:
        """Note what forward left in a module: tensors that it made, alone or in something new."""
        plain = value is None or isinstance(value, PLAIN)
        made = plain or (value is not old and any(True for _ in tensors_in(value)))
        if self.leaves is None or not made:
            kind = type(self.model.get_submodule(path)).__name__
            who = f"{path.removeprefix('net.')} ({kind})" if path else "the network"
            raise Unseen(
                f"forward writes {name!r} of {who}, which the callable would not; return it"
            )
        self.leaves[path, name] = mapped(value, self._given_back)

    def _given_back(self, value: Any) -> Any:
        """Return where a part of the result comes from."""
        if isinstance(value, Tensor):
            return self.source(value)
        if value is None or isinstance(value, (Enum, *PLAIN)):
            return value
        raise Unseen(
            f"forward returns a {type(value).__name__}, in which accelerate sees no tensors; "
            "return the tensors that it is made of"
        )

    def hints(self) -> tuple[frozenset[Any], frozenset[Any]]:
        """Return ``lone`` and ``often``, as this run showed them."""
        lone = {key for key, found in self.indices.items() if len(found) == 1}
        often = {where for where, count in self.draws.items() if count > 1}
        return frozenset(lone), frozenset(often)
