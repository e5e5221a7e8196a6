"""Data in files: chorales as they are published, and sequences in an ``.npz``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from torch import Generator, Tensor

from snu_plugin import archives, files, graph
from snu_plugin.experiments.datasets import (
    AT_ONCE,
    LABELS,
    SAMPLE,
    Judging,
    Likelihood,
    ScoredData,
    Sequences,
    TuningData,
    chorale_parts,
)
from snu_plugin.tasks import chorales
from snu_plugin.tasks.chorales import Chorales

DIVIDED = (0.6, 0.2, 0.2)
"""Shares to learn from, choose by and judge on where data come in one part. Ours."""


def load_scored(
    path: str | Path,
    takes: tuple[int, ...],
    gives: tuple[int, ...],
    *,
    verify: bool = True,
    by: Judging = LABELS,
) -> ScoredData:
    """Read data for a graph with one Input and one Output.

    Args:
        path: ``JSB_Chorales.mat`` or another file of its format, whose test pieces are scored; or
            an ``.npz`` with ``x`` of shape ``(T, N, *takes)``, time first, and ``labels`` of shape
            ``(N,)``, or ``(T, N, *gives)`` where every output is to be a number; with a teacher
            ``x`` alone is enough.
        takes: Shape of the graph's Input.
        gives: Shape of its Output.
        verify: Refuse a ``.mat`` whose checksum is not that of ``JSB_Chorales.mat``.
        by: What they teach and are judged by, if not by their labels; chorales have their own.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: For another kind of file, or data that do not fit the graph, loss or metric.
    """
    file = _data_file(path)
    if file.suffix == ".mat":
        return chorale_parts(_chorales(file, takes, gives, verify), by).test
    return _labelled(file, archives.read_arrays(file), "", takes, gives, by)


def load_inputs(path: str | Path) -> Tensor | nir.NIRGraphData:
    """Read inputs ``(T, N, ...)`` alone from data that ``load_scored`` takes, labelled or not.

    A ``.nir`` of data, as ``nir.write_data`` makes it, comes as it is. Warns where there are more
    than ``AT_ONCE`` sequences, of which the first are returned.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: For another kind of file, or inputs that are no numbers.
    """
    file = _data_file(path, ".nir")
    if file.suffix == ".nir":
        return graph.read_data(file)
    if file.suffix == ".mat":
        return chorales.pad(chorales.load(file, verify=False).test).x
    x = _inputs(file, archives.read_arrays(file), "x")
    if x.shape[1] > AT_ONCE:
        warnings.warn(
            f"{file} holds {x.shape[1]} sequences; the first {AT_ONCE} are taken", stacklevel=2
        )
    return x[:, :AT_ONCE]


def load_by_name(path: str | Path, inputs: Sequence[str]) -> dict[str, Tensor]:
    """Read what several Inputs of a graph receive, ``(T, N, ...)`` each, from an ``.npz``.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: For another kind of file, one without an array for each, or what is no numbers.
    """
    file = _data_file(path)
    if file.suffix != ".npz":
        raise ValueError(f"{file}: the graph has {len(inputs)} Inputs; give an .npz with each")
    arrays = archives.read_arrays(file)
    return {name: _inputs(file, arrays, name) for name in inputs}


def as_inputs(
    g: nir.NIRGraph,
    x: Tensor | dict[str, Tensor] | nir.NIRGraphData,
    dt: float | None,
    feedback: graph.Feedback | None,
) -> Any:
    """Return what ``load_inputs`` gave as a graph takes it: a tensor, or a dict of these by Input.

    Raises:
        ValueError: For data in NIR's format at another time step, or of another shape.
    """
    if not isinstance(x, nir.NIRGraphData):
        return x
    discrete = graph.discretise(g, dt, feedback=feedback)
    shapes = {name: discrete.shapes[name] for name in x.nodes if name in discrete.shapes}
    return graph.from_data(x, discrete.dt, shapes=shapes).x


def load_sample(path: str | Path, *, verify: bool = True) -> Tensor:
    """Read inputs ``(T, N, ...)`` that set the ranges of converters: what is tuned on, not judged.

    Of data that ``load_tuning`` takes the first ``SAMPLE`` of ``train_x``, or of ``x`` if that is
    all there is; of chorales those to learn from, as long as the shortest. Labels are not read.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: For another kind of file, or inputs that are no numbers.
    """
    file = _data_file(path, ".nir")
    if file.suffix == ".nir":
        sequences: Tensor = graph.from_data(graph.read_data(file)).x
        return sequences[:, :SAMPLE]
    if file.suffix == ".mat":
        found = chorales.load(file, verify=verify)
        return Likelihood(found.name, found.train).sample
    arrays = archives.read_arrays(file)
    name = "train_x" if "train_x" in arrays else "x"
    return _inputs(file, arrays, name)[:, :SAMPLE]


def _inputs(file: Path, arrays: dict[str, Any], name: str) -> Tensor:
    """Return the inputs of that name, checked."""
    if name not in arrays:
        raise ValueError(
            f"{file} holds {', '.join(arrays) or 'nothing'}; inputs (T, N, ...) must be named "
            f"{name}"
        )
    x = arrays[name]
    if x.dtype.kind not in "fiub" or x.ndim < 2:
        raise ValueError(
            f"{file}: {name} is {x.dtype} of shape {x.shape}; it must be numbers (T, N, ...)"
        )
    return torch.from_numpy(x.astype(np.float32))


def _data_file(path: str | Path, *more: str) -> Path:
    """Return the path of a file of data; raises for others, see ``load_scored``."""
    file = Path(path)
    also = "".join(f", or a {suffix} of data" for suffix in more)
    if not file.is_file():
        near = files.near_file(file, ".mat", ".npz", *more)
        raise FileNotFoundError(
            f"{file}: no such file; give JSB_Chorales.mat or an .npz{also}{near}"
        )
    if file.suffix not in (".mat", ".npz", *more):
        raise ValueError(
            f"{file}: unknown kind of data; give a .mat of chorales, or an .npz with x and labels, "
            f"such as numpy.savez makes{also}"
        )
    return file


def _chorales(file: Path, takes: tuple[int, ...], gives: tuple[int, ...], verify: bool) -> Chorales:
    """Return the chorales for a graph of their keys."""
    if takes != (chorales.KEYS,) or gives != (chorales.KEYS,):
        raise ValueError(
            f"{file} holds chorales of {chorales.KEYS} keys; the graph takes {takes} and gives "
            f"{gives}"
        )
    return chorales.load(file, verify=verify)


def _labelled(
    file: Path,
    arrays: dict[str, Any],
    part: str,
    takes: tuple[int, ...],
    gives: tuple[int, ...],
    by: Judging,
) -> Sequences:
    """Return the sequences ``<part>x`` with their ``<part>labels``, checked."""
    named, labelled = f"{part}x", f"{part}labels"
    needed = {named} if by.teacher is not None else {named, labelled}
    if missing := needed - set(arrays):
        raise ValueError(
            f"{file}: {named} and {labelled} must both be there; {' and '.join(sorted(missing))} "
            f"{'is' if len(missing) == 1 else 'are'} not, the file holds "
            f"{', '.join(arrays) or 'nothing'}; write it with numpy.savez(FILE, {named}=..., "
            f"{labelled}=...); with a teacher {named} alone is enough"
        )
    x, labels = arrays[named], arrays.get(labelled)
    if labels is None:
        count = x.shape[1] if x.ndim > 1 else 0
    else:
        count = _count(file, labelled, labels, gives)
    wanted = ("T", str(count) if labels is not None else "N", *map(str, takes))
    if x.ndim < 2 or not count or x.shape[1] != count or x.shape[2:] != takes or not len(x):
        turned = x.ndim > 1 and x.shape[0] == count and x.shape[2:] == takes
        hint = f"; time comes first: give {named}.swapaxes(0, 1)" if turned else ""
        raise ValueError(
            f"{file}: {named} has shape {x.shape}; it must be ({', '.join(wanted)}){hint}"
        )
    if x.dtype.kind not in "fiub" or not np.isfinite(x).all():
        raise ValueError(f"{file}: {named} is {x.dtype}; it must be finite numbers")
    targets = None
    if labels is not None:
        if labels.ndim > 1 and len(labels) != len(x):
            raise ValueError(
                f"{file}: {named} has {len(x)} steps and {labelled} {len(labels)}; give as many"
            )
        targets = torch.from_numpy(labels.astype(np.int64 if labels.ndim == 1 else np.float32))
    data = Sequences(file.name, torch.from_numpy(x.astype(np.float32)), targets, by)
    if by.teacher is not None and (taught := data.take(slice(1)).taught.shape[2:]) != gives:
        raise ValueError(f"the teacher gives {tuple(taught)} and the graph {gives}; give one alike")
    return data


def _count(file: Path, name: str, labels: Any, gives: tuple[int, ...]) -> int:
    """Return how many sequences labels belong to; raises where they do not fit the outputs."""
    if labels.ndim == 1 and labels.dtype.kind in "iu" and labels.size:
        classes = math.prod(gives)
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"{file}: {name} run from {labels.min()} to {labels.max()}; the graph has "
                f"{classes} outputs, so they must lie in [0, {classes - 1}]"
            )
        return len(labels)
    numbers = labels.dtype.kind in "fiub" and labels.size and np.isfinite(labels).all()
    if labels.ndim < 2 or labels.shape[2:] != gives or not numbers:
        shape = ", ".join(("T", "N", *map(str, gives)))
        raise ValueError(
            f"{file}: {name} are {labels.dtype} of shape {labels.shape}; give whole numbers (N,), "
            f"or a finite number for every output, ({shape})"
        )
    return int(labels.shape[1])


def load_tuning(
    path: str | Path,
    takes: tuple[int, ...],
    gives: tuple[int, ...],
    *,
    verify: bool = True,
    seed: int = 0,
    by: Judging = LABELS,
) -> TuningData:
    """Read data to tune a graph on; arguments and errors as in ``load_scored``.

    An ``.npz`` may hold ``train_x`` and ``train_labels`` to learn from and ``valid_x`` and
    ``valid_labels`` to choose by, beside ``x`` and ``labels`` to judge on. Without ``valid_x``, as
    many of ``train_x`` choose, and are not learned from, as would of ``x``: without ``train_x``,
    ``x`` is divided at random, ``DIVIDED``, by ``seed``.
    """
    file = _data_file(path)
    if file.suffix == ".mat":
        return chorale_parts(_chorales(file, takes, gives, verify), by)
    arrays = archives.read_arrays(file)
    test = _labelled(file, arrays, "", takes, gives, by)
    if "train_x" not in arrays:
        return _divided(test, seed)
    train = _labelled(file, arrays, "train_", takes, gives, by)
    if "valid_x" in arrays:
        valid = _labelled(file, arrays, "valid_", takes, gives, by)
        return TuningData(train, valid, test)
    count = len(train)
    chosen = round(DIVIDED[1] * count)
    if not chosen:
        return TuningData(train, None, test)
    order = torch.randperm(count, generator=Generator().manual_seed(seed))
    learned, valid = map(train.take, torch.split(order, [count - chosen, chosen]))
    return TuningData(learned, valid, test)


def _divided(data: Sequences, seed: int) -> TuningData:
    count = len(data)
    sizes = [max(1, round(share * count)) for share in DIVIDED[1:]]
    if count < 5:
        raise ValueError(
            f"{data.name} holds {count} sequences and no train_x; give train_x and train_labels, "
            "or at least 5 sequences to divide"
        )
    order = torch.randperm(count, generator=Generator().manual_seed(seed))
    train, valid, test = (
        data.take(part) for part in torch.split(order, [count - sum(sizes), *sizes])
    )
    return TuningData(train, valid, test, divided=True)
