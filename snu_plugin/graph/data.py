"""Sequences in NIR's own data format, so that inputs travel beside the graph."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snu_plugin.graph import hdf5
from snu_plugin.graph.metadata import check_dt

Array = NDArray[Any]

INPUT = "input"
"""Node that a sequence alone is for."""
OBSERVABLES = ("input", "spikes", "output")
"""What the sequence of a node is called; the first is what ``to_data`` writes."""
MOST_VALUES = 2**28
"""Values that events may be spread over, 1 GiB: a file of a few bytes must not fill the memory."""
ODD = 1e-6
"""An event may lie before the beginning of its step by this share of a step: rounding."""


class Recording(NamedTuple):
    """Sequences and the time step they were taken at."""

    x: Any
    """A tensor ``(T, B, *shape)``, or a dict of such by node name where there are several."""
    dt: float
    """Seconds."""


def to_data(x: Tensor | Array | Mapping[str, Tensor | Array], dt: float) -> nir.NIRGraphData:
    """Return sequences as ``nir.NIRGraphData``, which ``nir.write_data`` writes.

    NIR has samples first and one axis of neurons: ``(B, T, neurons)``; layers of several axes are
    laid out in C order. Values that are all 0 or 1 become bool, which is how NIR says spikes.

    Args:
        x: ``(T, B, *shape)``, of the Input named ``input``; or a dict of these by node name.
        dt: Time step in seconds.

    Raises:
        ValueError: For a shape without time, batch and at least one axis more, values that are not
            finite numbers, or a dt that is not positive.
    """
    check_dt(dt)
    named = dict(x) if isinstance(x, Mapping) else {INPUT: x}
    if not named:
        raise ValueError("x is an empty dict; give a sequence by node name")
    nodes = {}
    for name, value in named.items():
        if not isinstance(value, (Tensor, np.ndarray)):
            raise TypeError(
                f"x of {name!r} is {type(value).__name__}; it must be a tensor or array"
            )
        given = value.detach().cpu() if isinstance(value, Tensor) else value
        array = np.asarray(given.float() if given.dtype is torch.bfloat16 else given)
        if array.ndim < 3 or array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise ValueError(
                f"x of {name!r} is {array.dtype} of shape {array.shape}; it must be finite numbers "
                "(T, B, neurons) or (T, B, *shape)"
            )
        data = np.moveaxis(array, 0, 1).reshape(array.shape[1], array.shape[0], -1)
        data = data.astype(bool) if ((data == 0) | (data == 1)).all() else data
        grid = nir.TimeGriddedData(np.ascontiguousarray(data), float(dt))
        nodes[name] = nir.NIRNodeData({OBSERVABLES[0]: grid})
    return nir.NIRGraphData(nodes)


def from_data(
    data: nir.NIRGraphData,
    dt: float | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Recording:
    """Return the sequences in NIR's data format, time first.

    Args:
        data: From ``to_data``, ``nir.read_data``, or another tool: on a grid of steps, or events,
            with or without values; a node with several observables gives the one that is called
            ``input``, ``spikes`` or ``output``.
        dt: Time step in seconds; needed for events, must be that of the data where they have one.
        shapes: Shape of the layer by node name, where it has several axes.

    Returns:
        ``(x, dt)``: ``x`` is a float tensor ``(T, B, *shape)``, a dict of these by node name where
        there are several.

    Raises:
        TypeError: For what is no ``NIRGraphData``.
        ValueError: For data that contradict themselves, a dt that is missing or another than that
            of the data, two events of a neuron in one step, or a shape that does not fit.
    """
    if not isinstance(data, nir.NIRGraphData):
        raise TypeError(f"data is {type(data).__name__}; it must be a nir.NIRGraphData")
    if dt is not None:
        check_dt(dt)
    found = {name: _of_node(name, node) for name, node in _leaves(data)}
    if not found:
        raise ValueError("the data hold no node; give a sequence for the Input of the graph")
    steps = {float(one.dt) for one in found.values() if isinstance(one, nir.TimeGriddedData)}
    if dt is not None and (other := [s for s in steps if abs(s - dt) > ODD * dt]):
        raise ValueError(
            f"the data have the time step {other[0]:g} s and dt is {dt:g} s; record them at that "
            "dt, or run the graph at theirs"
        )
    if len(steps) > 1:
        raise ValueError(f"the data have the time steps {sorted(steps)}; they must have one")
    seconds = dt if dt is not None else next(iter(steps), None)
    if seconds is None:
        raise ValueError("the data are events, which belong to no step; give dt in seconds")
    tensors = {}
    for name, one in found.items():
        grid = one.data if isinstance(one, nir.TimeGriddedData) else _gridded(name, one, seconds)
        shape = tuple((shapes or {}).get(name, grid.shape[2:]))
        if int(np.prod(shape)) != grid.shape[2]:
            raise ValueError(
                f"the data of {name!r} have {grid.shape[2]} neurons; the layer has the shape "
                f"{shape}"
            )
        if grid.dtype.kind not in "fiub" or not np.isfinite(grid).all():
            raise ValueError(f"the data of {name!r} are {grid.dtype}; they must be finite numbers")
        x = np.moveaxis(grid, 1, 0).reshape(grid.shape[1], grid.shape[0], *shape)
        exact = x.dtype == np.float64
        tensors[name] = torch.from_numpy(x.astype(np.float64 if exact else np.float32))
    return Recording(next(iter(tensors.values())) if len(tensors) == 1 else tensors, seconds)


def read_data(path: str | os.PathLike[str]) -> nir.NIRGraphData:
    """Return what ``nir.write_data`` wrote, from a file that need not be trusted.

    Links, sizes out of proportion and damage are refused as in ``read``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For a file that is no data; one line that names the file and the place.
    """
    place = os.fspath(path)
    tree = hdf5.load(path, "nodes", numbers=("dt", "n_neurons", "t_max"))
    try:
        return _graph_data(tree, "the data")
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _graph_data(nodes: Mapping[str, Any], where: str) -> nir.NIRGraphData:
    found: dict[str, Any] = {}
    for name, node in nodes.items():
        if isinstance(node, dict) and isinstance(node.get("nodes"), dict):
            found[name] = _graph_data(node["nodes"], repr(name))
            continue
        seen = node.get("observables") if isinstance(node, dict) else None
        if not isinstance(seen, dict):
            raise ValueError(
                f"{where} hold {name!r} without observables: a graph, or a file whose writing "
                "broke off; give a file from nir.write_data"
            )
        found[name] = nir.NIRNodeData({key: _observable(name, one) for key, one in seen.items()})
    return nir.NIRGraphData(found)


def _observable(name: str, one: Any) -> Any:
    """Return data on a grid, or events, out of a group of a file."""
    fields = one if isinstance(one, dict) else {}
    if {"data", "dt"} <= fields.keys():
        if np.ndim(fields["data"]) != 3:
            raise ValueError(
                f"the data of {name!r} have the shape {np.shape(fields['data'])}; it must be "
                "(samples, steps, neurons)"
            )
        return nir.TimeGriddedData(fields["data"], float(fields["dt"]))
    if {"idx", "time", "n_neurons", "t_max"} <= fields.keys():
        about = {"n_neurons": int(fields["n_neurons"]), "t_max": float(fields["t_max"])}
        arrays = {key: np.asarray(fields[key]) for key in ("idx", "time", "value") if key in fields}
        if len({array.shape for array in arrays.values()}) > 1:
            raise ValueError(f"idx, time and value of {name!r} differ in shape; they must be alike")
        kind = nir.ValuedEventData if "value" in arrays else nir.EventData
        return kind(**arrays, **about)
    raise ValueError(
        f"an observable of {name!r} is incomplete, as where the writing of a file broke off: it "
        f"has {', '.join(fields) or 'nothing'}; it must have data and dt, or idx, time, n_neurons "
        "and t_max"
    )


def _leaves(data: nir.NIRGraphData, inside: str = "") -> list[tuple[str, nir.NIRNodeData]]:
    """Return every node with its data, under its name in the flat graph."""
    found: list[tuple[str, nir.NIRNodeData]] = []
    for name, node in data.nodes.items():
        if isinstance(node, nir.NIRGraphData):
            found += _leaves(node, f"{inside}{name}.")
        else:
            found.append((f"{inside}{name}", node))
    return found


def _of_node(name: str, node: nir.NIRNodeData) -> Any:
    """Return what was recorded of a node."""
    seen = node.observables
    key = next((key for key in OBSERVABLES if key in seen), None)
    if len(seen) == 1:
        (key,) = seen
    if key is None:
        raise ValueError(
            f"the data of {name!r} hold {', '.join(map(repr, seen)) or 'nothing'}; one must be "
            f"called {' or '.join(map(repr, OBSERVABLES))}"
        )
    one = seen[key]
    if not isinstance(one, (nir.TimeGriddedData, nir.EventData)):
        raise ValueError(f"the data of {name!r} are {type(one).__name__}; give steps or events")
    if isinstance(one, nir.TimeGriddedData):
        check_dt(float(one.dt))
    return one


def _gridded(name: str, events: nir.EventData, dt: float) -> Array:
    """Return events as ``(samples, steps, neurons)``.

    nir's own ``to_time_gridded`` drops the last step where t_max / dt is a hair below a whole
    number, and all but one of the events that fall together.
    """
    idx, time = np.asarray(events.idx), np.asarray(events.time, dtype=np.float64)
    values = np.asarray(getattr(events, "value", np.ones(idx.shape)))
    real = idx != -1
    steps = int(np.ceil(events.t_max / dt - ODD)) if 0 <= events.t_max < np.inf else -1
    shape = (idx.shape[0] if idx.ndim == 2 else -1, steps, int(events.n_neurons))
    if min(shape) < 0 or np.prod(shape, dtype=float) > MOST_VALUES:
        raise ValueError(
            f"the events of {name!r} have the shape {idx.shape}, {events.n_neurons} neurons and "
            f"t_max {events.t_max:g}, {steps} steps of {dt:g}; idx must be (samples, events), with "
            f"at most {MOST_VALUES} values in all steps"
        )
    at = np.floor(time[real] / dt + ODD)
    who = idx[real]
    if idx.dtype.kind not in "iu" or (who < 0).any() or (who >= shape[2]).any():
        raise ValueError(f"idx of {name!r} must be whole numbers from 0 to {shape[2] - 1}, or -1")
    if not ((at >= 0) & (at < steps)).all():
        raise ValueError(f"an event of {name!r} lies outside of 0 to t_max, {events.t_max:g}")
    places = (np.nonzero(real)[0], at.astype(np.int64), who.astype(np.int64))
    if len(np.unique(np.ravel_multi_index(places, shape))) < len(who):
        raise ValueError(
            f"two events of one neuron of {name!r} fall into one step of dt = {dt:g}; give a "
            "smaller dt"
        )
    grid = np.zeros(shape, dtype=np.float64 if values.dtype == np.float64 else np.float32)
    grid[places] = values[real]
    return grid
