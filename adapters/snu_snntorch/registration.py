"""The names of this package put into snnTorch, and taken out again."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import nir
from torch import Tensor, nn

from snu_plugin.graph.layers import (
    SNU as SNUNode,
)
from snu_plugin.graph.layers import (
    SRC as SRCNode,
)
from snu_plugin.graph.layers import (
    check_inherited,
    check_steps,
    to_node,
)
from snu_plugin.simulators import Registration
from snu_snntorch.importing import snu_neuron
from snu_snntorch.neurons import (
    RSNU,
    SNU,
    RsSNU,
    SequenceUnit,
    SNUSequence,
    sSNU,
    sSNUSequence,
)
from snu_snntorch.src import SRC, SRCSequence, src_neuron
from snu_snntorch.unit import Stateful, Unit

DT = 1e-4
"""Time step in seconds of snnTorch's own export and import (export_nir.py, import_nir.py)."""

KEY = "snu"
"""Key of a node's metadata that says which of our neurons it came from."""

NEURONS = (SNU, sSNU, RSNU, RsSNU, SNUSequence, sSNUSequence, SRC, SRCSequence)

OURS: tuple[type[nn.Module], ...] = (Unit, SRC, SRCSequence)


def register() -> None:
    """Make snnTorch know the neurons of this package.

    Afterwards ``snntorch.SNU`` and its kin exist, ``export_nir.export_to_nir`` and
    ``import_nir.import_from_nir``, which fix ``dt`` at 1e-4 s, work on networks that contain them,
    ``utils.reset`` finds them in nested containers and copies too, and ``backprop`` takes an
    ``SRC`` as the last layer; other networks take the path they took before. A name bound before,
    by ``from snntorch.utils import reset``, keeps the old function. Calling it twice changes
    nothing.

    Raises:
        RuntimeError: If snnTorch already has another neuron of one of these names.
    """
    if taken := _registration.taken():
        raise RuntimeError(
            f"snntorch.{taken[0]} exists already, and is not from this package; not registered"
        )
    _registration.install()


def unregister() -> None:
    """Give snnTorch back exactly what ``register`` replaced; without it, do nothing.

    Raises:
        RuntimeError: If another package has replaced one of these since; nothing is changed then.
    """
    _registration.remove()


@contextmanager
def registered() -> Iterator[None]:
    """Register inside a ``with`` block; leave as it was found."""
    with _registration.restored():
        register()
        yield


def _reset(original: Callable[..., None]) -> Callable[..., None]:
    def reset(net: nn.Module) -> None:
        """Zero the states that snnTorch's own function zeroes, and those of our neurons."""
        original(net)
        for module in net.modules():
            if isinstance(module, Stateful):
                module.reset_mem()

    return reset


def _outputs(original: Callable[[nn.Module], int]) -> Callable[[nn.Module], int]:
    def _final_layer_check(net: nn.Module) -> int:
        """Return how many values the last layer gives: an SNU spikes and mem, an SRC spikes too."""
        last = list(net._modules.values())[-1]
        if isinstance(last, SRC):
            return 4
        return 2 if isinstance(last, Unit) else original(net)

    return _final_layer_check


def _export(original: Callable[..., nir.NIRNode]) -> Callable[..., nir.NIRNode]:
    @wraps(original)
    def export_to_nir(
        module: nn.Module, sample_data: Tensor, *args: Any, **settings: Any
    ) -> nir.NIRNode:
        """Refuse first, of networks with our neurons, what snnTorch would take for something else.

        It believes the first call of a layer, and of a derived class the one it is derived from.
        """
        if any(isinstance(part, OURS) for part in module.modules()):
            ruled = [k for k in to_node.registry if not k.__module__.startswith("snntorch.")]
            try:
                check_inherited(module, ruled)
            except TypeError as error:
                raise TypeError(f"the model: {error}") from error
            check_steps(module, sample_data)
        return original(module, sample_data, *args, **settings)

    return export_to_nir


def _extract(original: Callable[[nn.Module], Any]) -> Callable[[nn.Module], Any]:
    def _extract_snntorch_module(module: nn.Module) -> Any:
        """Return the NIR node of one module; the network has run on the sample before."""
        if not isinstance(module, OURS):
            return original(module)
        if isinstance(module, (SequenceUnit, SRCSequence)):
            raise ValueError(
                f"{type(module).__name__} takes whole sequences, export_to_nir single steps; "
                "use snu_snntorch.to_nir"
            )
        mem: Any = module.mem
        node = to_node(module, shape=tuple(mem.shape[mem.dim() > 1 :]), dt=DT)
        check_inherited(module, to_node.registry)
        if isinstance(node, nir.NIRGraph):
            node.nodes["lif"].metadata[KEY] = json.dumps({"unit": type(module).__name__})
        return node

    return _extract_snntorch_module


def _nirtorch(original: types.ModuleType) -> types.SimpleNamespace:
    def nir_to_torch(graph: nir.NIRGraph, node_map: dict[type, Any], **settings: Any) -> Any:
        """Convert a graph that may hold SNU and SRC nodes."""
        ours: dict[type, Any] = {SNUNode: _extension, SRCNode: src_neuron}
        return original.nir_to_torch(graph, {**node_map, **ours}, **settings)

    return types.SimpleNamespace(**{**vars(original), "nir_to_torch": nir_to_torch})


def _extension(node: SNUNode) -> nn.Module:
    settings: dict[str, Any] = {"g": str(node.g), "slope": float(node.slope)}
    return snu_neuron(node.decay, node.threshold, bool(node.soft), **settings)


def _rewire(original: Callable[[nir.NIRGraph], Any]) -> Callable[[nir.NIRGraph], Any]:
    def _replace_rnn_subgraph_with_nirgraph(graph: nir.NIRGraph) -> Any:
        """Leave the loops of a graph that came from RSNU alone; snnTorch 1.0 rewires them.

        It feeds a recurrent layer's input through the recurrent weights (import_nir.py, l. 41).
        """
        ours = any(KEY in node.metadata for node in graph.nodes.values())
        return graph if ours else original(graph)

    return _replace_rnn_subgraph_with_nirgraph


_registration = Registration(
    "snntorch",
    {neuron.__name__: neuron for neuron in NEURONS},
    [
        ("snntorch.utils", "reset", _reset),
        ("snntorch.utils", "_final_layer_check", _outputs),
        ("snntorch.export_nir", "export_to_nir", _export),
        ("snntorch.export_nir", "_extract_snntorch_module", _extract),
        ("snntorch.import_nir", "nirtorch", _nirtorch),
        ("snntorch.import_nir", "_replace_rnn_subgraph_with_nirgraph", _rewire),
    ],
)
