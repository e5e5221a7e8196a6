"""A torch model turned into a NIR graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import singledispatch
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from snu_plugin.graph import wire
from snu_plugin.graph.approximate import data, measured, nearest
from snu_plugin.graph.assembly import Assembly
from snu_plugin.graph.carried import StepError
from snu_plugin.graph.cells import Cells
from snu_plugin.graph.flattening import flatten
from snu_plugin.graph.flow import Shape, tensors
from snu_plugin.graph.inherited import check_inherited, check_parametrized, watch_hooks
from snu_plugin.graph.nodes import EXTENSIONS
from snu_plugin.graph.trace import Call, Trace, detached, trace
from snu_plugin.neuron import SNU, SRC, sSNU

CONTAINERS: set[type] = {nn.Sequential}
"""Containers that compute what their one module computes; adapters add their host's."""

STEPS = 4
"""Steps of a sample that show what the later steps of a loop do."""


@singledispatch
def to_node(module: object, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    """Return the NIR node for one module; adapters add rules with ``@to_node.register``.

    Args:
        module: A module of a type that has a rule.
        shape: Shape of what the module receives in one step, without batch and time.
        dt: Time step in seconds that the graph declares.

    Returns:
        A node whose parameters have their full shape, copied. A recurrent layer returns a
        ``nir.NIRGraph`` with the nodes ``input``, ``lif``, ``w_rec``, ``output``; where ``w_rec``
        is an ``Affine``, its bias acts from the first step on, and ``to_nir`` moves it.

    Raises:
        TypeError: If the type has no rule.
        ValueError: If NIR cannot say what this module is set to do.
    """
    raise TypeError(f"no NIR rule for {type(module).__qualname__}; add one with @to_node.register")


@singledispatch
def leading(module: object, x: Tensor) -> int | None:
    """Return how many leading axes of a module's input ``x`` are batch and time.

    ``None``, the default, takes over what the module's source has, and one at the model's input.
    Adapters add rules for modules that take whole sequences: 2 for ``(T, B, ...)``.
    """
    return None


@singledispatch
def divide(module: object, widths: Sequence[int]) -> Sequence[nn.Module]:
    """Return modules whose outputs add up to that of ``module`` for their inputs side by side.

    Args:
        module: A module of a type that has a rule.
        widths: Length of each part of its input.

    Raises:
        TypeError: If the type has no rule.
    """
    raise TypeError(
        f"{type(module).__qualname__} receives tensors put side by side; only Linear layers can "
        "in NIR, as one each"
    )


@singledispatch
def start(module: object, x: Tensor) -> Any:
    """Return the states that a module begins with if it is given none, as it takes them.

    ``None``, the default, says that they are zero. Adapters add rules for neurons that begin
    elsewhere; ``x`` is what the module receives.
    """
    return None


def to_nir(
    model: nn.Module,
    sample: Tensor | None = None,
    *,
    dt: float = 2**-10,
    strict: bool = False,
    approximate: bool = False,
) -> nir.NIRGraph:
    """Return the NIR graph of a model whose modules have rules.

    The wiring is found by running a copy of the model, so containers, loops over time and modules
    that take whole sequences all work. Every step must do what the first does, with states that go
    in as they came out and begin fresh; a rule holds for a derived class that inherits ``forward``.
    Modules that do nothing in evaluation (``Dropout``, ``Identity``) vanish; a recurrent layer
    becomes ``<name>.lif`` and ``<name>.w_rec``; a linear layer behind ``torch.cat`` becomes
    ``<name>.0``, ``<name>.1``, ..., whose outputs add up.

    Args:
        model: A module that takes one tensor; of several outputs the first one leaves.
        sample: What the model takes, ``(B, ...)`` or ``(T, B, ...)``; its values do not matter.
            ``None`` makes one where the model begins with a linear or an SNU layer.
        dt: Time step in seconds; a power of two keeps decays exact.
        strict: Raise where a unit can leave only as an extension node, SNU or SRC.
        approximate: Let a neuron whose reset NIR cannot say leave as the nearest node. ``sample``
            must then be data, ``(T, B, ...)``; which nodes are not exact, why, and the share of
            outputs that differ on it are declared in the graph, and ``check`` returns them.

    Returns:
        A flat graph with complete shapes that shares no memory with the model; names are the
        modules' names. The model, its states and torch's random state stay as they are.

    Raises:
        TypeError: If a module has no rule, or replaces what the rule for its base class counts on.
        ValueError: If NIR cannot say a module, what lies between two of them, or what a later step
            does.
    """
    if not approximate:
        return graph_of(model, sample, dt=dt, strict=strict)
    x, reasons = data(sample), dict[str, str]()
    graph = graph_of(model, x, dt=dt, strict=strict, reasons=reasons)
    if not reasons:
        return graph
    with torch.no_grad():
        y = next(tensors(detached(model).eval()(x)))
    return measured(graph, reasons, x, y)


def graph_of(
    model: nn.Module,
    sample: Tensor | None = None,
    *,
    dt: float = 2**-10,
    strict: bool = False,
    reasons: dict[str, str] | None = None,
) -> nir.NIRGraph:
    """Return the graph of a model; see ``to_nir``.

    ``reasons``, a dict, lets what is refused leave as the ``nearest`` node, and takes up why, by
    the node's name.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {type(model).__name__}; it must be a torch module")
    if isinstance(dt, bool) or not isinstance(dt, (int, float)) or not 0 < dt < math.inf:
        raise ValueError(f"dt is {dt!r}; it must be a positive number of seconds")
    whole = _only(model)
    if isinstance(whole, Cells):
        return _rewired(whole, float(dt), strict)
    x = _sample(model) if sample is None else sample
    found = _traced(model, x)
    if len(x) < STEPS:
        longer = (STEPS, STEPS) if sample is None else (STEPS,)  # of a made one both axes are free
        check_steps(model, x.repeat(*longer, *[1] * (x.dim() - len(longer))))
    calls = _reaching(found.calls, found.output)
    graph = Assembly(found.input_shape, [*calls, found.output])
    for call in calls:
        node, why = _node(call, float(dt), strict, reasons is not None)
        graph.add(call, node)
        if reasons is not None and why:
            reasons[graph.gives[call.name]] = why
    graph.close(found.output)
    made = nir.NIRGraph(graph.nodes, graph.edges, metadata={}, type_check=False)
    made = flatten(made) if any(isinstance(n, nir.NIRGraph) for n in made.nodes.values()) else made
    return wire.stamp(made, float(dt))


def _traced(model: nn.Module, x: Tensor) -> Trace:
    return trace(model, x, is_leaf=_is_leaf, leading=leading, divide=_divide, start=start)


def check_steps(model: nn.Module, x: Tensor) -> None:
    """Refuse a model of which a later step does something else than the first.

    A model that does not take ``x``, or cannot leave for another reason, is passed: whether the
    first axis is time is not known, and who asks knows what else to refuse.

    Args:
        model: Stays as it is.
        x: What it takes, or a sample of one step that is repeated along the first axis.

    Raises:
        StepError: See there.
    """
    try:
        _traced(model, x)
    except StepError:
        raise
    except Exception:
        return


def _only(model: nn.Module) -> nn.Module:
    """Return the one module in containers that hold nothing else and do nothing else."""
    while type(model) in CONTAINERS and len(list(model.children())) == 1:
        if "forward" in vars(model) or model._forward_hooks or model._forward_pre_hooks:
            break
        (model,) = model.children()
    return model


def _rewired(cells: Cells, dt: float, strict: bool) -> nir.NIRGraph:
    """Return the graph of a network that was read from one, under its names."""
    _check_hooks(cells)
    node, _ = _node(Call("", cells, (None,), (), (), ()), dt, strict, False)
    return wire.stamp(node, dt, feedback=cells.feedback)


def _check_hooks(cells: Cells) -> None:
    """Refuse a network with hooks that change a value; nothing else follows them here."""
    if not any(m._forward_hooks or m._forward_pre_hooks for m in cells.modules()):
        return
    copied = nn.Sequential(detached(cells)).eval()
    watch_hooks(copied, "the model")
    like = next(cells.parameters(), torch.empty(0))
    x = {name: like.new_zeros((1, *cells.input_shapes[name])) for name in cells.inputs}
    with torch.no_grad():
        copied(x if len(x) > 1 else next(iter(x.values())))


def _is_leaf(module: nn.Module) -> bool:
    """Tell whether a module is a node; a reshape is seen wherever it happens."""
    return _has_rule(module) and not isinstance(module, nn.Flatten)


def _has_rule(module: nn.Module) -> bool:
    return to_node.dispatch(type(module)) is not to_node.dispatch(object)


def _node(call: Call, dt: float, strict: bool, approximate: bool) -> tuple[nir.NIRNode, str]:
    """Return a module's node, and why it is not exact; empty if it is."""
    name, why = call.name or "the model", ""
    try:
        check_parametrized(call.module)
        node = to_node(call.module, shape=call.shape, dt=dt)
        check_inherited(call.module, to_node.registry)
    except (TypeError, ValueError) as error:
        ruled = nearest.dispatch(type(call.module)) is not nearest.dispatch(object)
        if not (approximate and ruled):
            raise type(error)(f"{name}: {error}") from error
        why = str(error)
    if why:
        try:
            node = nearest(call.module, shape=call.shape, dt=dt)
            check_inherited(call.module, nearest.registry)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
    parts = node.nodes.values() if isinstance(node, nir.NIRGraph) else (node,)
    if strict and (own := [type(p).__name__ for p in parts if type(p).__name__ in EXTENSIONS]):
        raise ValueError(
            f"{name}: standard NIR cannot say this unit; "
            f"strict=False exports it as an {own[0]} extension node that other readers refuse"
        )
    return node, why


def _sample(model: nn.Module) -> Tensor:
    """Return one silent step for a model that begins with a layer whose size is known."""
    first = next((m for m in model.modules() if _has_rule(m)), None)
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


def _divide(module: nn.Module, widths: Sequence[int]) -> Sequence[nn.Module]:
    check_parametrized(module)
    parts = divide(module, widths)
    check_inherited(module, divide.registry)
    return parts


def _reaching(calls: list[Call], output: Call) -> list[Call]:
    """Return the calls that the output depends on."""
    needed: set[str | None] = set(output.sources)
    kept = []
    for call in reversed(calls):
        if call.name in needed:
            needed.update(call.sources)
            kept.append(call)
    return kept[::-1]


@to_node.register
def cells_node(module: Cells, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the graph of the cells, with its Inputs and Outputs; of each cell what it is now."""
    nodes: dict[str, nir.NIRNode] = {}
    for name, cell in zip(module.names, module.cells, strict=True):
        takes = module.input_shapes[name]
        if name in module.inputs:
            nodes[name] = nir.Input(input_type={"input": np.array(takes, dtype=int)})
        elif name in module.outputs:
            nodes[name] = nir.Output(output_type={"output": np.array(takes, dtype=int)})
        else:
            nodes[name], _ = _node(Call(name, cell, (), takes, takes, ()), dt, False, False)
    return nir.NIRGraph(nodes, list(module.edges), metadata={}, type_check=False)


def refilled(
    node: nir.NIRNode, values: Iterable[tuple[str, Tensor]], recurrent: Tensor | None
) -> nir.NIRNode:
    """Put trained values into a node that an adapter runs as it is; changes ``node``.

    Args:
        node: The node, a copy of its own.
        values: Field and value of each parameter.
        recurrent: Weights from the node to itself, ``(features, features)``.

    Returns:
        The node, or with ``recurrent`` a ``nir.NIRGraph`` of ``lif`` and ``w_rec``.
    """
    for field, value in values:
        setattr(node, field, array(value))
    if recurrent is None:
        return node
    parts = {"lif": node, "w_rec": nir.Linear(array(recurrent))}
    edges = [("lif", "w_rec"), ("w_rec", "lif")]
    return nir.NIRGraph(parts, edges, metadata={}, type_check=False)


def array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a copy of a tensor; float32 and wider keep their type, narrower become float32."""
    values = tensor.detach().cpu()
    narrow = values.dtype in (torch.float16, torch.bfloat16)
    return np.array((values.float() if narrow else values).numpy())


@leading.register
def _(module: Cells, x: Tensor) -> int | None:
    return max(0, x.dim() - len(module.input_shapes[module.inputs[0]]))
