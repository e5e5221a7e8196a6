"""The simulators that read NIR: adapters of ours by entry point, others by their own importers.

Nothing is imported before it is asked for. The others are written for the versions in
``SIMULATORS``; where one of them has changed its calls, the run ends as "crashed" with the message,
and never as a result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snu_plugin.accepted import hint, shown
from snu_plugin.origin import how_to_install
from snu_plugin.schedule import aligned

GROUP = "snu_plugin.adapters"


def adapters() -> tuple[str, ...]:
    """Return the names of the adapters that are installed, sorted; imports none of them."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def adapter(name: str) -> ModuleType:
    """Import and return the adapter called ``name``.

    Raises:
        LookupError: If no installed distribution offers it; lists those that exist.
        ImportError: If its simulator is missing; names the extra to install.
    """
    for point in entry_points(group=GROUP):
        if point.name == name:
            try:
                module: ModuleType = point.load()
            except ImportError as error:
                raise ImportError(
                    f"the {name} adapter needs {error.name or 'a package'}, which is not "
                    f"installed: {how_to_install(name)}"
                ) from error
            return module
    known = adapters()
    raise LookupError(
        f"no adapter {name!r}; installed: {', '.join(known) or 'none'}{hint(name, known)}"
    )


Array = NDArray[Any]
Simulate = Callable[[nir.NIRGraph, Array, float], Array]


class Simulator(NamedTuple):
    """A simulator that reads NIR."""

    module: str
    """Top-level module that tells whether it is installed; nothing is imported to find out."""
    distribution: str
    """Name under which its version is found."""
    simulate: Simulate
    """Outputs ``(T, B, ...)`` of a graph on inputs ``(T, B, ...)``, in a process of its own."""
    version: str
    """What ``snu simulators install`` takes, and for which ``simulate`` is written."""
    megabytes: int
    """About how much its environment takes on disk, beside torch; measured on Linux."""
    reads: str
    """Nodes that its importer takes, in a few words."""
    by_default: bool = True
    """Whether it runs where no simulators are named."""
    besides: tuple[str, ...] = ()
    """Requirements that its distribution does not name."""


def installed() -> tuple[str, ...]:
    """Return the names of those that can be found here; imports none of them."""
    return tuple(name for name, found in SIMULATORS.items() if find_spec(found.module))


def simulator(name: str) -> Simulate:
    """Return what runs one of ``SIMULATORS``.

    Raises:
        ImportError: If it is not installed.
    """
    found = SIMULATORS[name]
    if find_spec(found.module) is None:
        raise ImportError(f"{name} is not installed: pip install {found.distribution}")
    return found.simulate


def _spikingjelly(graph: nir.NIRGraph, x: Array, dt: float) -> Array:
    exchange = import_module("spikingjelly.activation_based.nir_exchange")
    return run_steps(exchange.import_from_nir(graph, dt=dt), torch.from_numpy(x))


def _sinabs(graph: nir.NIRGraph, x: Array, dt: float) -> Array:
    net = import_module("sinabs.nir").from_nir(graph, batch_size=x.shape[1])
    steps, batch, *shape = x.shape
    with torch.no_grad():  # it takes batch and time in one axis, batch first
        y = _first(net(torch.from_numpy(np.swapaxes(x, 0, 1).reshape(-1, *shape)))).numpy()
    return np.swapaxes(y.reshape(batch, steps, *y.shape[1:]), 0, 1)


def _rockpool(graph: nir.NIRGraph, x: Array, dt: float) -> Array:
    net = import_module("rockpool.nn.modules.torch.nir").from_nir(graph)
    with torch.no_grad():  # (B, T, ...)
        y = _first(net(torch.from_numpy(np.ascontiguousarray(np.swapaxes(x, 0, 1)))))
    return np.swapaxes(y.numpy(), 0, 1)


def _sc_neurocore(graph: nir.NIRGraph, x: Array, dt: float) -> Array:
    """Run one sequence after the other: its networks know no batch."""
    importer = import_module("sc_neurocore.nir_bridge").from_nir
    (name,) = (n for n, node in graph.nodes.items() if isinstance(node, nir.Input))
    sequences = []
    for given in np.swapaxes(x, 0, 1):
        net = importer(graph, dt=dt)
        sequences.append(np.stack([_only(net.step({name: x_t})) for x_t in given]))
    return np.stack(sequences, 1)


def _spyx(graph: nir.NIRGraph, x: Array, dt: float) -> Array:
    """Give images with their channels last, as its layers take them, and turn those it returns."""
    given = np.moveaxis(x, 2, -1) if x.ndim == 5 else x
    array = import_module("jax.numpy").asarray(given)
    _, y = import_module("spyx.nir").from_nir(graph, array, dt=dt)
    return np.moveaxis(np.asarray(y), -1, 2) if np.ndim(y) == 5 else np.asarray(y)


def _nirtorch(graph: nir.NIRGraph, x: Array, dt: float) -> Array:
    """Run nirtorch's own executor with the modules that it maps nodes to by itself."""
    return run_steps(import_module("nirtorch").nir_to_torch(graph, {}), torch.from_numpy(x))


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, (tuple, list)) else result


def _only(result: Any) -> Array:
    values = list(result.values()) if isinstance(result, dict) else [result]
    return np.asarray(values[0])


SIMULATORS: dict[str, Simulator] = {
    "spikingjelly": Simulator(
        "spikingjelly",
        "spikingjelly",
        _spikingjelly,
        "2.0.0",
        105,
        "Affine, Linear, Conv1d, Conv2d, AvgPool2d, Flatten, IF, LIF, CubaLIF of equal neurons",
    ),
    "sinabs": Simulator(
        "sinabs",
        "sinabs",
        _sinabs,
        "3.1.3",
        30,
        "Affine, Conv1d, Conv2d, SumPool2d, Flatten, IF, LIF, LI; files of nir 1.0.4 at most",
    ),
    "rockpool": Simulator(
        "rockpool", "rockpool", _rockpool, "3.1.0", 35, "Affine, Linear, CubaLIF, LI; no LIF"
    ),
    "spyx": Simulator(
        "spyx",
        "spyx",
        _spyx,
        "1.0.0",
        550,
        "Affine, Linear, Conv2d, SumPool2d, Flatten, IF, LIF, CubaLIF, LI before a Threshold",
    ),
    "sc-neurocore": Simulator(
        "sc_neurocore",
        "sc-neurocore",
        _sc_neurocore,
        "3.16.0",
        55,
        "Affine, Linear, Conv1d, Conv2d, pools, Flatten, Scale, Threshold, Delay, IF, LIF, LI, "
        "CubaLIF, CubaLI, sub-graphs",
    ),
    "nirtorch": Simulator(
        "nirtorch",
        "nirtorch",
        _nirtorch,
        "2.6",
        30,
        "Affine, Linear, Conv1d, Conv2d, AvgPool2d, SumPool2d, Flatten; no neuron",
        by_default=False,
    ),
}
"""By name; found by import spec only."""


ABSENT = object()
"""Stands for what a host has not."""


class Patch(NamedTuple):
    """One global of a host's module that is replaced, or added."""

    module: ModuleType
    name: str
    before: object
    """What it was; ``ABSENT`` where the module had no such name."""
    ours: object


class Registration:
    """Names put into a host's module and functions of a host replaced, until they are taken back.

    Threads may install and take back at once: what any ``with`` block needs stays.

    Args:
        module: Dotted name of the module that gets the names.
        names: What it gets, by name.
        wrapped: ``(module, name, wrap)`` for each global that is replaced: by ``wrap(original)``.
    """

    def __init__(
        self,
        module: str,
        names: Mapping[str, object],
        wrapped: Sequence[tuple[str, str, Callable[[Any], object]]],
    ) -> None:
        self.module, self.names, self.wrapped = module, names, wrapped
        self.patches: list[Patch] = []
        """What is replaced now; empty unless installed."""
        self.blocks, self.before = 0, False
        """How many ``with`` blocks are open, and whether it was installed before the first."""
        self.lock = threading.RLock()

    def taken(self) -> list[str]:
        """Return those of the names that the host has from elsewhere; none once installed."""
        host = import_module(self.module)
        with self.lock:
            return [] if self.patches else [name for name in self.names if hasattr(host, name)]

    def install(self) -> None:
        """Put everything in, or nothing if a wrapper fails; nothing if it is in already."""
        host = import_module(self.module)
        with self.lock:
            if self.patches:
                return
            patches = [Patch(host, name, ABSENT, ours) for name, ours in self.names.items()]
            for path, name, wrap in self.wrapped:
                module = import_module(path)
                original = getattr(module, name)
                patches.append(Patch(module, name, original, wrap(original)))
            for patch in patches:
                setattr(patch.module, patch.name, patch.ours)
            self.patches = patches

    def remove(self) -> None:
        """Give the host back exactly what it had; do nothing if nothing is in.

        Raises:
            RuntimeError: If another package has replaced one of these since; nothing changes then.
        """
        with self.lock:
            for patch in self.patches:
                if getattr(patch.module, patch.name, ABSENT) is not patch.ours:
                    raise RuntimeError(
                        f"{patch.module.__name__}.{patch.name} was replaced after register() by "
                        "another package; undo that first, then call unregister() again"
                    )
            for patch in self.patches:
                if patch.before is ABSENT:
                    delattr(patch.module, patch.name)
                else:
                    setattr(patch.module, patch.name, patch.before)
            self.patches = []

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Take back after a ``with`` block, also one that fails, what was installed inside it.

        Of blocks that overlap, in several threads, the last one does.
        """
        with self.lock:
            if not self.blocks:
                self.before = bool(self.patches)
            self.blocks += 1
        try:
            yield
        finally:
            with self.lock:
                self.blocks -= 1
                if not self.blocks and not self.before:
                    self.remove()


def side_by_side(outputs: Mapping[str, Tensor], lead: int) -> Tensor:
    """Return several outputs as one, flat behind ``lead`` axes, in the order of their names."""
    return torch.cat([outputs[name].flatten(lead) for name in sorted(outputs)], lead)


@torch.no_grad()
def run_steps(
    net: Callable[[Any, Any], tuple[Any, Any]], x: Tensor | Mapping[str, Tensor]
) -> Array:
    """Run ``y, state = net(x_t, state)`` over ``x``, ``(T, B, ...)``; return all ``y``.

    Of several inputs, a dict, each step is a dict. Several outputs are put ``side_by_side``.

    Raises:
        ValueError: If ``x`` holds no step.
    """
    state, outputs = None, []
    for x_t in _steps(x):
        y, state = net(x_t, state)
        outputs.append(side_by_side(y, 1) if isinstance(y, Mapping) else y)
    if not outputs:
        raise ValueError("x holds no time step; it must be (T, B, ...) with T of at least 1")
    stacked: Array = torch.stack(outputs).numpy()
    return stacked


def _steps(x: Tensor | Mapping[str, Tensor]) -> Iterator[Tensor | dict[str, Tensor]]:
    if not isinstance(x, Mapping):
        yield from map(aligned, x)
        return
    for parts in zip(*x.values(), strict=True):
        yield dict(zip(x, map(aligned, parts), strict=True))


def as_tensors(x: Array | Mapping[str, Array], dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """Return inputs, of several Inputs a dict by their names, as tensors of their own."""
    if isinstance(x, Mapping):
        return {name: _as_tensor(part, dtype) for name, part in x.items()}
    return _as_tensor(x, dtype)


def _as_tensor(x: object, dtype: torch.dtype) -> Tensor:
    try:
        return torch.tensor(x, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"x is {shown(x)}; it must be numbers (T, B, ...)") from error


def only_input(x: Array | Mapping[str, Array], who: str) -> Array:
    """Return inputs for an importer that runs graphs with one Input.

    Raises:
        ValueError: For a dict, the inputs of several.
    """
    if isinstance(x, Mapping):
        raise ValueError(f"the graph has {len(x)} Inputs; {who} is run here on graphs with one")
    return x
