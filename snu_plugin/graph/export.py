"""A torch model turned into a NIR graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import nir
import torch
from torch import Tensor, nn

import snu_plugin.graph.rules.conv_rules  # noqa: F401  (rules for convolutions)
from snu_plugin.accepted import with_known_names
from snu_plugin.graph.host_network import HostNetwork
from snu_plugin.graph.metadata import CHECKED, LEFT_OUT, UNCHECKED, check_dt, stamp
from snu_plugin.graph.proving.approximation import approximated
from snu_plugin.graph.proving.proof import prove
from snu_plugin.graph.rules.torch_rules import (
    CONTAINERS,
    batch_axes,
    has_rule,
    split_input,
    start,
    to_node,
)
from snu_plugin.graph.tracing.calling import Sample, TimeLast, by_name, detached_copy
from snu_plugin.graph.tracing.inherited import check_inherited, check_parametrized, watch_hooks
from snu_plugin.graph.tracing.layer_state import StepError, UnstackedError
from snu_plugin.graph.tracing.step_shapes import LayerRules
from snu_plugin.graph.tracing.trace import Trace, check_fed, trace
from snu_plugin.graph.tracing.traced_tensor import Source
from snu_plugin.graph.tracing.wiring import Call
from snu_plugin.graph.translation import graph_of, node_by_rule
from snu_plugin.neuron import SNU, SRC, sSNU

STEPS = 4
"""Steps of a sample that show what the later steps of a loop do."""


def _split_input(module: nn.Module, widths: Sequence[int]) -> Sequence[nn.Module]:
    check_parametrized(module)
    parts = split_input(module, widths)
    check_inherited(module, split_input.registry)
    return parts


_traced = partial(
    trace,
    rules=LayerRules(
        # a reshape is seen wherever it happens, so it is no node
        is_leaf=lambda module: has_rule(to_node, module) and not isinstance(module, nn.Flatten),
        batch_axes=batch_axes,
        split_input=_split_input,
        start=start,
    ),
)
"""Returns the wiring of a model."""


@with_known_names
def to_nir(
    model: nn.Module,
    sample: Sample | None = None,
    *,
    dt: float = 2**-10,
    strict: bool = False,
    approximate: bool = False,
    check: bool = True,
) -> nir.NIRGraph:
    """Return the NIR graph of a model whose modules have rules.

    The wiring is found by running a copy of the model, so containers, loops over time and modules
    that take whole sequences all work. Every step must do what the first does, with states that go
    in as they came out and begin fresh; a rule holds for a derived class that inherits ``forward``.
    Modules that do nothing in evaluation (``Dropout``, ``Identity``) vanish, a ``BatchNorm`` goes
    into the weights before it; the maximum of a pool is that of spikes; functions that are a layer
    (``F.linear``, ``F.avg_pool2d``, arithmetic with constants) leave as one; a recurrent layer
    becomes ``<name>.lif`` and ``<name>.w_rec``; a linear or convolutional layer behind
    ``torch.cat`` becomes ``<name>.0``, ``<name>.1``, ..., whose outputs add up. What the model
    keeps of a step and adds in the next, beginning with zeros or nothing, is an edge back where it
    closes a cycle, and a ``Delay`` elsewhere.

    Args:
        model: A module. All tensors of a dict that it returns leave, by name; else the first as
            ``output``, and those beside it as ``output_1``, ..., where NIR can say them (others are
            declared as ``left_out``), except for states as a layer gave them: they are for the next
            call.
        sample: What the model takes, ``(B, ...)``, ``(T, B, ...)`` or ``(B, ..., T)``, of which
            the graph takes ``(T, B, ...)``; its values do not matter.
            ``None`` makes one where the model begins with a linear or an SNU layer. For a model
            with several inputs a tuple, whose Inputs are called ``input``, ``input_1``, ..., or a
            dict by the names of its arguments, which are those of the Inputs.
        dt: Time step in seconds; a power of two keeps decays exact.
        strict: Raise where a unit can leave only as an extension node, SNU or SRC.
        approximate: Let a neuron whose reset NIR cannot say leave as the nearest node. ``sample``
            must then be data, ``(T, B, ...)``; which nodes are not exact, why, and the share of
            outputs that differ on it are declared in the graph, and ``check`` returns them.
        check: Run the model beside its graph's strict reference before it leaves, see ``proof``;
            what was compared is declared in the graph. ``False`` declares it ``unchecked``.

    Returns:
        A flat graph with complete shapes that shares no memory with the model; names are the
        modules' names. The model, its states and torch's random state stay as they are.

    Raises:
        TypeError: If a module has no rule, or replaces what the rule for its base class counts on.
        ValueError: If NIR cannot say a module, what lies between two of them, or what a later step
            does; or if the model gives something else than its graph.
    """
    return export_graph(model, sample, dt=dt, strict=strict, approximate=approximate, check=check)


def export_graph(
    model: nn.Module,
    sample: Sample | None = None,
    *,
    dt: float = 2**-10,
    strict: bool = False,
    approximate: bool = False,
    check: bool = True,
    called: nn.Module | None = None,
    finish: Callable[[nir.NIRGraph], nir.NIRGraph] | None = None,
    run: Callable[[nn.Module, Tensor, bool], Any] = lambda model, x, single: model(x),
    cells: tuple[type, ...] = (),
    reasons: dict[str, str] | None = None,
) -> nir.NIRGraph:
    """Return the graph of a model; see ``to_nir``.

    Args:
        model: The model, or what an adapter made of it to be traced.
        sample: See ``to_nir``.
        dt: See ``to_nir``.
        strict: See ``to_nir``.
        approximate: See ``to_nir``.
        check: See ``to_nir``.
        called: The model as its user calls it, where ``model`` is another.
        finish: Completes the graph, before it is checked.
        run: See ``approximated``; for ``approximate``.
        cells: Likewise.
        reasons: A dict: lets what is refused leave as the ``nearest`` node, and takes up why, by
            the node's name; nothing is measured. A graph with such nodes is not checked.
    """
    if approximate:
        settings: dict[str, Any] = {"dt": dt, "strict": strict, "check": check}
        settings |= {"called": called, "finish": finish}
        return approximated(
            model if called is None else called,
            sample,
            lambda x, reasons: export_graph(model, x, reasons=reasons, **settings),
            run,
            cells,
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {type(model).__name__}; it must be a torch module")
    check_dt(dt)
    whole = _only(model)
    if isinstance(whole, HostNetwork):
        return _whole_network(model, whole, sample, float(dt), strict, check)
    x = _sample(model) if sample is None else sample
    try:
        found = _traced(model, x)
    except ValueError:
        found_last = None if reasons is not None else _time_last(model, x)
        if found_last is None:
            raise
        model, called = TimeLast(model), TimeLast(model if called is None else called)
        found, x = found_last
    if min(len(part) for part in by_name(x).values()) < STEPS:
        longer = (STEPS, STEPS) if sample is None else (STEPS,)  # of a made one both axes are free
        seen = check_steps(model, _repeated(x, longer))
        if seen is not None and any(source.late for call in seen.calls for source in call.sources):
            found, x = seen, _repeated(x, longer)
    check_fed(found)
    made, gives, left_out = graph_of(found, float(dt), strict, reasons)
    said = {"feedback": "silent"} | ({LEFT_OUT: left_out} if left_out else {})
    made = stamp(made, float(dt), **said)
    made = made if finish is None else finish(made)
    if reasons:
        return made
    if not check:
        return stamp(made, float(dt), **said, **{UNCHECKED: True})
    user_model, parts = model if called is None else called, dict(model.named_modules())
    gives = {name: node for name, node in gives.items() if name in parts}
    proved = prove(user_model, made, x, found, gives, partial(_traced, model))
    return stamp(made, float(dt), **said, **{CHECKED: proved})


def _time_last(model: nn.Module, x: Sample) -> tuple[Trace, Tensor] | None:
    """Return the wiring of a model whose steps lie along the last axis, and its sample, T first.

    ``None`` if it cuts none there, or cannot leave so either.

    Raises:
        ValueError: If it puts them there again in what it returns.
    """
    if not isinstance(x, Tensor) or x.dim() < 3:
        return None
    turned = x.movedim(-1, 0)
    try:
        found = _traced(TimeLast(model), turned)
    except UnstackedError:
        raise
    except ValueError:
        return None
    return None if found.time is None else (found, turned)


def _repeated(x: Sample, times: tuple[int, ...]) -> Sample:
    """Return a sample repeated along the first axes of each tensor."""
    if isinstance(x, Tensor):
        return x.repeat(*times, *[1] * (x.dim() - len(times)))
    if isinstance(x, Mapping):
        return {name: part.repeat(*times, *[1] * (part.dim() - 1)) for name, part in x.items()}
    return [part.repeat(*times, *[1] * (part.dim() - 1)) for part in x]


def _whole_network(
    model: nn.Module,
    whole: HostNetwork,
    sample: Sample | None,
    dt: float,
    strict: bool,
    check: bool,
) -> nir.NIRGraph:
    """Return the graph of a network that was made from one."""
    _check_hooks(whole)
    node, _ = node_by_rule(Call("", whole, (Source(None),), (), (), ()), dt, strict, False)
    made = stamp(node, dt, feedback=whole.feedback)
    if not check or len(whole.inputs) > 1 or len(whole.outputs) > 1:
        return stamp(made, dt, feedback=whole.feedback, **{UNCHECKED: True})
    if sample is None:
        like = next(whole.parameters(), torch.empty(0))
        sample = like.new_zeros((1, *whole.input_shapes[whole.inputs[0]]))
    found = _traced(model, sample)
    name = found.calls[0].name
    cells = (".".join(filter(None, (name, "cells", str(i)))) for i in range(len(whole.names)))
    gives = {
        cell: n
        for cell, n in zip(cells, whole.names, strict=True)
        if n not in (*whole.inputs, *whole.outputs)
    }
    proved = prove(model, made, sample, found, gives, partial(_traced, model))
    return stamp(made, dt, feedback=whole.feedback, **{CHECKED: proved})


def check_steps(model: nn.Module, x: Sample) -> Trace | None:
    """Refuse a model of which a later step does something else than the first.

    A model that does not take ``x``, or cannot leave for another reason, is passed, without a
    trace: whether the first axis is time is not known, and who asks knows what else to refuse.

    Args:
        model: Stays as it is.
        x: What it takes, or a sample of one step that is repeated along the first axis.

    Raises:
        StepError: See there.
    """
    try:
        return _traced(model, x)
    except StepError:
        raise
    except Exception:
        return None


def _only(model: nn.Module) -> nn.Module:
    """Return the one module in containers that hold nothing else and do nothing else."""
    while type(model) in CONTAINERS and len(list(model.children())) == 1:
        if "forward" in vars(model) or model._forward_hooks or model._forward_pre_hooks:
            break
        (model,) = model.children()
    return model


def _check_hooks(network: HostNetwork) -> None:
    """Refuse a network with hooks that change a value; nothing else follows them here."""
    if not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules()):
        return
    copied = nn.Sequential(detached_copy(network)).eval()
    watch_hooks(copied, "the model")
    like = next(network.parameters(), torch.empty(0))
    x = {name: like.new_zeros((1, *network.input_shapes[name])) for name in network.inputs}
    with torch.no_grad():
        copied(x if len(x) > 1 else next(iter(x.values())))


def _sample(model: nn.Module) -> Tensor:
    """Return one silent step for a model that begins with a layer whose size is known."""
    first = next((m for m in model.modules() if has_rule(to_node, m)), None)
    like = next(model.parameters(), torch.empty(0))
    if isinstance(first, nn.Linear):
        return like.new_zeros((1, 1, first.in_features))
    if isinstance(first, (SNU, sSNU, SRC)):
        return like.new_zeros((1, 1, *first.features))
    kind = "no module with a NIR rule" if first is None else type(first).__name__
    raise ValueError(
        f"the model begins with {kind}, which does not say what it takes; "
        "pass sample, a tensor (B, ...) or (T, B, ...) as the model takes it"
    )
