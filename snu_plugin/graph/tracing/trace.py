"""Which module feeds which, found by running a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snu_plugin.graph.tracing.calling import (
    Sample,
    by_name,
    called_with,
    carried_on,
    detached_copy,
    returned,
    standing_in,
)
from snu_plugin.graph.tracing.inherited import watch_hooks
from snu_plugin.graph.tracing.layer_state import LayerState, Path, StepError
from snu_plugin.graph.tracing.step_shapes import LayerRules
from snu_plugin.graph.tracing.traced_tensor import Shape, named
from snu_plugin.graph.tracing.watch import Watch
from snu_plugin.graph.tracing.wiring import Call
from snu_plugin.random_states import undisturbed

SUMS_OVER_TIME = ("sum()", "mean()", "max()", "count_nonzero()", "cumsum()")

RUNS = 3
"""How often a model is run that calls no layer twice: it may be one step of a loop outside."""


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


def trace(
    model: nn.Module,
    sample: Sample,
    then: Sequence[Sample] | None = None,
    *,
    rules: LayerRules,
) -> Trace:
    """Run a copy of ``model`` on ``sample`` and note which module's output reaches which module.

    Views, reshapes, steps taken out of a sequence, steps stacked into one, sums, and features put
    side by side are followed; functions that are a layer (``torch_functions``) count as one, any
    other between two modules is refused. Every later step, of a loop in the model or of the model
    called again, must do what the first did, which may lack what the step before gives
    (``feedback``), and states must go in as they came out. The model, and the random state of
    torch, stay as they are.

    Args:
        model: Any module.
        sample: What the model takes, each tensor ``(B, ...)`` or ``(T, B, ...)``.
        then: What the next calls get; ``None``: the same again, ``RUNS`` in all, of a model that
            calls no layer twice.
        rules: What is known of its layers.

    Raises:
        ValueError: If the sample does not run, something between two modules is no wiring, or a
            later step does something else than the first.
    """
    given = by_name(sample)
    shapes = " and ".join(str(tuple(x.shape)) for x in given.values())
    if not all(x.numel() for x in given.values()):
        raise ValueError(f"sample has shape {shapes}; it must not be empty")
    copied_from, model = model, detached_copy(model)
    watch = Watch(rules)
    for name, module in model.named_modules():
        module.training = False
        if rules.is_leaf(module):
            watch.carried[name] = LayerState(name, module)
            module.register_forward_pre_hook(partial(watch.enter, name), with_kwargs=True)
            module.register_forward_hook(partial(watch.leave, name), prepend=True)
            watch_hooks(module, name)
    found: Trace | None = None
    states: tuple[Any, ...] = ()
    with standing_in(copied_from, model), undisturbed(*model.parameters(), *given.values()):
        for run, x in enumerate([sample] * RUNS if then is None else [sample, *then]):
            given = by_name(x)
            watch.begin(given, run, fresh=then is None or not run)
            try:
                with torch.no_grad(), watch:
                    result = called_with(model, x, given, states)
            except RuntimeError as error:
                why = " ".join(str(error).split())
                raise ValueError(
                    f"the model does not run on a sample of shape {shapes}: {why}; "
                    "sample is what the model is called with, (B, ...) where it makes one step a "
                    "call and (T, B, ...) where it loops over them"
                ) from error
            ended = _finish(watch, model, result)
            found = ended if found is None else found
            _compare(ended, found)
            if watch.wiring.loops and then is None:
                break
            states = carried_on(model, result) if isinstance(sample, Tensor) else ()
    assert found is not None
    return found._replace(
        calls=ended.calls,
        states=ended.states,
        begun=ended.begun,
        at_first=ended.at_first,
        biased=ended.biased,
    )


def _finish(watch: Watch, model: nn.Module, result: Any) -> Trace:
    """Return what a run showed, whose ``result`` the model returns.

    Raises:
        ValueError: If the model returns what no graph gives.
    """
    outputs, left_out, last = list[Call](), dict[str, str](), dict[str, int]()
    gives = returned(result)
    carried = {id(x) for x in carried_on(model, result) if isinstance(x, Tensor)}
    behind = [
        (name, x)
        for name, x in gives.beside.items()
        if (value := watch.values.known.get(id(x))) is not None  # it hangs on the input
        and id(x) not in carried
        and (value.origin is None or not value.sources[0].state)  # a state is for the next call
    ]
    for name, x in (*gives.outputs.items(), *behind):
        try:
            output, last[name] = _output(watch, name, model, x)
            outputs.append(output)
        except ValueError as error:
            if name in gives.outputs:
                raise
            left_out[name] = str(error)
    if not outputs:
        raise ValueError(f"the model returns {type(result).__name__}; it must return a tensor")
    calls = [call for parts in watch.wiring.calls.values() for call in parts]
    required = len(gives.outputs)
    stateful = {name: carried for name, carried in watch.carried.items() if carried.stateful}
    first = next(iter(gives.outputs.values()))
    came_out = first.numel() // max(prod(outputs[0].shape), 1)
    went_in = watch.took // max(prod(next(iter(watch.shapes.inputs.values()), ())), 1)
    steps = max(came_out // max(went_in, 1), *(watch.counts[name] for name in stateful), 1)
    return Trace(
        calls,
        watch.shapes.inputs,
        outputs,
        required,
        left_out,
        last,
        watch.values.time,
        steps,
        {name: tuple(carried.states) for name, carried in stateful.items()},
        frozenset(watch.wiring.begun),
        dict(watch.receiver.at_first),
        frozenset(watch.wiring.biased),
    )


def _output(watch: Watch, name: str, model: nn.Module, x: Tensor) -> tuple[Call, int]:
    """Return an output as if the model received it, and the step that it belongs to."""
    known = watch.values.known.get(id(x))
    if known is not None and known.problem.startswith(SUMS_OVER_TIME):
        raise ValueError(
            f"the model's output receives {known.problem}; a NIR graph gives what each step "
            "gives: return the steps, torch.stack, and add them up outside"
        )
    value = watch.values.look_up("the model's output", x)
    if value.step < watch.wiring.run and not value.static:
        raise StepError(
            f"the model returns what {named(value.sources)} gave when it was called before; "
            "return what this call makes"
        )
    if value.lead is None and all(source.name is None for source in value.sources):
        raise ValueError("the model returns its input; it has no module to export")
    lead, given = watch.shapes.split("the model's output", value, x, None)
    value = watch.shapes.placed("the model's output", value, given) if value.parts else value
    shape = tuple(x.shape[lead:])
    return Call(name, model, value.sources, given, shape, shape), value.step


def check_fed(found: Trace) -> None:
    """Refuse a model in which a layer receives nothing but constants."""
    made = {None, *(call.name for call in found.calls)}
    for call in found.calls:
        unfed = [source for source in call.sources if source.name not in made]
        if unfed or not call.sources:
            what = repr(unfed[0].name if unfed else call.name)
            raise ValueError(
                f"{what} receives a tensor that no module made from the model's input; not yet "
                "supported: a constant is the bias of a layer, or added to what one gives"
            )


def _compare(now: Trace, before: Trace) -> None:
    """Refuse a model that returns something else when it is called again."""
    for again, first in zip_longest(now.outputs, before.outputs):
        if again is None or first is None or again[2:] != first[2:]:
            gives = [named(call.sources) if call else "nothing" for call in (again, first)]
            raise StepError(
                f"the model returns {gives[0]} when it is called again, {gives[1]} before; "
                "NIR's graph is the same in every step"
            )
