"""Our types put into Norse's own names and functions, and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import nir
from norse.torch.functional.reset import reset_value
from torch import Tensor, nn

from snu_norse import exchange, importing
from snu_norse.importing import EXTENSIONS, GraphCell, NodeCell
from snu_norse.neurons import (
    SNU,
    SNUCell,
    SNUFeedbackCell,
    SNURecurrent,
    SNURecurrentCell,
    SNUState,
    snu_feed_forward_step,
    snu_recurrent_step,
    sSNU,
    sSNUCell,
    sSNURecurrent,
    sSNURecurrentCell,
)
from snu_norse.parameters import SNUParameters
from snu_norse.src import SRC, SRCCell, SRCParameters, src_feed_forward_step
from snu_plugin.graph import read
from snu_plugin.graph.layers import declared
from snu_plugin.neuron import SRCState
from snu_plugin.simulators import Registration

NAMES: dict[str, object] = {
    **{thing.__name__: thing for thing in (
        SNU, SNUCell, SNUParameters, SNURecurrent, SNURecurrentCell, SRC, SRCCell, SRCParameters,
        sSNU, sSNUCell, sSNURecurrent, sSNURecurrentCell,
        snu_feed_forward_step, snu_recurrent_step, src_feed_forward_step,
    )},
    "SNUState": SNUState,
    "SRCState": SRCState,
}  # fmt: skip
"""What ``register`` adds to ``norse.torch``."""

OURS = (
    *(SNU, SNUCell, SNUFeedbackCell, SNURecurrent, SNURecurrentCell),
    *(SRC, SRCCell, NodeCell, GraphCell),
)


def register() -> None:
    """Make ``norse.torch`` know our types; does nothing if it does already.

    Adds the names in ``NAMES``, and makes ``norse.torch.to_nir`` and ``norse.torch.from_nir`` work
    on networks and graphs that hold our types; all others take Norse's own path, bit for bit: its
    exporter writes time constants times dt, leaves out ``v_reset`` and turns what it does not know
    into None. ``snu_norse.to_nir`` exports such networks as they run, registered or not. Names
    bound before by ``from norse.torch import from_nir`` keep Norse's own function: register first.

    Raises:
        ValueError: If ``norse.torch`` has one of the names already.
    """
    if taken := _registration.taken():
        raise ValueError(
            f"norse.torch has {', '.join(taken)} already; use snu_norse without register()"
        )
    _registration.install()


def unregister() -> None:
    """Give ``norse.torch`` back what ``register`` changed; does nothing if nothing is.

    Raises:
        RuntimeError: If another package replaced one of these since; nothing changes then.
    """
    _registration.remove()


@contextmanager
def registered() -> Iterator[None]:
    """Register for the length of a ``with`` block; leaves an earlier ``register()`` as it was."""
    with _registration.restored():
        register()
        yield


def _to_nir(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def to_nir(
        module: nn.Module, sample_data: Tensor, model_name: str = "norse", dt: float = 0.001
    ) -> nir.NIRNode:
        if isinstance(module, nn.Module) and any(isinstance(m, OURS) for m in module.modules()):
            return exchange.to_nir(module, sample_data, dt=dt)
        return original(module, sample_data, model_name=model_name, dt=dt)

    return to_nir


def _from_nir(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def from_nir(
        node: nir.NIRNode | str,
        ignore_warnings: bool = False,
        reset_method: Callable[..., Any] = reset_value,
        dt: float | None = None,
    ) -> nn.Module:
        graph = _ours(node)
        if graph is None:
            seconds = 0.001 if dt is None else dt
            module: nn.Module = original(node, ignore_warnings, reset_method, seconds)
            return module
        if reset_method is not reset_value:
            raise ValueError(
                f"reset_method is {reset_method!r}; this graph says how its neurons reset, leave "
                "reset_method out"
            )
        built: nn.Module = importing.from_nir(graph, dt)
        return built

    return from_nir


def _ours(node: object) -> nir.NIRGraph | None:
    """Return the graph if it holds our node or was stamped by us, else ``None``."""
    if isinstance(node, str):
        try:
            node = read(node)
        except (OSError, ValueError):
            return None  # Norse's own path says what is wrong with the file.
    if not isinstance(node, nir.NIRGraph):
        return None
    try:
        stamped = "dt" in declared(node)
    except ValueError:
        stamped = False
    return node if stamped or importing.extension(node) else None


def _extract(original: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse our modules where they come by a function bound before ``register``.

    Norse would make them ``None`` nodes, and its other nodes would lose their meaning
    (docs/hosts.md, Norse).
    """

    @wraps(original)
    def extract(module: nn.Module, dt: float = 0.001) -> nir.NIRNode | None:
        if isinstance(module, OURS):
            raise ValueError(
                f"{type(module).__name__} came to a to_nir that was bound before register(); "
                "call norse.torch.to_nir or snu_norse.to_nir"
            )
        return original(module, dt=dt)

    return extract


def _import(original: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse our nodes where they come by a function bound before ``register``.

    Norse would drop them without a word, and the neurons beside them lose their ``r``
    (docs/hosts.md, Norse).
    """

    @wraps(original)
    def load(node: nir.NIRNode, *args: Any, **settings: Any) -> nn.Module | None:
        if isinstance(node, EXTENSIONS):
            raise ValueError(
                f"a {type(node).__name__} node came to a from_nir that was bound before "
                "register(); call norse.torch.from_nir or snu_norse.from_nir"
            )
        module: nn.Module | None = original(node, *args, **settings)
        return module

    return load


_registration = Registration(
    "norse.torch",
    NAMES,
    [
        ("norse.torch", "to_nir", _to_nir),
        ("norse.torch", "from_nir", _from_nir),
        ("norse.torch.utils.export_nir", "_extract_norse_module", _extract),
        ("norse.torch.utils.import_nir", "_import_norse_module", _import),
    ],
)
