"""What a network of snnTorch's layers is in NIR."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import snntorch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_plugin.accepted import with_known_names
from snu_plugin.graph.layers import (
    Around,
    array,
    batch_axes,
    encode_snu,
    export_graph,
    fires,
    own_step,
    tensors,
    to_node,
)
from snu_snntorch import host  # noqa: F401  (its rules for snnTorch's own neurons)
from snu_snntorch.importing import GraphNetwork, Node
from snu_snntorch.neurons import RecurrentUnit, SequenceUnit, StepUnit
from snu_snntorch.unit import Unit, reset

Array = NDArray[Any]


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
    """Return the NIR graph of an snnTorch network; see ``snu_plugin.graph.to_nir``.

    SNU with ``g="identity"`` leaves as ``nir.LIF``, exactly; sSNU and other ``g`` as the SNU
    extension node, which other readers refuse, or not at all with ``strict=True``. Of snnTorch's
    own neurons ``Leaky``, ``RLeaky``, ``Synaptic``, ``RSynaptic``, ``Lapicque``, ``DeltaLeaky``,
    ``StateLeaky`` and ``LinearLeaky`` leave exactly, with every reset; where no node of NIR has it,
    as several (docs/neurons.md): the default subtraction as ``<name>.mem``, an LI,
    ``<name>.spike``, a Threshold, and ``<name>.reset``, a Scale back. ``Alpha`` leaves where it
    never resets.

    Args:
        net: A network of torch layers and neurons: a container, or a module with its own loop
            over time.
        sample: What ``net`` takes, ``(B, ...)`` or ``(T, B, ...)``; ``None`` where it begins with
            ``nn.Linear``.
        dt: Time step in seconds that the graph declares; a power of two keeps decays exact.
            ``None`` takes that of what ``from_nir`` made for one, else 2⁻¹⁰.
        strict: Refuse what only the extension node can say.
        approximate: Let an ``Alpha`` that resets leave as the nearest node; ``sample`` must then
            be data, ``(T, B, ...)``. Why, and the share of outputs that differ, is declared in the
            graph; see ``snu_plugin.graph.check``.
        check: Run ``net`` beside its graph before it leaves; see ``snu_plugin.graph.to_nir``.

    Raises:
        TypeError: If a module has no rule.
        ValueError: If NIR cannot say a module, or what lies between two of them; or if ``net``
            gives something else than its graph.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net is {type(net).__name__}; it must be a torch module")
    return export_graph(
        net,
        sample,
        dt=own_step(net, (Node, GraphNetwork)) if dt is None else dt,
        strict=strict,
        approximate=approximate,
        check=check,
        run=_run,
        cells=(snntorch.SpikingNeuron,),
    )


def _run(net: nn.Module, x: Tensor, single: bool) -> Any:
    """Return what a network gives for a sequence, spikes first."""
    reset(net)
    return torch.stack([next(tensors(net(x_t))) for x_t in x]) if single else net(x)


@to_node.register(StepUnit)
@to_node.register(RecurrentUnit)
@to_node.register(SequenceUnit)
def _unit(module: Unit, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    if module.inhibition:
        raise ValueError("inhibition is True; not yet supported")
    if module.state_quant:
        raise ValueError("state_quant is set; not yet supported")
    decay, threshold, factor = (
        np.broadcast_to(array(value), shape)
        for value in (module.decay, module.threshold, module.graded_spikes_factor)
    )
    recurrent = _feedback(module, shape) if isinstance(module, RecurrentUnit) else None
    node = encode_snu(module.settings, decay, threshold, dt=dt, recurrent=recurrent)
    return node if (factor == 1).all() else fires(node, Around(factor=factor))


def _feedback(module: RecurrentUnit, shape: tuple[int, ...]) -> Array:
    if len(shape) != 1:
        raise ValueError(
            f"a recurrent layer of shape {shape} is not yet supported: flatten what it receives"
        )
    if module.all_to_all:
        weights = module.recurrent
        if not isinstance(weights, nn.Linear) or weights.bias is not None:
            raise ValueError(
                f"its recurrence is {weights}; not yet supported but for nn.Linear without bias"
            )
        return array(weights.weight)
    return np.diag(np.broadcast_to(array(module.V), shape))


@batch_axes.register(SequenceUnit)
def _(module: SequenceUnit, x: Tensor) -> int | None:
    return 2
