"""A model as its user calls it, and what each of its modules receives and gives."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from snu_plugin.graph.discretisation import DiscreteGraph
from snu_plugin.graph.proving.sample_layout import SampleLayout
from snu_plugin.graph.tracing.calling import (
    called_with,
    carried_on,
    detached_copy,
    returned,
    standing_in,
)
from snu_plugin.graph.tracing.layer_state import equal, everything, held
from snu_plugin.graph.tracing.trace import Trace
from snu_plugin.graph.tracing.traced_tensor import Shape, tensors
from snu_plugin.random_states import random_states, undisturbed

STEPS = 32, 128
"""How many steps are checked: at least, and of longer samples at most."""

BATCH = 4
"""How many sequences are checked."""

CALLS = 4
"""How often a model is called again that draws at random, or holds something else after a call."""

OF_MODULES = {"training", *(name for name in vars(nn.Module()) if name.startswith("_"))}
"""What every module of torch holds, beside what it is."""


@dataclass
class Observed:
    """What a run of the model gave, each ``(T, B, ...)``."""

    fed: dict[str, Tensor]
    """What went in, ``(T, *batch, ...)``, by Input; one step of what is the same in each."""
    x: dict[str, Tensor]
    y: dict[str, Tensor]
    """By Output; from ``first`` on."""
    first: dict[str, int]
    given: dict[str, Tensor] = field(default_factory=dict)
    """What the module of each node gave, as far as it is known."""
    taken: dict[str, Tensor] = field(default_factory=dict)
    """What it received."""


class _WrittenInto(Exception):
    """A model wrote into what a module had given."""


@dataclass
class Observer:
    """Runs copies of a model."""

    model: nn.Module
    """As its user calls it."""
    found: Trace
    gives: Mapping[str, str]
    """The node of each of its modules, by name."""
    outputs: Mapping[str, Shape]
    """The shape in a step of each tensor that it returns and that leaves, by name."""
    discrete: DiscreteGraph
    """Its graph."""
    layout: SampleLayout
    """How it is called."""
    forgets: bool = False
    """Whether the model gives states that it takes in no call."""
    again: str = ""
    """How the model gives something else when it is called again; empty if it does not."""

    def samples(self) -> list[dict[str, Tensor]]:
        """Return the sample as it may be fed: over other steps, or as far as it goes.

        What depends on the number of steps or sequences shows where there are others than in the
        sample. Models that were written for one number of them take no other.
        """
        layout, axis = self.layout, self.layout.calling.axis
        own = layout.batch
        sequences = BATCH - 1 if own[:1] == (2 * BATCH,) else BATCH  # there are twice as many
        batch = tuple(n if i else sequences for i, n in enumerate(own))
        length = 1 if axis is None else layout.lead[axis]
        steps = STEPS[0] if length < STEPS[0] else min(length + 1, STEPS[1])
        steps -= steps == length
        tries = [(steps, batch), (length, batch), (length, own)]
        if axis is None:
            tries = [(steps, batch), (steps, own)]
        return [layout.tiled(*one) for one in dict.fromkeys(tries)]

    def first(self) -> Observed:
        """Run the model on the sample, in the first way that it takes."""
        *some, whole = self.samples()
        for fed in some:
            try:
                return self.observe(fed)
            except Exception:
                continue
        return self.observe(whole)

    def observe(self, fed: dict[str, Tensor], taking: bool = True) -> Observed:
        """Run a copy of the model on what is ``fed``, from a reset.

        Args:
            fed: What each input receives, ``(T, *batch, ...)``.
            taking: Whether to keep what each module received, too.
        """
        try:
            return self._observed(fed, taking, copied=taking)
        except _WrittenInto:
            return self._observed(fed, taking, copied=True)

    @torch.no_grad()
    def _observed(self, fed: dict[str, Tensor], taking: bool, copied: bool) -> Observed:
        model = detached_copy(self.model)
        for module in model.modules():
            module.training = False
        _reset(model, self.found)
        given: dict[str, list[Tensor]] = {}
        taken: dict[str, list[Tensor]] = {}
        versions, hooks = list[tuple[Tensor, int]](), list[RemovableHandle]()

        for name, node in self.gives.items():

            def keep(module: nn.Module, args: Any, kwargs: Any, y: Any, node: str = node) -> None:
                got = next(tensors((*args, *kwargs.values())), None) if taking else None
                for signals, signal in ((taken, got), (given, next(tensors(y)))):
                    if signal is not None:
                        signals.setdefault(node, []).append(signal.clone() if copied else signal)
                        versions.append((signals[node][-1], signals[node][-1]._version))

            module = model.get_submodule(name)
            hooks.append(module.register_forward_hook(keep, prepend=True, with_kwargs=True))
        with standing_in(self.model, model), undisturbed(*model.parameters(), *fed.values()):
            before = random_states()
            results = list(self._results(model, fed))
            for hook in hooks:
                hook.remove()
            self._call_again(model, fed, results, random_states() != before)
        if any(tensor._version != version for tensor, version in versions):
            raise _WrittenInto
        versions.clear()  # the steps go as soon as they lie in sequences
        batch, axis = next(iter(self.layout.flat(fed).values())).shape[1], self.layout.calling.axis
        outputs = dict[str, Tensor]()
        for name, shape in self.outputs.items():
            y = _in_time([result[name] for result in results], shape, batch, axis)
            if y is None:
                raise ValueError(
                    f"the model gives {tuple(results[0][name].shape)}; that are no steps of "
                    f"{batch} sequences of {shape}"
                )
            outputs[name] = y
        shapes, takes = self.discrete.shapes, self.discrete.input_shapes
        steps = {n: _in_time(given.pop(n), shapes[n], batch, axis) for n in list(given)}
        inputs = {n: _in_time(taken.pop(n), takes[n], batch, axis) for n in list(taken)}
        length = max(
            [*map(len, outputs.values()), *(len(y) for y in steps.values() if y is not None)]
        )
        whole = self.layout.lead[axis] if axis is not None else length
        first = {name: self._begins(name, len(y), length, whole) for name, y in outputs.items()}
        x = self.layout.flat(fed, length)
        if length > (given_steps := len(next(iter(x.values())))):
            raise ValueError(
                f"the model gives {length} steps for {given_steps} that it gets; a graph gives one "
                "for each: leave out what it begins with"
            )
        asked = min(whole, max(map(len, fed.values())))
        ends = min((first[name] + len(y) for name, y in outputs.items()), default=asked)
        if axis is not None and ends < asked:
            raise ValueError(
                f"the model gives {ends} of the {asked} steps of its sample, and its graph all: "
                "let it run to the end, or give a sample of as many steps as it takes"
            )
        known = [
            {name: y for name, y in signals.items() if y is not None and len(y) == length}
            for signals in (steps, inputs)
        ]
        return Observed(fed, x, outputs, first, *known)

    def _call_again(
        self,
        model: nn.Module,
        fed: Mapping[str, Tensor],
        results: Sequence[Mapping[str, Tensor]],
        drew: bool,
    ) -> None:
        """Note whether the next call gives something else, where one has left a trace in the model.

        Of a model that makes one step a call, all calls are compared with the graph in any case.
        """
        calling = self.layout.calling
        if calling.axis is None and not calling.repeated:
            return
        _reset(model, self.found)
        batch = next(iter(self.layout.flat(fed).values())).shape[1]
        left = _changed(self.model, model, (batch,) if self.layout.batch else ())
        for _ in range(CALLS if drew or left else 0):
            (first,), (again,) = results, self._results(model, fed)
            if not all(equal(again[name], y) for name, y in first.items()):
                why = f"changes {left}" if left else "draws at random, also in evaluation"
                self.again = (
                    "the model gives something else when it is called again with the same input, "
                    f"after a reset: it {why}; a graph gives the same each time"
                )
            _reset(model, self.found)

    def _begins(self, name: str, steps: int, length: int, whole: int) -> int:
        """Return the step that an output begins with, of a model that returns some steps only."""
        if steps == length:
            return 0
        last = self.found.last[name]
        return length - steps if last and last + steps == whole else last

    def _results(self, model: nn.Module, fed: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yield what each call of the model returns, by Output."""
        states: tuple[Any, ...] = ()
        for given in self.layout.calls(fed):
            given = {name: x.clone() for name, x in given.items()}  # a model may write into it
            result = called_with(model, self.layout.sample, given, states)
            states = carried_on(model, result) if isinstance(self.layout.sample, Tensor) else ()
            held_none = any(not paths for paths in self.found.states.values())
            self.forgets = held_none and not states and len(list(tensors(result))) > 1
            found = returned(result)
            y = found.outputs | found.beside
            yield {name: y[name].clone() for name in self.outputs}


def _reset(model: nn.Module, found: Trace) -> None:
    """Put the states that a copy of the model holds from earlier use back to where they begin.

    Layers of snnTorch, and others after its example, have ``reset_mem`` for that.
    """
    modules = dict(model.named_modules())
    for module in modules.values():
        if callable(forget := getattr(module, "reset_mem", None)):
            forget()
    for name, paths in found.states.items():
        for path, tensor in held(modules[name]) if name in modules else ():
            if path in paths and not isinstance(tensor, nn.Parameter):
                tensor.zero_()


def _in_time(calls: Sequence[Tensor], shape: Shape, batch: int, axis: int | None) -> Tensor | None:
    """Return what some calls gave as ``(T, B, *shape)``; ``None`` if it cannot be laid out so."""
    parts = []
    for y in calls:
        lead = y.shape[: y.dim() - len(shape)]
        steps, left = divmod(prod(lead), batch)
        if steps > 1 and len(lead) == 2 and batch not in lead:
            return None  # a model of one number of sequences takes others for steps
        if left or tuple(y.shape[len(lead) :]) != shape or not steps:
            return None
        if steps > 1 and len(lead) == 1 and axis == 1:
            y, lead = y.reshape(batch, steps, *shape), torch.Size((batch, steps))
        if steps > 1 and len(lead) > 1 and lead[0] != steps and lead[1] == steps:
            y = y.movedim(1, 0)
        parts.append(y.reshape(steps, batch, *shape))
    return torch.cat(parts)


def _changed(model: nn.Module, copied: nn.Module, batch: Collection[int]) -> str:
    """Return what a copy of a model holds otherwise than the model after a call; empty if nothing.

    States of neurons are for the next step, and begin anew where they are reset: tensors with an
    axis of ``batch`` sequences; without such an axis all that are neither parameters nor saved.
    """
    parts = dict(copied.named_modules())
    for name, before in model.named_modules():
        saved = {*before._parameters, *before._buffers} - before._non_persistent_buffers_set
        old, new = dict(_held(before)), dict(_held(parts.get(name, before)))
        for key, value in new.items():
            state = isinstance(value, Tensor) and key.split(".")[0] not in saved and not batch
            state |= isinstance(value, Tensor) and any(n in value.shape[:2] for n in batch)
            if not state and not (key in old and _is_same(old[key], value)):
                return f"{name}.{key}" if name else key
    return ""


def _held(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the tensors, single values and generators of random numbers of a module by name."""
    for name, value in {**vars(module), **module._buffers, **module._parameters}.items():
        if name in OF_MODULES:
            continue
        if isinstance(value, np.random.Generator):
            yield name, value.bit_generator.state
        elif isinstance(value, random.Random):
            yield name, value.getstate()
        elif isinstance(value, (bool, int, float, str, type(None))):
            yield name, value
        else:
            tensors = everything(value)
            yield from ((f"{name}.{n}" if n else name, x) for n, x in enumerate(tensors))


def _is_same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b) or (a.shape == b.shape and bool(((a == b) | a.isnan()).all()))
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b)
