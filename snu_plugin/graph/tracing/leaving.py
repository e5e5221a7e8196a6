"""What a model returns, and the wiring that a run of it showed."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, nn

from snu_plugin.graph.tracing.calling import carried_on, returned
from snu_plugin.graph.tracing.layer_state import StepError
from snu_plugin.graph.tracing.traced_calls import Call, Trace
from snu_plugin.graph.tracing.traced_tensor import named
from snu_plugin.graph.tracing.watch import Watch

SUMS_OVER_TIME = ("sum()", "mean()", "max()", "count_nonzero()", "cumsum()")


def finish(watch: Watch, model: nn.Module, result: Any) -> Trace:
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
