"""Functions of torch, seen while a network runs: each call a node of a recording."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from snu_plugin.acceleration.attributes import held_tensors
from snu_plugin.acceleration.functions import (
    KNOWN_SHAPE,
    draws,
    name_of,
    out_of_place,
    rows_taken,
    windowed,
)
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


def autocast() -> tuple[Any, ...]:
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


class Call(NamedTuple):
    """One call of a function, and what it returned."""

    name: str
    func: Any
    args: Any
    kwargs: Any
    out: Any
    grad: bool
    """Whether gradients were enabled."""
    kind: str = "function"
    """That of its node."""


class Operations(TorchFunctionMode):
    """Notes every call of a function of torch."""

    outermost: CodeType
    """Of the function that runs the network."""
    grad: bool
    """Whether gradients are enabled where the run is."""
    cast: tuple[Any, ...]
    """Whether torch casts by itself, as the run began."""

    def __init__(self, model: nn.Module, lone: frozenset[Any], often: frozenset[Any]) -> None:
        super().__init__()
        self.lone, self.often = lone, often
        self.nodes = Nodes()
        self.known: dict[int, Ref] = {}
        self.kept: list[Any] = []
        self.held = held_tensors(model)
        self.made = Made()
        self.inside = False
        self.indices: dict[Any, set[int]] = {}
        self.draws: dict[Any, int] = {}
        self.again: dict[Any, int] = {}
        self.checks: dict[str, int] = {}
        """The first check of each line that asks for a truth."""
        self.denied: int | None = None
        """A check that is to be told the opposite, once."""
        self.unrolled = False
        """Whether the only row of a tensor was taken out of it."""
        self.paths = {id(module): path for path, module in model.named_modules()}

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
            self._note(Call("detach", Tensor.detach, args, kwargs, out, grad))
            return out
        call = Call(name, func, args, kwargs, out, grad)
        if changed or name == "__setitem__":
            self._note_in_place(call, changed)
        elif not (len(results) == 1 and results[0] is out and any(out is t for t in given)):
            self._of_one_or_all(call)  # else nothing was to be done
        return out

    def _of_one_or_all(self, call: Call) -> None:
        """Note what a call returned: steps of a static tensor, or what a function makes."""
        x: Any = call.args[0] if call.args else None
        taken = rows_taken(call.name, call.args, call.kwargs)
        windows = windowed(call.name, call.args, call.kwargs)
        whole = self.source(x) if taken or windows else None
        if not isinstance(whole, Ref) or whole.step is not None:
            self._note(call)
        elif windows is not None:
            axis, size, places = windows
            shape = axis, (-1, size)
            with self.made:
                apart = x.unflatten(*shape)
            self._note(Call("unflatten", Tensor.unflatten, (x, *shape), {}, apart, call.grad))
            self._take(self.known[id(apart)], axis, places, list(tensors_in(call.out)))
        elif taken is not None and not taken.rest:
            self.unrolled |= taken.axis == 0 and len(x) == 1
            self._take(whole, taken.axis, taken.places, list(tensors_in(call.out)))
        elif taken is not None:
            # Which of several numbers counts steps is known once only one of the first was seen.
            row = x.select(taken.axis, *taken.places)
            self._take(whole, taken.axis, taken.places, [row])
            part = row, taken.rest
            self._of_one_or_all(
                call._replace(name="__getitem__", func=Tensor.__getitem__, args=part, kwargs={})
            )

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

    def _autograd_function(self, kind: Any, forward: Any, *args: Any) -> Any:
        """Call ``forward`` of a class of ``torch.autograd.Function`` and note it."""
        if self.inside:
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
        self._note(Call(f"{kind.__name__}.apply", kind.apply, args, {}, out, self.grad))
        return out

    def _note_in_place(self, call: Call, changed: list[Tensor]) -> None:
        """Note a call that writes into tensors as one that makes what it wrote."""
        name, target = call.name, call.args[0]
        unseen = Unseen(f"{name}() writes into a tensor; accelerate cannot see through it")
        if [id(t) for t in changed] != [id(target)] or call.kwargs.get("out") is not None:
            raise unseen
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
        pure = out_of_place(name, call.func, call.args, call.kwargs)
        if pure is None:
            raise unseen
        self._note(Call(name_of(pure[0]), *pure, target, call.grad))

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

    def _note(self, call: Call) -> None:
        """Note a call and what it returned, as a node of its own or as a step of one."""
        if autocast() != self.cast:
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

        name, func, _, _, out, grad, kind = call
        args, kwargs = mapped(tuple(call.args), source), mapped(dict(call.kwargs), source)
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
        for part, tensor in [(None, out)] if isinstance(out, Tensor) else enumerate(out):
            if not isinstance(tensor, Tensor):
                raise Unseen(
                    f"{name}() returns something else beside tensors; accelerate cannot see "
                    "through it"
                )
            self._know(tensor, Ref(place, part, step))

    def _where(self) -> Any:
        """Return the place in the program of whoever calls, told from others."""
        frame, found = inspect.currentframe(), []
        while frame is not None and frame.f_code is not self.outermost:
            owner = self.paths.get(id(frame.f_locals.get("self")))
            found.append((frame.f_code, frame.f_lasti, owner))
            frame = frame.f_back
        return tuple(found)
