"""Tensors followed from module to module while a model runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snu_plugin.graph.tracing.advice import RANDOM
from snu_plugin.graph.tracing.gates import (
    Masked,
    combined,
    fills_in,
    held,
    keep_reset,
    masked,
    resetting,
    shift_where,
    shifted,
    shifted_where,
)
from snu_plugin.graph.tracing.layer_state import LayerState, StepError, everything
from snu_plugin.graph.tracing.moves import Moves
from snu_plugin.graph.tracing.receiver import Applied, Receiver, added
from snu_plugin.graph.tracing.step_shapes import LayerRules, StepShapes
from snu_plugin.graph.tracing.sums import Mixtures, apart, as_one_tensor, in_one_shape, kept_sums
from snu_plugin.graph.tracing.torch_functions import reduction, reduction_of_parts, written_out
from snu_plugin.graph.tracing.traced_tensor import (
    CASTS,
    DIFFERENCES,
    JOINS,
    REPEATS,
    STACKS,
    SUMS,
    Source,
    TracedTensor,
    matching,
    propagate,
    share_memory,
    tensors,
)
from snu_plugin.graph.tracing.traced_values import TracedValues, is_silence, silence
from snu_plugin.graph.tracing.wiring import Wiring

SHAPES_ALONE = frozenset(
    {"zeros_like", "new_zeros", "ones_like", "new_ones", "full_like", "new_full"}
)
"""Functions of a tensor whose result hangs on its shape alone."""

PRODUCTS = frozenset({"linear", "conv1d", "conv2d", "matmul", "mm", "__matmul__"})
"""Functions that may make something of zeros that stand for feedback, by a bias."""

Done = tuple[Any]
"""What a function gave, of which all is kept."""


class Watch(TorchFunctionMode):
    """Follows tensors from module to module."""

    def __init__(self, rules: LayerRules) -> None:
        super().__init__()
        self.carried: dict[str, LayerState] = {}
        """The layers, by name."""
        self.values, self.wiring = TracedValues(), Wiring(self.carried)
        self.mixtures = Mixtures()
        self.shapes = StepShapes(self.wiring, rules)
        self.receiver = Receiver(self.values, self.wiring, self.shapes)
        self.moves = Moves(self.receiver)
        self.running = ""
        """Name of the call of the module that is at work."""
        self.ones: dict[int, Tensor] = {}
        """Ones taken out of a tensor of ones, by id."""
        self.masked: dict[int, Masked] = {}
        """What potentials are where spikes are, by id."""
        self.turned: list[Tensor] = []
        """Inputs of the model with their time last."""
        self.inside: list[int] = []
        self.took = 0
        self.counts: Counter[str] = Counter()
        """How often each layer was called."""

    def begin(self, inputs: Mapping[str, Tensor], run: int, fresh: bool) -> None:
        """Begin a call of the model; of one that is a single step, the step ``run``.

        A ``fresh`` one may begin a sequence anew.
        """
        self.took = next(iter(inputs.values())).numel()
        self.counts.clear()
        self.wiring.begin(run)
        self.values.begin(inputs, run)
        for carried in self.carried.values():
            carried.begins = fresh

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", str(func))
        if name == "__getitem__" and (slot := self.values.taken(*args)) is not None:
            result = func(*args)
            self.values.keep(replace(slot, tensor=result, origin=None))
            return result
        if self.inside:
            return func(*args, **kwargs)
        used = args[:1] if name in CASTS else (*args, *kwargs.values())
        written_into = name == "__setitem__" and id(args[0]) in self.values.slots
        used = args[1:] if written_into else used
        known = [v for t in tensors(used) if (v := self.values.get(t))]
        if not known and name in PRODUCTS and isinstance(args[0], Tensor):
            known = [silence(args[0])] if is_silence(args[0]) else []
        if not known:
            result = func(*args, **kwargs)
            if name in RANDOM and isinstance(result, Tensor):
                problem = f"random numbers of {name.strip('_')}()"  # no graph gives what is of them
                shape, run = tuple(result.shape), self.wiring.run
                self.values.keep(TracedTensor(result, (), shape, None, run, problem=problem))
            return result
        f = Applied(func, name, tuple(args), kwargs, known)
        if name in SHAPES_ALONE:
            return f()
        if (same := self._as_it_is(f)) is not None:
            return same
        if name in JOINS and args:
            for x in tensors(args[0]):
                self.receiver.take_features(x, f.axis() % x.dim())
            sides = [v for t in tensors(args[0]) if (v := self.values.known_or_silence(t))]
            f = f._replace(known=sides)
        if name in ("mean", "sum") and len(known) == 1:
            reduced = self._reduced(f, f())
            if reduced is not None:
                return reduced
            f = f._replace(name=f"{name}_of_features") if _of_features(f) else f
        done = self._as_call(f) or self._as_reset(f)
        if done is None:
            given, f = f.known, self._kept(f)
            done = self._as_spikes(f) or self._passed_on(f, used, given)
        return done[0]

    def _as_it_is(self, f: Applied) -> Tensor | None:
        """Return what a function gives that changes no value, or is written in others."""
        value = f.known[0]
        if f.name == "movedim" and f.args[1:] == (0, -1) and value.sources[0].name is None:
            result: Tensor = f()
            self.values.known[id(result)] = value  # views of it are views of what it is of
            self.turned.append(result)
            return result
        if len(f.known) == 1 and _adds_nothing(f):  # zeros may stand for feedback
            result = f()
            if result.shape == value.tensor.shape:
                self.values.keep(replace(value, tensor=result, summed=True))
            else:
                self.values.keep(propagate("add", [value], True, result, (), {}))
            return result
        if (written := written_out(f.name, f.kwargs)) is not None:
            with self:
                whole = self.values.get(written(*f.args, **f.kwargs))
            result = f()
            if whole is not None:
                self.values.keep(replace(whole, tensor=result, origin=None))
            return result
        return None

    def _as_call(self, f: Applied) -> Done | None:
        """Keep what a function gives that is a layer."""
        if call := held(self.receiver, f):
            result = f()
            self.receiver.keep_output(call, result)
            return (result,)
        if len(f.known) == 1 and (call := self.receiver.function(f)):
            result = f()
            self.receiver.keep_result(call, result)
            return (result,)
        return None

    def _as_reset(self, f: Applied) -> Done | None:
        """Keep what a function leaves of a potential where spikes are."""
        if (found := resetting(self.receiver, f)) is not None:
            before = found.potential.tensor.clone()
            result = f()
            changed = f.args[0] if result is None else result
            if not keep_reset(self.receiver, found, changed, before):
                self.values.keep(f.gives(changed))
            return (result,)
        if (parts := shifted_where(self.receiver, f)) is not None:
            result = f()
            self.values.keep(added(parts, result))
            return (result,)
        part = self.masked.get(id(f.args[2])) if f.name == "__setitem__" else None
        if part is not None and part.is_put_back(f):
            before = f.args[0].clone()
            f()
            if not shift_where(self.receiver, part, before):
                self.values.keep(f.gives(f.args[0]))
            return (None,)
        return None

    def _as_spikes(self, f: Applied) -> Done | None:
        """Keep what a function makes of spikes, or of what is added and taken away again."""
        if fills_in(f):
            f()
            self.values.keep(replace(f.known[0], tensor=f.args[0]))
            return (None,)
        if terms := combined(self.receiver, f):
            result = f()
            self.values.keep(replace(added(terms, result), tensor=result, origin=result))
            return (result,)
        two = f.name in SUMS | DIFFERENCES and len(f.known) == len(f.args) == 2 and not f.kwargs
        if two and any(value.problem for value in f.known):
            result = f()
            value = self.mixtures.sum(f, result)
            self.values.keep(f.gives(result) if value is None else value)
            return (result,)
        return None

    def _kept(self, f: Applied) -> Applied:
        """Return a function of sums as calls gave them that keep them, where it stacks steps."""
        known = kept_sums(self.receiver, f.known, every=True) if f.name in STACKS else f.known
        masks = [value for value in known if f.name == "__setitem__" and value.tensor is f.args[1]]
        if masks and id(f.args[2]) in self.ones:
            return f._replace(args=(*f.args[:2], 1), known=masks)
        return f._replace(known=known)

    def _meeting(self, f: Applied, used: Sequence[Any]) -> Applied:
        """Return a sum or difference as a sum of what can meet: of one step and one shape."""
        known = list(f.known)
        if f.name in SUMS:
            lead = next((value.lead for value in known if value.lead is not None), None)
            known = [as_one_tensor(self.receiver, value, lead) for value in known]
        if f.name in DIFFERENCES and len(known) == len(used) == 2:
            f, known[1] = f._replace(name="add"), self.receiver.negative(known[1])
        if f.name in SUMS:
            now = max((value.step for value in known if not value.start), default=0)
            known = [
                self.receiver.aged(value, now) if value.step < now - 1 else value for value in known
            ]
            known = in_one_shape(self.receiver, kept_sums(self.receiver, known))
            known = apart(self.receiver, known)
        return f._replace(known=known)

    def _passed_on(self, f: Applied, used: Sequence[Any], given: Sequence[TracedTensor]) -> Done:
        """Keep what any other function makes of values, as far as it is known.

        Args:
            f: The function; what is known may have been replaced by what calls gave.
            used: All that it is applied to.
            given: What was known of that.
        """
        several = len(list(tensors(used))) > len(f.known)
        f = self._meeting(f, used)
        result = f()
        if f.name in REPEATS and 0 in result.stride():
            result = result.contiguous()  # so that each step has a place of its own
        if f.name == "__setitem__" and len(f.known) == 1 and f.args[2] is given[0].tensor:
            self.values.written(f.args[0], f.args[1], f.known[0])
        if f.name == "stack" and several and (done := self._late_stack(f, result)):
            self.values.keep(done)
            return (result,)
        if f.name == "__getitem__" and bool((f.args[0] == 1).all()):
            self.ones[id(result)] = result
        part = masked(f, result)
        if len(f.known) == 1 and f.name in SUMS | DIFFERENCES:
            of = self.masked.get(id(f.args[0]))
            part = part if of is None or of.tensor is not f.args[0] else shifted(f, of, result)
        if part is not None:
            self.masked[id(result)] = part
        for tensor in tensors(result):
            old = self.values.known.get(id(tensor))
            if old is None or old.version != tensor._version:
                value = f.gives(tensor, several)
                turned = any(f.args[0] is x for x in self.turned)
                if turned and not share_memory(tensor, f.known[0].tensor):
                    value = replace(value, problem=f"{f.name}() of the model's input, time last")
                self.values.keep(value)
                if value.problem:
                    self.mixtures.note(f, value)
        if len(f.known) == 1:
            self.moves.follow(f, result)
        return (result,)

    def _late_stack(self, f: Applied, y: Tensor) -> TracedTensor | None:
        """Return steps of which the first are zeros that nothing made, else ``None``."""
        given = list(tensors(f.args[0] if f.args else f.kwargs["tensors"]))
        silent, axis = len(given) - len(f.known), f.axis()
        alone = all(is_silence(x) and self.values.get(x) is None for x in given[:silent])
        if not alone or axis not in (0, 1) or any(value.problem for value in f.known):
            return None
        return self.receiver.late_stack(f.known, silent, y, axis)

    def _reduced(self, f: Applied, y: Tensor) -> Tensor | None:
        """Keep a mean or sum over features or space as the call of a layer, if it is one."""
        (x,), name, axes = f.known, f.name, f.axis(None)
        lead, size = x.lead, x.tensor.dim()
        if axes is None or lead is None or x.problem or x.late or x.start or x.parts:
            return None
        places = [axis % size for axis in ([axes] if isinstance(axes, int) else axes)]
        shape = tuple(x.tensor.shape)
        if x.whole != shape:
            return self._reduced_parts(name, y, x, places)
        if min(places) < lead or x.whole != shape or (y.dim() < size and size - lead == 1):
            return None
        layer = reduction(name, shape[lead:], [place - lead for place in places])
        if layer is None:
            return None
        kept = [1 if axis in places else n for axis, n in enumerate(shape)]
        value = self.receiver.keep_output(
            self.receiver.receive(f"{name}()", layer, x.tensor, False), y.reshape(kept)
        )
        self.values.keep(replace(value, tensor=y, origin=y))
        return y

    def _reduced_parts(
        self, name: str, y: Tensor, x: TracedTensor, places: Sequence[int]
    ) -> Tensor | None:
        """Keep a mean or sum over groups of features, of which a reshape made an axis."""
        lead, shape = x.lead, tuple(x.tensor.shape)
        if lead is None or len(x.whole) != lead + 1 or len(places) != 1:
            return None
        ahead = matching(shape, prod(x.whole[:lead]), (), lead)
        if ahead is None or len(shape) - ahead != 2 or places[0] < ahead or y.dim() != ahead + 1:
            return None
        layer = reduction_of_parts(name, x.whole[lead], shape[ahead:], places[0] - ahead)
        if layer is None:
            return None
        before = x.tensor.reshape(x.whole)
        self.values.keep(replace(x, tensor=before))
        call = self.receiver.receive(f"{name}()", layer, before, False)
        flat = y.reshape(*x.whole[:lead], y.shape[-1])
        value = self.receiver.keep_output(call, flat)
        self.values.keep(replace(value, tensor=y, whole=tuple(flat.shape)))
        return y

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Take up what a layer receives; what it does inside is its own until it is left."""
        self.inside.append(id(module))
        if len(self.inside) > 1:
            return
        with torch._C.DisableTorchFunction():  # nothing in here is the model's
            self.counts[name] += 1
            carried, known = self.carried[name], self.values.known
            values = carried.arguments(args, kwargs)
            x = next(tensors(values[:1]), None)
            if x is None:
                raise ValueError(f"{name or 'the model'} is called without a tensor")
            given = everything(values)[1:]
            begins = is_silence(x) if id(x) not in known else known[id(x)].start
            if not carried.stateful and begins:
                self.running = self.receiver.begin_feedback(name, module)
                return
            self.running = self.receiver.receive(name, module, x, carried.stateful)
            first = everything(self.shapes.rules.start(module, x)) if given else []
            step = self.wiring.last[self.running].step
            carried.enter(given, first, self.values.origin, step)

    def leave(self, name: str, module: nn.Module, args: Any, result: Any) -> None:
        """Keep what a layer gives, and its states."""
        if len(self.inside) == 1:
            with torch._C.DisableTorchFunction():
                if self.receiver.beginning:
                    self.receiver.keep_result(self.running, next(tensors(result)))
                else:
                    self._give(self.running, self.carried[name], result)
        self.inside.pop()

    def _give(self, name: str, carried: LayerState, result: Any) -> None:
        last, begins = self.wiring.last[name], carried.begins
        carried.leave(everything(result))
        if begins and carried.stateful and last.step != self.wiring.run:
            raise StepError(
                f"{name!r} is called in step {last.step + 1} first; a neuron of NIR runs from the "
                "first step on: call it in every step, or cut what the model gets, not what it uses"
            )
        first = self.receiver.keep_output(name, result, carried.stateful)
        states = carried.named_states(result)
        held = [k.tensor for k in carried.states.values() if id(k.tensor) not in self.values.known]
        for tensor in (*everything(result), *held):
            if tensor is first.tensor:
                continue
            state = states.get(id(tensor), "")
            value = replace(first, tensor=tensor, whole=tuple(tensor.shape), origin=tensor)
            if state and tensor.shape == first.tensor.shape:
                value = replace(value, sources=(Source(name, state),))
            else:
                of_which = f"a state of {name!r} (only what is like its first output leaves)"
                value = replace(value, problem=of_which)
            self.values.keep(value)


def _of_features(f: Applied) -> bool:
    """Tell whether a mean or sum leaves batch and time alone, as far as that is known."""
    (x,), axes = f.known, f.axis(None)
    if axes is None or x.lead is None or x.tensor.shape[: x.lead] != x.whole[: x.lead]:
        return False
    size = x.tensor.dim()
    return all(axis % size >= x.lead for axis in ([axes] if isinstance(axes, int) else axes))


def _adds_nothing(f: Applied) -> bool:
    """Tell whether a function adds zeros to a value that nothing made from the model's input."""
    (value,), difference = f.known, f.name in DIFFERENCES
    if f.kwargs or len(f.args) != 2 or not (f.name in SUMS or difference):
        return False
    if difference and not f.first_is(value):
        return False
    other = f.other()
    if isinstance(other, Tensor):
        return other is not value.tensor and is_silence(other)
    return isinstance(other, (int, float)) and not other
