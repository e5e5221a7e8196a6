"""A torch model turned into a NIR graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from snu_plugin.graph.chain import scaled
from snu_plugin.graph.flattening import flatten
from snu_plugin.graph.host_network import HostNetwork
from snu_plugin.graph.inherited import check_inherited, check_parametrized, watch_hooks
from snu_plugin.graph.layer_state import StepError
from snu_plugin.graph.metadata import (
    APPROXIMATE,
    CHECKED,
    LEFT_OUT,
    UNCHECKED,
    check_dt,
    declare,
    declared,
    stamp,
)
from snu_plugin.graph.pool_rules import MAX_POOLS
from snu_plugin.graph.proof import prove
from snu_plugin.graph.reference_network import network
from snu_plugin.graph.torch_rules import (
    BATCH_NORMS,
    CONTAINERS,
    batch_axes,
    has_rule,
    nearest,
    split_input,
    start,
    to_node,
)
from snu_plugin.graph.trace import Call, Sample, Trace, by_name, detached_copy, trace
from snu_plugin.graph.traced_tensor import Shape, Source, named, tensors
from snu_plugin.graph.validate import EXTENSIONS
from snu_plugin.neuron import SNU, SRC, sSNU

STEPS = 4
"""Steps of a sample that show what the later steps of a loop do."""


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
    ``torch.cat`` becomes ``<name>.0``, ``<name>.1``, ..., whose outputs add up.

    Args:
        model: A module. All tensors of a dict that it returns leave, by name; else the first as
            ``output``, and those beside it as ``output_1``, ..., where NIR can say them (others are
            declared as ``left_out``), except for states as a layer gave them: they are for the next
            call.
        sample: What the model takes, ``(B, ...)`` or ``(T, B, ...)``; its values do not matter.
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
    if not approximate:
        return export_graph(model, sample, dt=dt, strict=strict, check=check)
    x, reasons = checked_sequence(sample), dict[str, str]()
    graph = export_graph(model, x, dt=dt, strict=strict, reasons=reasons, check=check)
    if not reasons:
        return graph
    with torch.no_grad():
        y = next(tensors(detached_copy(model).eval()(x)))
    return record_difference(graph, reasons, x, y)


def export_graph(
    model: nn.Module,
    sample: Sample | None = None,
    *,
    dt: float = 2**-10,
    strict: bool = False,
    reasons: dict[str, str] | None = None,
    check: bool = True,
    called: nn.Module | None = None,
    finish: Callable[[nir.NIRGraph], nir.NIRGraph] | None = None,
) -> nir.NIRGraph:
    """Return the graph of a model; see ``to_nir``.

    Args:
        model: The model, or what an adapter made of it to be traced.
        sample: See ``to_nir``.
        dt: See ``to_nir``.
        strict: See ``to_nir``.
        reasons: A dict: lets what is refused leave as the ``nearest`` node, and takes up why, by
            the node's name. A graph with such nodes is not checked.
        check: See ``to_nir``.
        called: The model as its user calls it, where ``model`` is another.
        finish: Completes the graph, before it is checked.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {type(model).__name__}; it must be a torch module")
    check_dt(dt)
    whole = _only(model)
    if isinstance(whole, HostNetwork):
        return _whole_network(model, whole, sample, float(dt), strict, check)
    x = _sample(model) if sample is None else sample
    found = _traced(model, x)
    if min(len(part) for part in by_name(x).values()) < STEPS:
        longer = (STEPS, STEPS) if sample is None else (STEPS,)  # of a made one both axes are free
        check_steps(model, _repeated(x, longer))
    made, gives, left_out = _assembled(found, float(dt), strict, reasons)
    more = {LEFT_OUT: left_out} if left_out else {}
    made = stamp(made, float(dt), feedback="silent", **more)
    made = made if finish is None else finish(made)
    if reasons:
        return made
    if not check:
        return declare(made, declared(made) | {UNCHECKED: True})
    user_model, parts = model if called is None else called, dict(model.named_modules())
    gives = {name: node for name, node in gives.items() if name in parts}
    proved = prove(user_model, made, x, found, gives, partial(_traced, model))
    return declare(made, declared(made) | {CHECKED: proved})


def _repeated(x: Sample, times: tuple[int, ...]) -> Sample:
    """Return a sample repeated along the first axes of each tensor."""
    if isinstance(x, Tensor):
        return x.repeat(*times, *[1] * (x.dim() - len(times)))
    if isinstance(x, Mapping):
        return {name: part.repeat(*times, *[1] * (part.dim() - 1)) for name, part in x.items()}
    return [part.repeat(*times, *[1] * (part.dim() - 1)) for part in x]


def _assembled(
    found: Trace, dt: float, strict: bool, reasons: dict[str, str] | None
) -> tuple[nir.NIRGraph, dict[str, str], dict[str, str]]:
    """Return the graph of a trace, its node of each call, and why some outputs do not leave."""
    must, more = found.outputs[: found.required], found.outputs[found.required :]
    left_out = dict(found.left_out)
    try:
        return *_graph(found, found.outputs, dt, strict, reasons), left_out
    except (TypeError, ValueError):
        if not more:
            raise
    graph, gives = _graph(found, must, dt, strict, reasons)
    for output in more:
        try:
            graph, gives = _graph(found, [*must, output], dt, strict, reasons)
            must.append(output)
        except (TypeError, ValueError) as error:
            left_out[output.name] = str(error)
    return graph, gives, left_out


def _graph(
    found: Trace, outputs: Sequence[Call], dt: float, strict: bool, reasons: dict[str, str] | None
) -> tuple[nir.NIRGraph, dict[str, str]]:
    calls = _reaching(found.calls, outputs)
    graph = Assembly(found.input_shapes, calls, outputs)
    for call in calls:
        if isinstance(call.module, nn.ReLU):
            graph.pass_on(call)
            continue
        node, why = _node(call, dt, strict, reasons is not None)
        graph.add(call, node)
        if reasons is not None and why:
            reasons[graph.gives[Source(call.name)]] = why
    for output in outputs:
        graph.close(output)
    graph.prune()
    made = nir.NIRGraph(graph.nodes, graph.edges, metadata={}, type_check=False)
    made = flatten(made) if graph.nested else made
    times = Counter(id(call.module) for call in calls)
    alone = {call.name for call in calls if times[id(call.module)] == 1}
    return made, {call: node for node, call in graph.modules.items() if call in alone}


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
    node, _ = _node(Call("", whole, (Source(None),), (), (), ()), dt, strict, False)
    made = stamp(node, dt, feedback=whole.feedback)
    if not check or len(whole.inputs) > 1 or len(whole.outputs) > 1:
        return declare(made, declared(made) | {UNCHECKED: True})
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
    return declare(
        made,
        declared(made)
        | {CHECKED: prove(model, made, sample, found, gives, partial(_traced, model))},
    )


def _traced(model: nn.Module, x: Sample, then: Sequence[Sample] | None = None) -> Trace:
    """Return the wiring of a model; a reshape is seen wherever it happens, so it is no node."""
    return trace(
        model,
        x,
        is_leaf=lambda module: has_rule(to_node, module) and not isinstance(module, nn.Flatten),
        batch_axes=batch_axes,
        split_input=_split_input,
        start=start,
        then=then,
    )


def check_steps(model: nn.Module, x: Sample) -> None:
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


def _node(call: Call, dt: float, strict: bool, approximate: bool) -> tuple[nir.NIRNode, str]:
    """Return a module's node, and why it is not exact; empty if it is."""
    name = call.name or "the model"

    def node_by(rule: Any) -> nir.NIRNode:
        node = rule(call.module, shape=call.shape, dt=dt)
        check_inherited(call.module, rule.registry)
        return node

    try:
        try:
            check_parametrized(call.module)
            node, why = node_by(to_node), ""
        except (TypeError, ValueError) as error:
            if not approximate or not has_rule(nearest, call.module):
                raise
            node, why = node_by(nearest), str(error)
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


def _split_input(module: nn.Module, widths: Sequence[int]) -> Sequence[nn.Module]:
    check_parametrized(module)
    parts = split_input(module, widths)
    check_inherited(module, split_input.registry)
    return parts


def _reaching(calls: Sequence[Call], outputs: Sequence[Call]) -> list[Call]:
    """Return the calls that the outputs depend on."""
    needed = {source.name for output in outputs for source in output.sources}
    kept = []
    for call in reversed(calls):
        if call.name in needed:
            needed.update(source.name for source in call.sources)
            kept.append(call)
    return kept[::-1]


@to_node.register
def host_network_node(module: HostNetwork, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the graph of the network, with its Inputs and Outputs; of each cell what it is now."""
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


def _fires(node: nir.NIRNode) -> bool:
    kinds = ("LIF", "IF", "CubaLIF", "Threshold", "SNU")
    return type(node).__name__ in kinds and not getattr(node, "soft", False)


class Assembly:
    """A flat graph in the making."""

    def __init__(
        self, input_shapes: Mapping[str, Shape], calls: Sequence[Call], outputs: Sequence[Call]
    ) -> None:
        """Begin with the Inputs; ``calls`` are all that will be added, ``outputs`` be closed."""
        self.nodes: dict[str, nir.NIRNode] = {
            name: nir.Input(input_type={"input": np.array(shape)})
            for name, shape in input_shapes.items()
        }
        self.edges: list[tuple[str, str]] = []
        self.gives = {Source(None, name): name for name in input_shapes} | {Source(None): "input"}
        """The node that gives what a source is."""
        self.modules: dict[str, str] = {}
        """The call whose first output each node gives."""
        self.nested = False
        """Whether it holds graphs, or nodes whose shapes are not known yet."""
        ports = ("input", "output", *input_shapes, *(output.name for output in outputs))
        self.taken = {name.replace(".", "_") for name in ports}
        self.calls = (*calls, *outputs)
        self.readers = Counter(source for call in self.calls for source in call.sources)

    def add(self, call: Call, node: nir.NIRNode) -> None:
        """Add a module's node behind its sources; a recurrent layer's parts by their names.

        A graph with ports of its own stays a sub-graph, unless one of its states is read. The bias
        of recurrent weights moves to what lies in front of the layer, where it acts from the first
        step on: executors of NIR deliver nothing there along an edge that closes a cycle.
        """
        name = self._new(call.name or type(call.module).__name__.lower())
        sources = self._sources(call)
        if isinstance(call.module, MAX_POOLS) and not all(map(self._gives_spikes, sources)):
            raise ValueError(
                f"{call.name}: it takes the maximum of {named(call.sources)}, which are no spikes "
                "(0 and 1) for certain; only of these NIR can say it: pool the spikes behind the "
                "neurons, or take an average"
            )
        if isinstance(call.module, BATCH_NORMS) and self._folded(call, sources, node):
            return
        w_rec = node.nodes.get("w_rec") if isinstance(node, nir.NIRGraph) else None
        bias: Any = getattr(w_rec, "bias", 0)
        if np.any(bias):
            sources = [self._biased(call, sources, name, bias)]
        if isinstance(w_rec, nir.Affine):
            w_rec = node.nodes["w_rec"] = nir.Linear(w_rec.weight)
        elif isinstance(w_rec, nir.Conv2d):
            w_rec.bias = np.zeros_like(w_rec.bias)
        if w_rec is not None and "input" not in node.nodes:
            lif, back = self._new(f"{name}.lif"), self._new(f"{name}.w_rec")
            self.nodes[lif], self.nodes[back] = node.nodes["lif"], w_rec
            self.edges += [*((source, lif) for source in sources), (lif, back), (back, lif)]
            self.gives[Source(call.name)] = lif
            self.modules[lif] = call.name
            return
        if isinstance(node, nir.NIRGraph) and self._reads_a_state(call.name):
            self._expand(call, name, sources, node)
            return
        self.nodes[name] = node
        if isinstance(node, nir.NIRGraph):
            self.nested = True
            ends = [a for a, b in node.edges if isinstance(node.nodes[b], nir.Output)]
            self.modules |= {f"{name}.{end}": call.name for end in ends if len(ends) == 1}
        else:
            self.modules[name] = call.name
            node.input_type = {"input": np.array(call.shape)}
            node.output_type = {"output": np.array(call.out)}
        self.edges += [(source, name) for source in sources]
        self.gives[Source(call.name)] = name

    def pass_on(self, call: Call) -> None:
        """Leave out a rectifier: spikes go through it as they are, and NIR has no other."""
        sources = self._sources(call)
        if len(sources) > 1 or not self._gives_spikes(sources[0]):
            reader = next(c for c in self.calls if Source(call.name) in c.sources)
            name = "the model's output" if reader in self.calls[-1:] else repr(reader.name)
            raise ValueError(
                f"{name} receives relu() of {named(call.sources)}; NIR has no node for that"
            )
        self.gives[Source(call.name)] = sources[0]

    def _gives_spikes(self, name: str) -> bool:
        """Tell whether all that a node gives is 0 or 1."""
        node, inside = self.nodes[name], [a for a, b in self.edges if b == name]
        if isinstance(node, nir.NIRGraph):
            last = [node.nodes[a] for a, b in node.edges if isinstance(node.nodes[b], nir.Output)]
            return len(last) == 1 and _fires(last[0])
        if isinstance(node, nir.Flatten):
            return len(inside) == 1 and self._gives_spikes(inside[0])
        return _fires(node)

    def _reads_a_state(self, name: str) -> bool:
        """Tell whether something receives a state of the module ``name``."""
        return any(source.name == name and source.state for source in self.readers)

    def _expand(self, call: Call, name: str, sources: list[str], graph: nir.NIRGraph) -> None:
        """Add the nodes of a neuron's graph one by one; those named as its states give them."""
        ports = {n for n, node in graph.nodes.items() if isinstance(node, (nir.Input, nir.Output))}
        names = {n: self._new(f"{name}.{n}") for n in graph.nodes if n not in ports}
        self.nodes |= {new: graph.nodes[old] for old, new in names.items()}
        self.nested = True
        for a, b in graph.edges:
            if isinstance(graph.nodes[a], nir.Input):
                self.edges += [(source, names[b]) for source in sources]
            elif isinstance(graph.nodes[b], nir.Output):
                self.gives[Source(call.name)] = names[a]
                self.modules[names[a]] = call.name
            else:
                self.edges.append((names[a], names[b]))
        self.gives |= {Source(call.name, old): new for old, new in names.items()}

    def close(self, output: Call) -> None:
        """Add an Output."""
        sources = self._sources(output)
        name = output.name.replace("/", "_")
        self.nodes[name] = nir.Output(output_type={"output": np.array(output.shape)})
        self.edges += [(source, name) for source in sources]

    def prune(self) -> None:
        """Remove what no Output depends on: of a neuron whose potential is read, the spikes."""
        needed = {name for name, node in self.nodes.items() if isinstance(node, nir.Output)}
        size = 0
        while len(needed) > size:
            size = len(needed)
            needed |= {a for a, b in self.edges if b in needed}
        self.nodes = {name: node for name, node in self.nodes.items() if name in needed}
        self.edges = [edge for edge in self.edges if needed.issuperset(edge)]

    def _sources(self, call: Call) -> list[str]:
        """Return the nodes that feed a call; a reshape on the way becomes a Flatten."""
        name = call.name or "the output"
        for source in call.sources:
            if source not in self.gives:
                raise ValueError(
                    f"{name!r} receives {named((source,))}, whose value no node of NIR has: an "
                    "integrator has that of a neuron that never resets, or that subtracts in the "
                    "step after a spike"
                )
        sources = [self.gives[source] for source in call.sources]
        old, new = call.source_shape, call.shape
        if old == new:
            return sources
        start = next(i for i in range(len(old) + 1) if old[: i + 1] != new[: i + 1])
        start = min(start, max(0, len(new) - 1))  # axes of size 1 that end the source's
        end = start + len(old) - len(new)
        flat = (*old[:start], math.prod(old[start : end + 1]), *old[end + 1 :])
        if end < start or flat != new:
            raise ValueError(
                f"{name} receives {old} reshaped to {new}; not yet supported: flatten it instead"
            )
        flat_name = self._new("flatten")
        self.nodes[flat_name] = nir.Flatten({"input": np.array(old)}, start, end)
        self.edges += [(source, flat_name) for source in sources]
        return [flat_name]

    def _biased(self, call: Call, sources: list[str], name: str, bias: np.ndarray[Any, Any]) -> str:
        """Return a node that adds a bias: the weights that feed the layer, if it is all they feed.

        That is one value for each unit, or for each channel of (C, H, W).
        """
        feed, total = self.nodes[sources[0]], np.float64(bias)
        alone = len(sources) == 1 and self.readers[call.sources[0]] == 1
        if alone and isinstance(feed, (nir.Affine, nir.Linear)) and len(call.shape) == 1:
            total = total + getattr(feed, "bias", 0.0)
            self.nodes[sources[0]] = nir.Affine(feed.weight, total)
            self.modules.pop(sources[0], None)
            return sources[0]
        if alone and isinstance(feed, nir.Conv2d):
            feed.bias = total + feed.bias
            self.modules.pop(sources[0], None)
            return sources[0]
        node = self._new(f"{name}.bias")
        if len(call.shape) == 1:
            self.nodes[node] = nir.Affine(np.eye(call.shape[-1]), total)
        else:
            channels, one = call.shape[0], np.ones((call.shape[0], 1, 1, 1))
            self.nodes[node] = nir.Conv2d(call.shape[1:], one, 1, 0, 1, channels, total)
        self.edges += [(source, node) for source in sources]
        return node

    def _folded(self, call: Call, sources: list[str], node: nir.NIRNode) -> bool:
        """Put a normalisation into the weights that alone it reads; tell whether that was done."""
        before = self.nodes[sources[0]]
        alone = len(sources) == 1 and self.readers[call.sources[0]] == 1
        if not alone or call.source_shape != call.shape:
            return False
        scale = node.weight.diagonal() if isinstance(node, nir.Affine) else node.weight.reshape(-1)
        folded = scaled(before, scale, node.bias)
        if folded is None:
            return False
        self.nodes[sources[0]] = folded
        self.modules[sources[0]] = call.name
        self.gives[Source(call.name)] = sources[0]
        return True

    def _new(self, name: str) -> str:
        """Return ``name`` made legal and unlike all others, also where "." is read as "_"."""
        base = name.replace("/", "_")
        wanted, count = base, 0
        while wanted.replace(".", "_") in self.taken:
            count += 1
            wanted = f"{base}_{count}"
        self.taken.add(wanted.replace(".", "_"))
        return wanted


ROUNDING = 1e-5
"""Real-valued outputs that are nearer, relative to the largest, do not count as different."""


def record_difference(
    graph: nir.NIRGraph, reasons: Mapping[str, str], x: Tensor, y: Tensor
) -> nir.NIRGraph:
    """Record in the metadata of ``graph`` how far it is from the model; returns the same graph.

    Args:
        graph: What ``export.export_graph`` gave.
        reasons: Why each node, by name, is not exact; with none nothing is recorded.
        x: Data, ``(T, B, ...)``.
        y: What the model gives for it, ``(T, B, ...)``.

    Raises:
        ValueError: If ``y`` is no such sequence.
    """
    if not reasons:
        return graph
    with torch.no_grad():
        actual = network(graph, dtype=torch.float32)(x)[0]
    if not isinstance(actual, Tensor) or actual.shape != y.shape:
        shape = tuple(actual.shape) if isinstance(actual, Tensor) else "several outputs"
        raise ValueError(
            f"the model gives {tuple(y.shape)} for a sample of {tuple(x.shape)}, its graph {shape};"
            " approximate=True measures on a sample (T, B, ...), T at least 2"
        )
    far = (actual - y).abs() > ROUNDING * y.abs().max()
    found = {
        "nodes": dict(reasons),
        "differing": float(far.double().mean()),
        "steps": x.shape[0],
        "batch": x.shape[1],
    }
    return declare(graph, declared(graph) | {APPROXIMATE: found})


def checked_sequence(sample: Sample | None) -> Tensor:
    """Return a sample that differences can be measured on.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(sample, Tensor) and sample.dim() > 2 and len(sample) > 1 and sample.numel():
        return sample
    given = "None" if sample is None else "no tensor"
    given = f"of shape {tuple(sample.shape)}" if isinstance(sample, Tensor) else given
    raise ValueError(
        f"sample is {given}; approximate=True measures what it costs: give data, "
        "(T, B, ...) with T at least 2"
    )


@torch.no_grad()
def runs_single_steps(model: nn.Module, x: Tensor, network: tuple[type, ...]) -> bool:
    """Tell whether a model takes one step, ``(B, ...)``, and not a sequence ``(T, B, ...)``.

    Args:
        model: Stays as it is; a copy runs.
        x: Data, ``(T, B, ...)``.
        network: Types of modules that advance one step in a call.
    """
    model = detached_copy(model)
    calls = {m: 0 for m in model.modules() if isinstance(m, network)}

    def count(module: nn.Module, *_: object) -> None:
        calls[module] += 1

    for module in calls:
        module.register_forward_hook(count)
    try:
        model(x[0, :1].expand(2, *x.shape[2:]))  # two: a loop over time calls its network twice
    except (RuntimeError, ValueError, IndexError):
        return False
    return bool(calls) and max(calls.values()) == 1
