"""Which module feeds which, found by running a model once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snu_plugin.graph.flow import Shape, Value, follow, fresh, matching, named, same, tensors

Leading = Callable[[nn.Module, Tensor], int | None]
Divide = Callable[[nn.Module, Sequence[int]], Sequence[nn.Module]]


class Call(NamedTuple):
    """One module, or a part of it, at work in the first step."""

    name: str
    module: nn.Module
    sources: tuple[str | None, ...]
    """Names of the modules whose outputs it receives, summed; ``None`` is the model's input."""
    given: Shape
    """Shape that each source gives in a step."""
    shape: Shape
    """Shape that it receives in a step: ``given``, or a reshape of it."""
    out: Shape
    """Shape of its output in a step."""


class Trace(NamedTuple):
    """The wiring of a model; all shapes are of one step, without batch and time."""

    calls: list[Call]
    """In the order in which they ran."""
    input_shape: Shape
    output: Call
    """What reaches the model's output, as if the model were the module that receives it."""


def trace(
    model: nn.Module,
    sample: Tensor,
    *,
    is_leaf: Callable[[nn.Module], bool],
    leading: Leading,
    divide: Divide,
) -> Trace:
    """Run a copy of ``model`` on ``sample`` and note which module's output reaches which module.

    Views, reshapes, steps taken out of a sequence, steps stacked into one, sums, and features put
    side by side are followed; any other function between two modules is refused. The model, and
    the random state of torch, stay as they are.

    Args:
        model: Any module; of a loop over time only a module's first call is looked at.
        sample: What the model takes, ``(B, ...)`` or ``(T, B, ...)``.
        is_leaf: Whether a module is one node, whatever it holds inside.
        leading: How many axes of a module's input are batch and time; ``None`` if its source knows.
        divide: Modules that each take one of the tensors that a module takes side by side, given
            their widths; their outputs add up to its own.

    Raises:
        ValueError: If the sample does not run, or something between two modules is no wiring.
    """
    if not sample.numel():
        raise ValueError(f"sample has shape {tuple(sample.shape)}; it must not be empty")
    model = detached(model)
    watch = _Watch(leading, divide)
    watch.keep(Value(sample, (None,), tuple(sample.shape), None, 0))
    for name, module in model.named_modules():
        module.training = False
        if is_leaf(module):
            module.register_forward_pre_hook(partial(watch.enter, name), with_kwargs=True)
            module.register_forward_hook(partial(watch.leave, name))
    devices = {t.device for t in (sample, *model.parameters()) if t.device.type == "cuda"}
    try:
        with torch.random.fork_rng(sorted(devices, key=str)), torch.no_grad(), watch:
            result = model(sample)
    except RuntimeError as error:
        raise ValueError(
            f"the model does not run on a sample of shape {tuple(sample.shape)}: {error}"
        ) from error
    return watch.finish(model, result)


def detached(model: nn.Module) -> nn.Module:
    """Copy a model; states that still hang on a graph of gradients are copied without it."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in _held((*module._buffers.values(), *vars(module).values())):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(model, memo)


def _held(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value, however deep in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _held(item)


class _Watch(TorchFunctionMode):
    """Follows tensors from module to module; keeps every one alive, so that none is confused."""

    def __init__(self, leading: Leading, divide: Divide) -> None:
        super().__init__()
        self.leading, self.divide = leading, divide
        self.values: dict[int, Value] = {}
        self.calls: dict[str, list[Call]] = {}
        self.last: dict[str, Value] = {}
        self.inside: list[int] = []
        self.input_shape: Shape | None = None

    def keep(self, value: Value) -> None:
        self.values[id(value.tensor)] = value

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        known: list[Value] = []
        if not self.inside:
            used = (*args, *kwargs.values())
            known = [fresh(v) for t in tensors(used) if (v := self.values.get(id(t)))]
        result = func(*args, **kwargs)
        if known:
            name = getattr(func, "__name__", str(func))
            several = len(list(tensors(used))) > len(known)
            for tensor in tensors(result):
                if self._is_new(tensor):
                    self.keep(follow(name, known, several, tensor, args, kwargs))
        return result

    def _is_new(self, tensor: Tensor) -> bool:
        known = self.values.get(id(tensor))
        return known is None or known.version != tensor._version

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self.inside:
            x = next(tensors((*args, *kwargs.values())), None)
            if x is None:
                raise ValueError(f"{name or 'the model'} is called without a tensor")
            self._receive(name, module, x)
        self.inside.append(id(module))

    def leave(self, name: str, module: nn.Module, args: Any, result: Any) -> None:
        self.inside.pop()
        if self.inside:
            return
        first, *rest = tensors(result)
        step, lead = self.last[name].step, self.last[name].lead
        out = tuple(first.shape[lead:])
        self.calls[name] = [call._replace(out=out) for call in self.calls[name]]
        sources = tuple(call.name for call in self.calls[name])
        self.keep(Value(first, sources, tuple(first.shape), lead, step))
        for tensor in rest:
            if tensor is not first:
                state = f"a state of {name!r} (only a module's first output leaves)"
                shape = tuple(tensor.shape)
                self.keep(Value(tensor, sources, shape, lead, step, problem=state))

    def _receive(self, name: str, module: nn.Module, x: Tensor) -> None:
        value = self._look_up(repr(name), x)
        lead, given = self._split(repr(name), value, x, self.leading(module, x))
        step, before = value.step, self.last.get(name)
        if before is None:
            whole = Call(name, module, value.sources, given, tuple(x.shape[lead:]), ())
            self.calls[name] = list(self._divided(whole, value.parts)) or [whole]
        elif same(before, value):
            step = before.step + 1
        elif step <= before.step:
            raise ValueError(
                f"{name!r} is called twice in one step with different inputs; NIR has no shared "
                "weights: give each call a module of its own"
            )
        self.last[name] = replace(value, tensor=x, lead=lead, step=step)

    def _divided(self, whole: Call, parts: Sequence[Value]) -> Iterator[Call]:
        """Yield a call for each of the tensors that a module receives side by side."""
        if not parts:
            return
        name, widths = repr(whole.name), [part.tensor.shape[-1] for part in parts]
        if whole.given != (sum(widths),):
            raise ValueError(
                f"{name} receives {named(whole.sources)} side by side, then reshaped from "
                f"{whole.given} to {whole.shape}; reshape before, one by one"
            )
        try:
            modules = self.divide(whole.module, widths)
        except TypeError as error:
            raise TypeError(f"{whole.name}: {error}") from error
        for i, (module, part) in enumerate(zip(modules, parts, strict=True)):
            _, given = self._split(name, part, part.tensor, part.tensor.dim() - 1)
            yield Call(f"{whole.name}.{i}", module, part.sources, given, (widths[i],), ())

    def _look_up(self, name: str, x: Tensor) -> Value:
        value = self.values.get(id(x))
        if value is None:
            raise ValueError(
                f"{name} receives a tensor that no module made from the model's input; "
                "NIR can only say modules that feed one another"
            )
        value = fresh(value)
        if value.problem:
            raise ValueError(f"{name} receives {value.problem}; NIR has no node for that")
        return value

    def _split(self, name: str, value: Value, x: Tensor, lead: int | None) -> tuple[int, Shape]:
        """Return the leading axes of ``x``, and the shape that its sources give in a step."""
        shape, whole = tuple(x.shape), value.whole
        start = value.lead
        if lead is None:
            if start is None:
                lead = min(1, x.dim() - 1)
            else:
                lead = matching(shape, prod(whole[:start]), whole[start:], start)
        if start is None and lead is not None:
            start = matching(whole, prod(shape[:lead]), shape[lead:], lead)
        fits = lead is not None and start is not None and start >= value.least
        if not fits or prod(whole[start:]) != prod(shape[lead:]):
            raise ValueError(
                f"{name} receives {shape}, cut or folded out of {whole} from "
                f"{named(value.sources)}; only batch and time may be cut, folded or stacked"
            )
        given = whole[start:]
        if None in value.sources and not value.parts:
            if self.input_shape not in (None, given):
                raise ValueError(
                    f"{name} takes the model's input as {given} in a step, another module took it "
                    f"as {self.input_shape}"
                )
            self.input_shape = given
        return int(lead or 0), given

    def finish(self, model: nn.Module, result: Any) -> Trace:
        x = next(tensors(result), None)
        if x is None:
            raise ValueError(f"the model returns {type(result).__name__}; it must return a tensor")
        value = self._look_up("the model's output", x)
        if value.parts:
            raise ValueError(
                f"the model returns {named(value.sources)} side by side; NIR has no node for that"
            )
        if value.lead is None:
            raise ValueError("the model returns its input; it has no module that NIR could say")
        lead, given = self._split("the model's output", value, x, None)
        shape = tuple(x.shape[lead:])
        output = Call("", model, value.sources, given, shape, shape)
        calls = [call for parts in self.calls.values() for call in parts]
        return Trace(calls, self.input_shape or (), output)
