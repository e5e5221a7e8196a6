"""Which module feeds which, found by running a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.graph.tracing.calling import (
    Sample,
    by_name,
    called_with,
    carried_on,
    detached_copy,
    standing_in,
)
from snu_plugin.graph.tracing.inherited import watch_hooks
from snu_plugin.graph.tracing.layer_state import (
    LayerState,
    StepError,
)
from snu_plugin.graph.tracing.leaving import finish
from snu_plugin.graph.tracing.traced_calls import BatchAxes, SplitInput, Start, Trace
from snu_plugin.graph.tracing.traced_tensor import (
    named,
)
from snu_plugin.graph.tracing.watch import Watch
from snu_plugin.random_states import undisturbed

RUNS = 3
"""How often a model is run that calls no layer twice: it may be one step of a loop outside."""


def trace(
    model: nn.Module,
    sample: Sample,
    *,
    is_leaf: Callable[[nn.Module], bool],
    batch_axes: BatchAxes,
    split_input: SplitInput,
    start: Start,
    then: Sequence[Sample] | None = None,
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
        is_leaf: Whether a module is one node, whatever it holds inside.
        batch_axes: How many axes of a module's input are batch and time; ``None`` if its source
            knows.
        split_input: Modules that each take one of the tensors that a module takes side by side,
            given their widths; their outputs add up to its own.
        start: The states that a module begins with if it is given none; ``None`` if they are zero.
        then: What the next calls get; ``None``: the same again, ``RUNS`` in all, of a model that
            calls no layer twice.

    Raises:
        ValueError: If the sample does not run, something between two modules is no wiring, or a
            later step does something else than the first.
    """
    given = by_name(sample)
    shapes = " and ".join(str(tuple(x.shape)) for x in given.values())
    if not all(x.numel() for x in given.values()):
        raise ValueError(f"sample has shape {shapes}; it must not be empty")
    copied_from, model = model, detached_copy(model)
    watch = Watch(batch_axes, split_input, start)
    for name, module in model.named_modules():
        module.training = False
        if is_leaf(module):
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
            ended = finish(watch, model, result)
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
