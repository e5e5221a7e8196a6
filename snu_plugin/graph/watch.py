"""Tensors followed from module to module while a model runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from math import prod
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snu_plugin.graph.calling import Returned, returned
from snu_plugin.graph.feedback import (
    DIFFERENCES,
    PRODUCTS,
    ZEROS,
    Pattern,
    adds_nothing,
    bias_with_signal,
    is_silence,
    pattern,
    silence,
)
from snu_plugin.graph.layer_state import (
    LayerState,
    Path,
    StepError,
    arguments,
    everything,
)
from snu_plugin.graph.torch_functions import (
    as_layer,
    is_same_layer,
    reduction,
    selection,
    spread,
    taken,
)
from snu_plugin.graph.traced_tensor import (
    JOINS,
    SUMS,
    Shape,
    Source,
    TracedTensor,
    fresh,
    late,
    matching,
    named,
    propagate,
    same,
    stack,
    tensors,
)

BatchAxes = Callable[[nn.Module, Tensor], int | None]

SplitInput = Callable[[nn.Module, Sequence[int]], Sequence[nn.Module]]

Start = Callable[[nn.Module, Tensor], Any]

SUMS_OVER_TIME = ("sum()", "mean()", "max()", "count_nonzero()", "cumsum()")


class Call(NamedTuple):
    """One module, a part of it, or a function as a layer, at work in the first step."""

    name: str
    """The module's; numbered if a module without a state works in several places."""
    module: nn.Module
    sources: tuple[Source, ...]
    """What it receives, summed."""
    source_shape: Shape
    """Shape that each source gives in a step."""
    shape: Shape
    """Shape that it receives in a step: ``source_shape``, or a reshape of it."""
    out: Shape
    """Shape of its output in a step."""


class Trace(NamedTuple):
    """The wiring of a model; all shapes are of one step, without batch and time."""

    calls: list[Call]
    """In the order in which they ran."""
    input_shapes: dict[str, Shape]
    """By the name of the input; the only one is ``input``."""
    outputs: list[Call]
    """What the model returns, each as if a module of that name received it."""
    required: int
    """How many of them must leave, the first ones."""
    left_out: dict[str, str]
    """Why what it returns beside its first output does not leave, where it does not."""
    last: dict[str, int]
    """Step that the first of each of them belongs to."""
    time: int | None
    """Axis of the sample that the model cuts into steps; ``None`` where it cuts none."""
    steps: int
    """How many steps the model makes in one call of what it does not cut into steps itself."""
    states: Mapping[str, Collection[Path]]
    """What each module holds that it changes itself."""
    begun: Collection[str]
    """Modules whose calls are not one in each step: zeros before there is feedback come first, so
    that all are late, or the same is asked for twice."""
    at_first: Mapping[str, Tensor]
    """What calls make of such zeros, where that is something."""
    biased: Collection[str]
    """Those of which that acts in the first step."""


def _pattern(value: TracedTensor, call: Call) -> Pattern:
    return pattern(value, call.sources, call.source_shape, call.shape)


class _Filling(NamedTuple):
    """A tensor into which steps are written, the steps, and its version after the last of them."""

    tensor: Tensor
    steps: tuple[TracedTensor, ...]
    version: int


def _written_place(index: Any) -> tuple[int | None, int]:
    """Return axis and number of the step that an index like ``[t]`` or ``[:, t]`` means."""
    places = index if isinstance(index, tuple) else (index,)
    for axis, place in enumerate(places):
        rest = (p is ... or (isinstance(p, slice) and p == slice(None)) for p in places[axis + 1 :])
        if isinstance(place, int) and all(rest):
            return axis, place
        if not (isinstance(place, slice) and place == slice(None)):
            break
    return None, 0


class Watch(TorchFunctionMode):
    """Follows tensors from module to module; keeps every one alive, so that none is confused."""

    def __init__(self, batch_axes: BatchAxes, split_input: SplitInput, start: Start) -> None:
        super().__init__()
        self.batch_axes, self.split_input, self.start = batch_axes, split_input, start
        self.values: dict[int, TracedTensor] = {}
        self.calls: dict[str, list[Call]] = {}
        self.received: dict[str, Pattern] = {}
        """What each of them receives."""
        self.steps_of: dict[str, tuple[int, int]] = {}
        """First and latest step of each of them."""
        self.begun: set[str] = set()
        self.at_first: dict[str, Tensor] = {}
        """What calls make of zeros that stand for feedback."""
        self.biased: set[str] = set()
        self.places: dict[str, list[tuple[str, nn.Module]]] = {}
        """By what a module or function is called: its calls, and what computes each."""
        self.unsettled: set[str] = set()
        """Calls of which is not known yet what axes are batch and time."""
        self.filled: dict[int, _Filling] = {}
        self.running = ""
        """Name of the call of the module that is at work."""
        self.carried: dict[str, LayerState] = {}
        self.last: dict[str, TracedTensor] = {}
        self.inside: list[int] = []
        self.input_shapes: dict[str, Shape] = {}
        self.run, self.loops, self.took = 0, False, 0
        self.time: int | None = None
        self.beginning = False
        """Whether the call at work receives what stands for feedback before there is any."""
        self.counts: Counter[str] = Counter()
        self.turns: Counter[str] = Counter()
        """How often each was asked again for what is the same in every step."""
        self.ended: dict[str, int] = {}

    def begin(self, inputs: Mapping[str, Tensor], run: int) -> None:
        """Begin a call of the model; of one that is a single step, the step ``run``."""
        self.run, self.took = run, next(iter(inputs.values())).numel()
        self.last.clear()
        self.counts.clear()
        self.turns.clear()
        for carried in self.carried.values():
            carried.begins = True
        for value in list(self.values.values()):
            self.keep(replace(value, static=False))
        for name, x in inputs.items():
            source = Source(None, name if len(inputs) > 1 else "")
            self.keep(TracedTensor(x, (source,), tuple(x.shape), None, run, static=True))

    def keep(self, value: TracedTensor) -> None:
        self.values[id(value.tensor)] = value

    def origin(self, tensor: Tensor) -> Tensor | None:
        value = self.values.get(id(tensor))
        if value is None:
            return None
        origin = fresh(value).origin
        return tensor if origin is None else origin

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        known: list[TracedTensor] = []
        if not self.inside:
            used = (*args, *kwargs.values())
            known = [fresh(v) for t in tensors(used) if (v := self.values.get(id(t)))]
        name = getattr(func, "__name__", str(func))
        if not known and not self.inside and name in PRODUCTS and isinstance(args[0], Tensor):
            known = [silence(args[0])] if is_silence(args[0]) else []
        if not known:
            return func(*args, **kwargs)
        if name in ZEROS:
            return func(*args, **kwargs)
        if len(known) == 1 and adds_nothing(name, args, kwargs, known[0]):
            return self._as_it_was(known[0], func(*args, **kwargs))
        if name in JOINS and args:
            for x in tensors(args[0]):
                self._take_features(x, kwargs.get("dim", args[1] if len(args) > 1 else 0) % x.dim())
            known = [v for t in tensors(args[0]) if (v := self._known_or_silence(t))]
        if name in ("mean", "sum") and len(known) == 1:
            reduced = self._reduced(name, func(*args, **kwargs), args, kwargs, known[0])
            if reduced is not None:
                return reduced
        if len(known) == 1 and (call := self._function(name, args, kwargs, known[0])):
            result = func(*args, **kwargs)
            self._keep_result(call, result)
            return result
        several = len(list(tensors(used))) > len(known)
        if name in SUMS:
            lead = next((value.lead for value in known if value.lead is not None), None)
            known = [self._whole(value, lead) for value in known]
        if name in DIFFERENCES and len(known) == len(used) == 2:
            name, known[1] = "add", self._negative(known[1])
        if name in SUMS:
            known = self._alike(known)
        result = func(*args, **kwargs)
        if name == "__setitem__" and len(known) == 1 and args[2] is known[0].tensor:
            self._written(args[0], args[1], known[0])
        for tensor in tensors(result):
            if self._is_new(tensor):
                self.keep(propagate(name, known, several, tensor, args, kwargs))
        return result

    def _reduced(
        self, name: str, y: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any], x: TracedTensor
    ) -> Tensor | None:
        """Keep a mean or sum over features or space as the call of a layer, if it is one."""
        axes = kwargs.get("dim", args[1] if len(args) > 1 else None)
        lead, size = x.lead, x.tensor.dim()
        if axes is None or lead is None or x.problem or x.late or x.start or x.parts:
            return None
        places = [axis % size for axis in ([axes] if isinstance(axes, int) else axes)]
        shape = tuple(x.tensor.shape)
        if min(places) < lead or x.whole != shape or (y.dim() < size and size - lead == 1):
            return None
        layer = reduction(name, shape[lead:], [place - lead for place in places])
        if layer is None:
            return None
        kept = [1 if axis in places else n for axis, n in enumerate(shape)]
        value = self._keep_output(
            self._receive(f"{name}()", layer, x.tensor, False), y.reshape(kept)
        )
        self.keep(replace(value, tensor=y, origin=y))
        return y

    def _as_it_was(self, value: TracedTensor, result: Tensor) -> Tensor:
        """Keep what came of a value by adding zeros to it: where they stand for feedback."""
        if result.shape == value.tensor.shape:
            self.keep(replace(value, tensor=result))
        else:
            self.keep(propagate("add", [value], True, result, (), {}))
        return result

    def _known_or_silence(self, x: Tensor) -> TracedTensor | None:
        value = self.values.get(id(x))
        if value is not None:
            return fresh(value)
        return silence(x) if is_silence(x) else None

    def _whole(self, value: TracedTensor, lead: int | None) -> TracedTensor:
        """Return tensors side by side as one, if it is known along what; a sum takes no others."""
        if not value.parts or lead is None or value.problem or value.late:
            return value
        try:
            return self._placed("a sum", value, value.whole[lead:])
        except ValueError:
            return value

    def _alike(self, known: list[TracedTensor]) -> list[TracedTensor]:
        """Return what meets in a sum in one shape: what was reshaped, cut or is spread by calls."""
        axes = {v.tensor.dim() - v.lead for v in known if v.lead is not None and not v.problem}
        if len(axes) == 1 and len({value.tensor.dim() for value in known}) == 1:
            shape = tuple(map(max, *(value.tensor.shape for value in known[:1] * 2 + known[1:])))
            known = [self._as_wide(value, shape, len(shape) - min(axes)) for value in known]
        wholes = {value.whole for value in known}
        if len(wholes) < 2 or any(v.problem or v.late or v.start or v.parts for v in known):
            return known
        leads = (
            matching(tuple(v.tensor.shape), prod(v.whole[: v.lead]), v.whole[v.lead :], v.lead)
            for v in known
            if v.lead is not None
        )
        lead = next((n for n in leads if n is not None), None)
        try:
            return known if lead is None else [self._flattened(value, lead) for value in known]
        except ValueError:
            return known

    def _as_wide(self, value: TracedTensor, shape: Shape, lead: int) -> TracedTensor:
        """Return a part of features as such, and one feature as often as a sum has features."""
        x = value.tensor
        if value.cut is not None:
            self._take_features(x, lead)
            value = fresh(self.values[id(x)])
        if value.problem or value.late or value.start or value.parts or len(shape) - lead != 1:
            return value
        if x.shape[-1] == shape[-1] or x.shape[-1] != 1:
            return value
        name = self._receive("spread()", spread(shape[-1]), x, False)
        return self._keep_output(name, x.expand(*x.shape[:-1], shape[-1]))

    def _flattened(self, value: TracedTensor, lead: int) -> TracedTensor:
        shape = tuple(value.tensor.shape)
        lead, given = self._split("a sum", value, value.tensor, lead)
        if given == shape[lead:]:
            return replace(value, whole=shape, lead=lead, least=0)
        layer = nn.Flatten()
        call = Call("flatten", layer, value.sources, given, shape[lead:], shape[lead:])
        name = self._place("flatten()", layer, value, call, False)
        self._agree(name, value, call, value.step)
        self.last[name] = value
        sources = (Source(name),)
        return replace(value, sources=sources, whole=shape, lead=lead, least=0, origin=None)

    def _negative(self, value: TracedTensor) -> TracedTensor:
        """Return what is known of a tensor times -1; it counts as a function that was called."""
        y = -value.tensor
        call = self._function("neg", (value.tensor,), {}, value)
        if call:
            return self._keep_result(call, y)
        return propagate("neg", [value], False, y, (value.tensor,), {})

    def _function(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], signal: TracedTensor
    ) -> str:
        """Return the name of the call that a function is, if it is a layer; else an empty one."""
        if signal.problem or signal.late:
            return ""
        layer, path = as_layer(name, args, kwargs, signal.tensor), f"{name.strip('_')}()"
        if layer is None:
            return ""
        if signal.start:
            return self._begin(path, layer)
        try:
            if signal.lead is None and self.batch_axes(layer, signal.tensor) is None:
                return "" if signal.parts else self._receive_as_it_is(path, layer, signal)
            return self._receive(path, layer, signal.tensor, False)
        except ValueError:
            return ""  # What receives it says what is wrong, if anything does.

    def _receive_as_it_is(self, path: str, layer: nn.Module, value: TracedTensor) -> str:
        """Take up what an element-wise function receives, before its axes are known."""
        call = Call(path, layer, value.sources, (), (), ())
        name = self._place(path, layer, value, call, False)
        if name not in self.received:
            self.unsettled.add(name)
        step = self._step(name, value, False)
        self._agree(name, value, call, step)
        self.last[name] = replace(value, step=step)
        return name

    def _written(self, target: Tensor, index: Any, value: TracedTensor) -> None:
        """Note a step that is written into a tensor made for all steps, one after the other.

        A tensor that is changed in between, or written to in another way, is no sequence of steps.
        """
        filling = self.filled.get(id(target), _Filling(target, (), target._version - 1))
        steps: tuple[TracedTensor, ...] = ()
        axis, place = _written_place(index)
        next_one = filling.version == target._version - 1 and place == len(filling.steps)
        if axis is not None and next_one and not value.problem:
            whole = value.tensor.shape == target.select(axis, place).shape
            steps = (*filling.steps, value) if whole else ()
        self.filled[id(target)] = _Filling(target, steps, target._version if steps else -1)
        done = stack(steps, target, axis) if axis is not None and steps else None
        if value.problem:
            self.keep(replace(value, tensor=target, origin=None))
        elif done is not None and len(steps) == target.shape[axis or 0]:
            self.keep(done)

    def _is_new(self, tensor: Tensor) -> bool:
        known = self.values.get(id(tensor))
        return known is None or known.version != tensor._version

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.inside.append(id(module))
        if len(self.inside) > 1:
            return
        self.counts[name] += 1
        values = arguments(module, args, kwargs)
        x = next(tensors(values[:1]), None)
        if x is None:
            raise ValueError(f"{name or 'the model'} is called without a tensor")
        carried, given = self.carried[name], everything(values)[1:]
        if not carried.stateful and self._begins_way_back(x):
            self.running = self._begin(name, module)
            return
        self.running = self._receive(name, module, x, carried.stateful)
        begins_with = everything(self.start(module, x)) if given else []
        carried.enter(given, begins_with, self.origin, self.last[self.running].step)

    def leave(self, name: str, module: nn.Module, args: Any, result: Any) -> None:
        if len(self.inside) == 1 and self.beginning:
            self._keep_result(self.running, next(tensors(result)))
        elif len(self.inside) == 1:
            self._give(self.running, self.carried[name], result)
        self.inside.pop()

    def _begins_way_back(self, x: Tensor) -> bool:
        """Tell whether a layer receives what stands for feedback before there is any."""
        value = self.values.get(id(x))
        return is_silence(x) if value is None else value.start

    def _begin(self, path: str, module: nn.Module) -> str:
        """Return the name of a call that receives what stands for feedback before there is any."""
        places = self.places.setdefault(path, [])
        found = (name for name, layer in places if is_same_layer(layer, module))
        name = next(found, None) or self._new_place(path, module)
        self.begun.add(name)
        self.beginning = True
        return name

    def _keep_result(self, name: str, y: Tensor) -> TracedTensor:
        """Keep what a call gives; of zeros that stand for feedback, if it makes something."""
        if not self.beginning:
            return self._keep_output(name, y)
        self.beginning = False
        value = TracedTensor(y, (Source(name),), tuple(y.shape), None, self.run, start=True)
        if bool(y.any()):
            self.at_first[name] = y
            self.keep(value)
        return value

    def _give(self, name: str, carried: LayerState, result: Any) -> None:
        last, begins = self.last[name], carried.begins
        carried.leave(everything(result))
        if begins and carried.stateful and last.step != self.run:
            raise StepError(
                f"{name!r} is called in step {last.step + 1} first; a neuron of NIR runs from the "
                "first step on: call it in every step, or cut what the model gets, not what it uses"
            )
        first = self._keep_output(name, result, carried.stateful)
        states = carried.named_states(result)
        held = [k.tensor for k in carried.states.values() if id(k.tensor) not in self.values]
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
            self.keep(value)

    def _keep_output(self, name: str, result: Any, stateful: bool = False) -> TracedTensor:
        """Keep what a call gives first; it is all that a function gives."""
        first, last = next(tensors(result)), self.last[name]
        if name not in self.unsettled:
            out = tuple(first.shape[last.lead :])
            self.calls[name] = [call._replace(out=out) for call in self.calls[name]]
        value = TracedTensor(
            first,
            tuple(Source(call.name) for call in self.calls[name]),
            tuple(first.shape),
            last.lead,
            last.step,
            least=last.least if last.lead is None else 0,
            static=last.static and not stateful,
            turn=last.turn + self.turns[name] if last.static and not stateful else 0,
            origin=first,
        )
        self.keep(value)
        return value

    def _receive(self, path: str, module: nn.Module, x: Tensor, stateful: bool) -> str:
        """Take up what a module or function at ``path`` receives; returns the name of the call."""
        self._take_features(x, self.batch_axes(module, x))
        value = self._in_turn(path, self._look_up(repr(path), x, stateful))
        lead, given = self._split(repr(path), value, x, self.batch_axes(module, x))
        shape = tuple(x.shape[lead:])
        parts = self._parts(module, value, given, shape)
        if value.parts and not parts:
            value = self._placed(repr(path), value, given)
        whole = Call(path, module, value.sources, given, shape, ())
        name = self._place(path, module, value, whole, stateful)
        step = self._step(name, value, stateful)
        self._agree(name, value, whole, step, parts)
        self.last[name] = replace(value, tensor=x, lead=lead, step=step)
        return name

    def _agree(
        self,
        name: str,
        value: TracedTensor,
        call: Call,
        step: int,
        parts: Sequence[nn.Module] = (),
    ) -> None:
        """Take up what a call receives; in later steps it must be that.

        What is late comes in with the second step: the first may do without.
        """
        now, known = _pattern(value, call), self.received.get(name)
        if known is None or self._begins_feedback(name, now):
            call = call._replace(name=name)
            self.calls[name] = self._divided(call, value, parts) if parts else [call]
            self.received[name] = now
            if known is None:
                self.biased |= {str(source.name) for source in value.sources if source.late}
        elif not now.same(known) and not self._lacks_feedback(name, now):
            raise StepError(
                f"{name!r} receives {now.told} in step {step + 1} and {known.told} in its first; "
                "NIR's graph is the same in every step: let it receive the same in each, and for "
                "feedback what the step before gave in each but the first"
            )
        first, _ = self.steps_of.get(name, (step, step))
        self.steps_of[name] = first, step

    def _begins_feedback(self, name: str, now: Pattern) -> bool:
        """Tell whether a call, in its second step, receives what it did, and feedback beside it."""
        known, (first, latest) = self.received[name], self.steps_of[name]
        alike = now.feeds_back() and not known.feeds_back() and now.at_first().same(known)
        return alike and first == latest

    def _lacks_feedback(self, name: str, now: Pattern) -> bool:
        """Tell whether a call, in the first step of a sequence, lacks only feedback."""
        begins = name not in self.last and (self.loops or not self.run)
        return begins and now.same(self.received[name].at_first())

    def _place(
        self, path: str, module: nn.Module, value: TracedTensor, call: Call, stateful: bool
    ) -> str:
        """Return the name of a call; without a state it is another one for each other input."""
        places = self.places.setdefault(path, [])
        if stateful and places:
            return places[0][0]
        later, now = not places and not stateful and (value.step or self.run), _pattern(value, call)
        for name, layer in chain.from_iterable(self.places.values()) if later else places:
            # A layer that comes in later may be that of an earlier step again, by its values.
            known = self.received.get(name)
            if known is not None and now.same(known) and is_same_layer(layer, module):
                return name
        for name, layer in places:
            new = name not in self.received
            alike = new or self._begins_feedback(name, now) or self._lacks_feedback(name, now)
            if alike and is_same_layer(layer, module):
                return name
        return self._new_place(path, module)

    def _new_place(self, path: str, module: nn.Module) -> str:
        places = self.places[path]
        base = path.removesuffix("()")
        name, count = base, len(places)
        taken = {name for name, _ in chain.from_iterable(self.places.values())}
        while name in taken or (name != path and name in self.carried):
            name, count = f"{base}_{count}", count + 1
        places.append((name, module))
        return name

    def _step(self, name: str, value: TracedTensor, stateful: bool) -> int:
        """Return the step that a call of a module with ``value`` belongs to."""
        before = self.last.get(name)
        if before is None:
            return self.run if stateful and value.static else value.step
        again = same(before, value)
        if again and not stateful:
            self.begun.add(name)
            self.turns[name] += value.static
            return before.step
        self.loops = True
        if value.static and stateful:
            return before.step + 1
        if value.step + value.turn <= before.step + before.turn:
            advice = (
                "a neuron of NIR advances once in a step: call it once"
                if stateful
                else "NIR's graph is the same in every step"
            )
            inputs = "" if again else " with different inputs"
            raise StepError(f"{name!r} is called twice in one step{inputs}; {advice}")
        took = len(before.tensor) if (before.lead or 0) > 1 else 1
        if stateful and value.step - before.step not in (1, took):
            raise StepError(
                f"{name!r} is called in step {before.step + 1} and next in {value.step + 1}; a "
                "neuron of NIR advances in every step: call it in each"
            )
        return value.step

    def _parts(
        self, module: nn.Module, value: TracedTensor, given: Shape, shape: Shape
    ) -> Sequence[nn.Module]:
        """Return a module for each of the tensors side by side that a module takes, if it has."""
        if not value.parts or given != shape or len(given) != -value.axis:
            return ()
        try:
            return self.split_input(module, [p.tensor.shape[value.axis] for p in value.parts])
        except TypeError:
            return ()

    def _divided(
        self, whole: Call, value: TracedTensor, modules: Sequence[nn.Module]
    ) -> list[Call]:
        """Return a call of a module for each of the tensors that lie side by side."""
        calls, name = [], repr(whole.name)
        bias_with_signal(modules, value.parts)
        for i, (module, part) in enumerate(zip(modules, value.parts, strict=True)):
            _, given = self._split(name, part, part.tensor, part.tensor.dim() + value.axis)
            shape = (part.tensor.shape[value.axis], *whole.shape[1:])
            calls.append(Call(f"{whole.name}.{i}", module, part.sources, given, shape, whole.out))
        return calls

    def _placed(self, receiver: str, value: TracedTensor, given: Shape) -> TracedTensor:
        """Return tensors side by side as a sum: each in its place, with zeros beside it."""
        if len(given) != -value.axis or len(given) > 3:
            raise ValueError(
                f"{receiver} receives {named(value.sources)} side by side along an axis of "
                f"{given} that is not the first; this is not supported: put channels or features "
                "side by side"
            )
        whole = Call("cat", nn.Identity(), value.sources, given, given, given)
        name = self._place("cat()", whole.module, value, whole, False)
        widths = [part.tensor.shape[value.axis] for part in value.parts]
        layers = [
            selection(given[0], sum(widths[:i]), width, len(given) - 1)
            for i, width in enumerate(widths)
        ]
        self._agree(name, value, whole, value.step, layers)
        self.last[name] = value
        lead = len(value.whole) - len(given)
        sources = tuple(Source(call.name) for call in self.calls[name])
        return replace(value, sources=sources, lead=lead, parts=())

    def _take_features(self, x: Tensor, lead: int | None) -> None:
        """Know a part of the features as what a layer takes of them, where it is one.

        Whether what was cut is batch, time or features tells who receives it.
        """
        value = self.values.get(id(x))
        if value is None or value.cut is None or value.version != x._version:
            return
        whole, axis, start = value.cut
        lead = lead if whole.lead is None else whole.lead
        shape = tuple(whole.tensor.shape)
        if (
            not lead
            or axis != lead
            or len(shape) - axis > 3
            or whole.problem
            or whole.whole != shape
        ):
            return
        layer = taken(shape[axis], start, x.shape[axis], len(shape) - 1 - axis)
        if whole.lead is None:
            self.keep(replace(whole, lead=lead))
        name = self._receive("take()", layer, whole.tensor, False)
        self._keep_output(name, x)

    def _in_turn(self, path: str, value: TracedTensor) -> TracedTensor:
        """Return a value as the next call of a layer receives it.

        Alone, or beside a current that is the same in every step, only that tells that it is late.
        """
        name = next((name for name, _ in self.places.get(path, ())), None)
        before, known = self.last.get(name or ""), self.received.get(name or "")
        if before is None or known is None or value.step > before.step:
            return value
        alone = known.late and not known.sources
        return late(value, value.step + 1) if value.constant or alone or known.empty() else value

    def _look_up(self, name: str, x: Tensor, stateful: bool = False) -> TracedTensor:
        value = self.values.get(id(x))
        if value is None and stateful and is_silence(x):
            value = silence(x)
        if value is None:
            raise ValueError(
                f"{name} receives a tensor that no module made from the model's input; not yet "
                "supported: a constant is the bias of a layer, or added to what one gives, and "
                "feedback begins with zeros (reset what the model keeps)"
            )
        value = fresh(value)
        if value.problem:
            raise ValueError(
                f"{name} receives {value.problem}; not yet supported: use a module that has a "
                "rule, nn.Linear for what is linear"
            )
        if value.time is not None:
            self.time = value.time
        if value.late:
            raise StepError(
                f"{name} receives {value.late}; only what one step makes, and what the step before "
                "made, can meet in it: more is not yet supported"
            )
        return late(value, self.run) if value.start else value

    def _split(
        self, name: str, value: TracedTensor, x: Tensor, lead: int | None
    ) -> tuple[int, Shape]:
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
        if not value.parts:
            for source in value.sources:
                self._settle(name, source, given)
        return int(lead or 0), given

    def _settle(self, receiver: str, source: Source, given: Shape) -> None:
        """Note which shape the model's input has in a step, and what was made of it as it is."""
        before = self.input_shapes.get(source.state or "input")
        if source.name in self.unsettled:
            before = self.calls[source.name][0].out or None
        elif source.name is not None:
            return
        if before not in (None, given):
            raise ValueError(
                f"{receiver} takes {named((source,))} as {given} in a step, another module took it "
                f"as {before}"
            )
        if source.name is None:
            self.input_shapes[source.state or "input"] = given
            return
        (call,) = self.calls[source.name]
        self.calls[source.name] = [call._replace(source_shape=given, shape=given, out=given)]
        for further in call.sources:
            self._settle(receiver, further, given)

    def finish(self, model: nn.Module, result: Any) -> Trace:
        outputs, left_out = [], {}
        gives = returned(result)
        for name, x in self._leaving(gives):
            try:
                outputs.append(self._output(name, model, x))
            except ValueError as error:
                if name in gives.outputs:
                    raise
                left_out[name] = str(error)
        if not outputs:
            raise ValueError(f"the model returns {type(result).__name__}; it must return a tensor")
        calls = [call for parts in self.calls.values() for call in parts]
        required = len(gives.outputs)
        stateful = {name: carried for name, carried in self.carried.items() if carried.stateful}
        first = next(iter(gives.outputs.values()))
        came_out = first.numel() // max(prod(outputs[0].shape), 1)
        went_in = self.took // max(prod(next(iter(self.input_shapes.values()), ())), 1)
        steps = max(came_out // max(went_in, 1), *(self.counts[name] for name in stateful), 1)
        return Trace(
            calls,
            self.input_shapes,
            outputs,
            required,
            left_out,
            dict(self.ended),
            self.time,
            steps,
            {name: tuple(carried.states) for name, carried in stateful.items()},
            frozenset(self.begun),
            dict(self.at_first),
            frozenset(self.biased),
        )

    def _leaving(self, gives: Returned) -> Iterator[tuple[str, Tensor]]:
        """Yield what leaves of what the model returns, by name.

        Its outputs, and what stands beside them that is no state as a layer gave it: that is for
        the next call.
        """
        yield from gives.outputs.items()
        for name, x in gives.beside.items():
            value = self.values.get(id(x))
            if value is not None:  # else it does not hang on the input
                for_the_next_call = value.origin is not None and value.sources[0].state
                if not for_the_next_call:
                    yield name, x

    def _output(self, name: str, model: nn.Module, x: Tensor) -> Call:
        known = self.values.get(id(x))
        if known is not None and known.problem.startswith(SUMS_OVER_TIME):
            raise ValueError(
                f"the model's output receives {known.problem}; a NIR graph gives what each step "
                "gives: return the steps, torch.stack, and add them up outside"
            )
        value = self._look_up("the model's output", x)
        if value.step < self.run and not value.static:
            raise StepError(
                f"the model returns what {named(value.sources)} gave when it was called before; "
                "return what this call makes"
            )
        if value.lead is None:
            raise ValueError("the model returns its input; it has no module to export")
        lead, given = self._split("the model's output", value, x, None)
        value = self._placed("the model's output", value, given) if value.parts else value
        shape = tuple(x.shape[lead:])
        self.ended[name] = value.step
        return Call(name, model, value.sources, given, shape, shape)
