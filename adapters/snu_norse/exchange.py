"""What a network of Norse's containers is in NIR."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
from norse.torch import (
    Lift,
    ParameterizedSpatialReceptiveField2d,
    RecurrentSequential,
    RegularizationCell,
    SampledSpatialReceptiveField2d,
    SequentialState,
)
from norse.torch.module.sequential import RecurrentSequentialState
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_norse import host
from snu_norse.importing import GraphCell, NodeCell
from snu_norse.neurons import (
    SNU,
    SNUCell,
    SNUFeedbackCell,
    SNURecurrent,
    SNURecurrentCell,
    snu_feed_forward_step,
)
from snu_norse.parameters import Parameters, feedback, held_decay
from snu_norse.src import SRCCell
from snu_plugin.accepted import with_known_names
from snu_plugin.graph.layers import (
    CONTAINERS,
    array,
    batch_axes,
    before,
    check_inherited,
    detached_copy,
    encode_snu,
    export_graph,
    host_network_node,
    in_full,
    node_of,
    own_step,
    to_node,
)

Shape = tuple[int, ...]

CELLS = (*host.CELLS, SNUCell, SNURecurrentCell, SNUFeedbackCell, SRCCell, NodeCell)
"""What advances one step in a call."""

CONTAINERS.add(SequentialState)

OPEN = (
    *(SequentialState, Lift, RecurrentSequential, RegularizationCell),
    *(SampledSpatialReceptiveField2d, ParameterizedSpatialReceptiveField2d),
)
"""Modules of Norse's that leave as what is inside; what else they do changes no output."""

TIMED = (*host.NEURONS, NodeCell, GraphCell)
"""What was made for one time step."""


@with_known_names
def to_nir(
    net: nn.Module,
    sample: Tensor | None = None,
    *,
    dt: float | None = None,
    strict: bool = False,
    approximate: bool = False,
    check: bool = True,
) -> nir.NIRGraph:
    """Return the NIR graph of a network of SNUs or of Norse's own neurons, in its containers.

    A recurrent layer becomes ``<name>.w_in``, ``<name>.snu.lif`` and ``<name>.snu.w_rec`` (of
    Norse's own ``<name>.cell.lif`` and ``<name>.cell.w_rec``); a ``RecurrentSequential`` an edge
    from its output back to its first module; a ``GraphCell`` the graph that it was read from, with
    the values of now. ``LIFBoxCell`` leaves as LIF, ``LIFCell``, ``LIF``, ``LIFRecurrentCell`` and
    ``LIFRecurrent`` as CubaLIF, ``LICell`` and ``LI`` as CubaLI, ``LIBoxCell`` as LI, ``IAFCell``
    and ``IAF`` as IF; with ``reset_subtract``, a refractory period or a resting potential that is
    put out, as several nodes (docs/neurons.md).

    Args:
        net: One step, or a sequence, of ``SequentialState``, ``Lift``, ``RecurrentSequential``,
            torch's layers and ours; not changed.
        sample: What ``net`` takes, ``(B, ...)`` or ``(T, B, ...)``; its values do not matter.
            ``None`` makes one where the network begins with a linear or recurrent layer.
        dt: Seconds per step that the graph declares; a power of two loses nothing. ``None`` takes
            that of Norse's own neurons and of cells that ``from_nir`` made, else 2⁻¹⁰. A step of
            the network is a step of the graph: time constants are scaled where their dt is another.
        strict: Raise where a unit can leave only as the SNU extension node.
        approximate: Let ``LIFBoxCell`` with a reset function of your own leave as the nearest
            node; ``sample`` must then be data, ``(T, B, ...)``. What it costs is declared in the
            graph; see ``graph.check``.
        check: Run ``net`` beside its graph before it leaves; see ``snu_plugin.graph.to_nir``.

    Raises:
        TypeError: If a module has no rule.
        ValueError: If NIR cannot say a module or what lies between two of them; or if ``net`` gives
            something else than its graph; names it.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net is {type(net).__name__}; it must be a torch module")
    for name, module in net.named_modules():
        if _is_foreign(module):
            kind = type(module)
            why = host.WHY.get(
                kind, "use a module of snu_norse, or add a rule with @to_node.register"
            )
            raise TypeError(f"{name or 'the model'}: no NIR rule for {kind.__name__}; {why}")
    opened = _split_recurrent(detached_copy(net))

    def with_feedback(graph: nir.NIRGraph) -> nir.NIRGraph:
        loops = [(n, m) for n, m in opened.named_modules() if isinstance(m, _Loop)]
        graph.edges += [loop.feedback_edge(name, graph) for name, loop in loops]
        return graph

    return export_graph(
        opened,
        sample,
        dt=own_step(net, TIMED) if dt is None else dt,
        strict=strict,
        approximate=approximate,
        check=check,
        called=net,
        finish=with_feedback,
        run=lambda model, x, single: (Lift(model) if single else model)(x),
        cells=CELLS,
    )


def _is_foreign(module: nn.Module) -> bool:
    """Tell whether a module is one of Norse's own that has no rule."""
    kind = type(module)
    ruled = to_node.dispatch(kind) is not to_node.dispatch(object)
    name = kind.__module__
    own = name.startswith("norse.") and not name.startswith("norse.torch.models.")
    return own and not ruled and kind not in (*OPEN, *host.RECURRENT)


def _split_recurrent(module: nn.Module) -> nn.Module:
    """Replace what is recurrent by modules that have a node each, or an edge."""
    for name, child in module.named_children():
        setattr(module, name, _split_recurrent(child))
    if isinstance(module, (SNURecurrentCell, SNURecurrent, RecurrentSequential)):
        check_inherited(module, to_node.registry)
    if isinstance(module, (SNURecurrentCell, SNURecurrent)):
        h = feedback(module.recurrent_weights, module.autapses)
        split = _Split(module.input_weights, "snu", SNUFeedbackCell(module.p, h))
        return _with_hooks(split, module)
    if isinstance(module, host.RECURRENT):
        check_inherited(module, host.RECURRENT)
        weight = nn.Parameter(module.input_weights.detach())
        return _with_hooks(_Split(weight, "cell", host.RecurrentNeurons(module)), module)
    return _with_hooks(_Loop(module), module) if isinstance(module, RecurrentSequential) else module


def _with_hooks(opened: nn.Module, module: nn.Module) -> nn.Module:
    """Give a module's hooks to what replaces it; those of ``torch.nn.utils`` only make weights."""
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        for key, hook in getattr(module, name).items():
            if not type(hook).__module__.startswith("torch.nn.utils"):
                getattr(opened, name)[key] = hook
                if key in getattr(module, f"{name}_with_kwargs"):
                    getattr(opened, f"{name}_with_kwargs")[key] = True
    return opened


class _Split(nn.Module):
    """A recurrent layer as its input weights ``w_in`` and the neurons behind them."""

    def __init__(self, weight: nn.Parameter, name: str, neurons: nn.Module) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.w_in = nn.Linear(columns, rows, bias=False, device="meta")
        self.w_in.weight = weight
        self.name = name
        self.add_module(name, neurons)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y, state = self.get_submodule(self.name)(self.w_in(x), state)
        return y, state


class _Loop(nn.Module):
    """A ``RecurrentSequential`` without its feedback, which is an edge (Norse's own fails)."""

    def __init__(self, loop: RecurrentSequential) -> None:
        super().__init__()
        self.module = loop.module
        self.output = loop.output_modules
        if not isinstance(self.output, int):
            raise ValueError(
                f"RecurrentSequential has output_modules={self.output}; one module can feed back, "
                "give its number"
            )

    def forward(
        self, x: Tensor, state: RecurrentSequentialState | None = None
    ) -> tuple[Tensor, RecurrentSequentialState]:
        outputs, states = self.module(x, None if state is None else state.state)
        y = outputs[self.output]
        return y, RecurrentSequentialState(y, states)

    def feedback_edge(self, name: str, graph: nir.NIRGraph) -> tuple[str, str]:
        """Return the edge from the output back to the first module."""
        path = f"{name}.module" if name else "module"
        places = list(range(len(self.module)))
        ends = (
            (places[self.output], ("", ".lif", ".snu.lif", ".cell.lif", ".spike", ".cell.spike")),
            (0, ("", ".w_in", ".lif", ".gain", ".syn")),
        )
        found = []
        for place, forms in ends:
            names = [f"{path}.{place}{form}" for form in forms]
            node = next((n for n in names if n in graph.nodes), None)
            if node is None:
                raise ValueError(
                    f"{names[0]}: {type(self.module[place]).__name__} is no node of its own; what "
                    "RecurrentSequential feeds back must lead from a layer to a layer"
                )
            found.append(node)
        gives, takes = graph.nodes[found[0]].output_type, graph.nodes[found[1]].input_type
        if not np.array_equal(gives["output"], takes["input"]):
            out, taken = gives["output"].tolist(), takes["input"].tolist()
            raise ValueError(
                f"{name or 'the model'}: RecurrentSequential feeds shape {out} back to a layer "
                f"that takes {taken}; both must be the same"
            )
        return found[0], found[1]


@to_node.register(SNUCell)
@to_node.register(SNU)
def _snu(module: SNUCell | SNU, *, shape: Shape, dt: float) -> nir.NIRNode:
    if isinstance(module, SNUCell):
        host.check_step(module, snu_feed_forward_step)
    return _encoded(module.p, shape, dt)


@to_node.register
def _feedback(module: SNUFeedbackCell, *, shape: Shape, dt: float) -> nir.NIRNode:
    return _encoded(module.p, shape, dt, array(module.recurrent_weights))


def _encoded(
    p: Parameters, shape: Shape, dt: float, recurrent: NDArray[Any] | None = None
) -> nir.NIRNode:
    decay = in_full("p.decay", array(held_decay(p)), shape)
    threshold = in_full("p.threshold", array(p.threshold), shape)
    return encode_snu(p.config, decay, threshold, dt=dt, recurrent=recurrent)


to_node.register(GraphCell, host_network_node)
to_node.register(NodeCell, node_of)


@to_node.register(SNURecurrentCell)
@to_node.register(SNURecurrent)
@to_node.register(RecurrentSequential)
def _several(module: nn.Module, *, shape: Shape, dt: float) -> nir.NIRNode:
    raise ValueError(
        f"{type(module).__name__} is several nodes; export the network with snu_norse.to_nir"
    )


batch_axes.register(SNUFeedbackCell, before(1))


@batch_axes.register(SNU)
def _(module: SNU, x: Tensor) -> int | None:
    return min(2, x.dim() - 1)
