"""Pictures of networks and chips: matplotlib axes in, the same axes out.

Each function takes ``ax``; ``None`` makes a figure of its own. Matplotlib is loaded when the first
picture is drawn, and comes with ``pip install 'snu-plugin[report]'``. Time is the first axis of
what is given, ``(T, B, ...)`` or ``(T, ...)``; of a batch one ``sequence`` is drawn.

>>> from snu_plugin import plot
>>> ax = plot.raster(torch.eye(5))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import networkx as nx
import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snu_plugin.accelerator import Chip, Program, device_model, generators
from snu_plugin.accepted import COUNT, shown
from snu_plugin.graph import network
from snu_plugin.origin import how_to_install
from snu_plugin.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["chip_map", "device", "graph", "raster", "rates", "score", "traces"]

Array = NDArray[Any]
LEVELS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the largest conductance that ``device`` writes to."""
DEVICES, READINGS = 400, 25
"""Devices that are written to each, and times at which they are read."""
FEW = 3
"""Curves of ``traces`` whose names find room among them; more stand beside."""
GAP = 0.12
"""Between tiles, in tiles."""


def raster(
    spikes: Tensor | Array | Mapping[str, Tensor | Array],
    ax: Axes | None = None,
    *,
    sequence: int = 0,
    dt: float | None = None,
    most: int | None = None,
) -> Axes:
    """Draw a dot for each spike: neurons upwards, time to the right.

    Args:
        spikes: ``(T, B, ...)``, ``(T, N)``, or layers by name, which stand above one another.
        ax: Where to draw.
        sequence: Of the batch.
        dt: Seconds of a step; ``None``: the axis counts steps.
        most: Neurons of a layer that are drawn: of more every second, third and so on, and the
            axis says so. ``None``: all.

    Raises:
        ValueError: For another shape, a sequence that is not there, or a ``most`` below 1.
    """
    if most is not None:
        COUNT.check("most", most)
    ax = _axes(ax)
    layers = spikes if isinstance(spikes, Mapping) else {"": spikes}
    flats = {}
    for name, given in layers.items():
        flat = _one(given, sequence)
        apart = max(1, -(-flat.shape[1] // (most or flat.shape[1] or 1)))
        shown = name if apart == 1 else f"{name}\n1 in {apart}".strip()
        flats[shown] = flat[:, ::apart]
    size = float(np.clip(1200 / max(sum(flat.shape[1] for flat in flats.values()), 1), 1, 12))
    bottom, marks = 0, []
    for number, (name, flat) in enumerate(flats.items()):
        step, neuron = np.nonzero(flat)
        ax.scatter(_time(step, dt), bottom + neuron, s=size, linewidths=0, color=_colour(number))
        marks.append((bottom + flat.shape[1] / 2, name))
        bottom += flat.shape[1]
    ax.set_ylim(-0.5, max(bottom, 1) - 0.5)
    alone = len(flats) == 1 and not next(iter(flats))
    _label_time(ax, dt, "neuron" if alone else "")
    if not alone:
        ax.set_yticks([place for place, _ in marks], [name for _, name in marks])
    return ax


def traces(
    values: Tensor | Array,
    ax: Axes | None = None,
    *,
    neurons: Sequence[int] = (0, 1, 2),
    threshold: float | Tensor | Array | None = None,
    sequence: int = 0,
    dt: float | None = None,
) -> Axes:
    """Draw values over time, such as membranes, a curve for each of some neurons.

    Args:
        values: ``(T, B, ...)`` or ``(T, N)``; ``graph.membranes`` gives those of a graph.
        ax: Where to draw.
        neurons: Which, counted over all axes of the layer.
        threshold: One for all, or of the layer's shape; drawn as a dashed line.
        sequence: Of the batch.
        dt: Seconds of a step; ``None``: the axis counts steps.

    Raises:
        ValueError: For a neuron or sequence that is not there.
    """
    ax = _axes(ax)
    flat = _one(values, sequence)
    for place, neuron in enumerate(neurons):
        if not 0 <= neuron < flat.shape[1]:
            raise ValueError(f"neurons holds {neuron}; the layer has 0 to {flat.shape[1] - 1}")
        time = _time(np.arange(len(flat)), dt)
        look = style.curve(place) | {"marker": None, "label": f"neuron {neuron}"}
        ax.plot(time, flat[:, neuron], lw=1.5, **look)
    if threshold is not None:
        levels = np.broadcast_to(_array(threshold).ravel(), flat.shape[1])[list(neurons)]
        for level in dict.fromkeys(levels.tolist()):
            ax.axhline(level, color=style.INK, lw=1, ls="--")
    _label_time(ax, dt, "potential")
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    style.legend(ax, **(beside if len(neurons) > FEW else {"loc": "best"}))
    return ax


def rates(layers: Mapping[str, Tensor | Array], ax: Axes | None = None) -> Axes:
    """Draw how often neurons fire: a bar for the mean of a layer, a line for the middle 80 %.

    Args:
        layers: Name to spikes ``(T, B, ...)``.
        ax: Where to draw.
    """
    _check("layers", layers, Mapping, "a dict of spikes by layer")
    ax = _axes(ax)
    for place, (name, given) in enumerate(layers.items()):
        spikes = _array(given)
        each = spikes.reshape(spikes.shape[0], -1).mean(0)
        if spikes.ndim > 2:
            each = spikes.reshape(*spikes.shape[:2], -1).mean((0, 1))
        low, high = np.quantile(each, (0.1, 0.9))
        ax.barh(name, each.mean(), height=0.6, color=_colour(place))
        ax.plot([low, high], [name, name], color=style.INK, lw=2)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    style.label(ax, "spikes per neuron and step", "")
    return ax


def graph(g: nir.NIRGraph, ax: Axes | None = None) -> Axes:
    """Draw the nodes of a graph from left to right, with their types and sizes.

    An edge that carries the value of the step before is dashed.

    Args:
        g: Any graph that ``graph.network`` takes.
        ax: Where to draw.
    """
    discrete = network(g).discrete
    # What runs later in a step reaches what runs before it only in the next.
    order = {name: number for number, name in enumerate(discrete.wiring.names)}
    late = {(source, target) for source, target in discrete.edges if order[source] >= order[target]}
    forward = nx.DiGraph([edge for edge in discrete.edges if edge not in late])
    forward.add_nodes_from(discrete.nodes)
    columns = [sorted(names) for names in nx.topological_generations(forward)]
    tall = max(map(len, columns)) / 2
    ax = _axes(ax, (max(6.4, 1.3 * len(columns)), max(2.4, 1.6 * tall)))
    place = {
        name: (column, (len(names) - 1) / 2 - row)
        for column, names in enumerate(columns)
        for row, name in enumerate(names)
    }
    shapes = {name: " × ".join(map(str, discrete.shapes[name])) for name in place}
    texts = {n: f"{n}\n{type(discrete.nodes[n]).__name__} {shapes[n]}" for n in place}
    longest = max(len(line) for text in texts.values() for line in text.splitlines())
    points = 72 * ax.get_window_extent().width / ax.figure.dpi / len(columns)
    size = float(np.clip(points / (0.6 * longest + 2.5), 3, 9))
    box = {"boxstyle": "round,pad=0.4", "facecolor": style.FAINT, "edgecolor": style.INK}
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size, "color": style.INK}
    boxes = {
        name: ax.text(*place[name], text, bbox=box, **look).get_bbox_patch()
        for name, text in texts.items()
    }
    for source, target in discrete.edges:
        behind = (source, target) in late
        arrow = {"arrowstyle": "->", "color": style.INK, "shrinkA": 0, "shrinkB": 0}
        arrow |= {"patchA": boxes[source], "patchB": boxes[target]}
        (begin, height), (end, _) = place[source], place[target]
        around = 0.0 if end - begin == 1 else -0.15 if height >= 0 else 0.15  # past boxes between
        arrow["connectionstyle"] = f"arc3,rad={0.35 if behind else around}"
        arrow["linestyle"] = "--" if behind else "-"
        ax.annotate("", place[target], place[source], arrowprops=arrow)
    ax.set_xlim(-0.6, len(columns) - 0.4)
    ax.set_ylim(-tall - 0.3, tall + 0.3)
    ax.set_axis_off()
    return ax


def chip_map(program: Program, ax: Axes | None = None) -> Axes:
    """Draw what lies where on the tiles of a chip, with the share of each that is in use.

    Args:
        program: From ``compiler.compile``.
        ax: Where to draw.
    """
    from matplotlib.patches import Rectangle

    _check("program", program, Program, "a Program, which compiler.compile makes")
    ax = _axes(ax)
    numbers = sorted(program.tile_cells)
    across = min(len(numbers), 4)
    nodes = list(dict.fromkeys(tile.node for tile in program.tiles))
    corner = {
        number: ((place % across) * (1 + GAP), (place // across) * (1 + 2 * GAP))
        for place, number in enumerate(numbers)
    }
    used = dict.fromkeys(numbers, 0)
    for x, y in corner.values():
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=style.FAINT, edgecolor=style.INK, lw=0.5))
    for tile in program.tiles:
        chip, (x, y) = program.chips[tile.node], corner[tile.number]
        width, height = tile.width / chip.tile_columns, tile.height / chip.tile_rows
        at = x + tile.column / chip.tile_columns, y + tile.row / chip.tile_rows
        used[tile.number] += tile.width * tile.height
        ax.add_patch(Rectangle(at, width, height, facecolor=_colour(nodes.index(tile.node))))
    for number, (x, y) in corner.items():
        share = used[number] / program.tile_cells[number]
        ax.text(
            x,
            y - 0.03,
            f"tile {number}: {share:.0%}",
            fontsize=style.FONT_SIZE - 1,
            color=style.INK,
        )
    for place, node in enumerate(nodes):
        ax.scatter([], [], marker="s", color=_colour(place), label=node)
    rows = -(-len(numbers) // across)
    ax.set(xlim=(-GAP, across * (1 + GAP)), ylim=(rows * (1 + 2 * GAP), -2 * GAP), aspect="equal")
    ax.set_axis_off()
    style.legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def score(
    seconds: Sequence[float],
    curves: Mapping[str, Any],
    ax: Axes | None = None,
    *,
    lines: Mapping[str, float] | None = None,
    ylabel: str = "score",
) -> Axes:
    """Draw scores against the time since programming, on a logarithmic axis.

    Args:
        seconds: Times, above 0.
        curves: Name to ``(times,)``, or ``(chips, times)`` for a mean with a band of one standard
            deviation.
        ax: Where to draw.
        lines: Name to a number to compare with.
        ylabel: The score and its unit.

    Raises:
        ValueError: For times or curves that do not fit.
    """
    ax = _axes(ax)
    arrays = {name: _array(given) for name, given in curves.items()}
    times, by_chip = style.over_seconds(seconds, arrays)
    for number, (name, chips) in enumerate(by_chip.items()):
        style.band(ax, times, chips, number, label=name, markersize=5)
    style.levels(ax, lines)
    style.log_seconds(ax, times.min(), times.max())
    style.label(ax, "time since programming", ylabel)
    style.legend(ax, loc="best")
    return ax


def device(
    chip: Chip, ax: Axes | None = None, *, seconds: float = 365 * 86400.0, seed: int = 0
) -> Axes:
    """Draw what the devices of a chip hold over time, written to a quarter, half, ... of the range.

    A band holds 80 % of the devices as they are read, with noise.

    Args:
        chip: Its settings.
        ax: Where to draw.
        seconds: The last time since writing.
        seed: Of the devices.

    Raises:
        ValueError: For a time before the first at which the devices can be read.
    """
    _check("chip", chip, Chip, "a Chip, such as PCM")
    ax = _axes(ax)
    model, streams = device_model(chip), generators(seed, "plot")
    if not seconds > model.holds_at_s:
        raise ValueError(f"seconds is {seconds:g}; it must be above {model.holds_at_s:g}")
    times = np.geomspace(max(model.holds_at_s, 1.0), seconds, READINGS)
    for place, level in enumerate(LEVELS):
        target = torch.full((DEVICES,), level * chip.g_max_us, dtype=torch.float64)
        cells = model.write(target, 0.0, streams)
        seen = np.stack([model.read(cells, float(t), streams["read"]).numpy() for t in times])
        low, middle, high = np.quantile(seen, (0.1, 0.5, 0.9), axis=1)
        ax.plot(times, middle, color=_colour(place), label=f"written to {level:.0%}")
        ax.fill_between(times, low, high, color=_colour(place), alpha=0.2, lw=0)
    style.log_seconds(ax, times[0], seconds)
    style.label(ax, "time since writing", "conductance (µS)")
    style.legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _axes(ax: Axes | None, inches: tuple[float, float] | None = None) -> Axes:
    """Return the axes that are given, or those of a new figure, of so many inches."""
    if ax is None:
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError(
                f"pictures need matplotlib; install it with: {how_to_install('report')}"
            ) from error
        ax = pyplot.subplots(layout="constrained", figsize=inches)[1]
    elif not hasattr(ax, "add_patch"):
        raise TypeError(f"ax is {shown(ax)}; it must be axes of matplotlib, or None")
    style.plain(ax)
    return ax


def _check(name: str, value: object, kind: type, words: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {shown(value)}; it must be {words}")


def _colour(number: int) -> str:
    return style.CYCLE[number % len(style.CYCLE)]


def _array(values: Any) -> Array:
    found = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    if isinstance(found, (str, bytes)):
        raise TypeError(f"values are {shown(found)}; give a tensor or an array")
    return np.asarray(found, float)


def _one(values: Tensor | Array, sequence: int) -> Array:
    """Return one sequence of a layer, ``(T, neurons)``."""
    found = _array(values)
    if found.ndim < 2 or not len(found):
        raise ValueError(f"values have shape {found.shape}; give (T, B, ...) or (T, N)")
    if found.ndim == 2:
        return found
    if not 0 <= sequence < found.shape[1]:
        raise ValueError(f"sequence is {sequence}; the batch has 0 to {found.shape[1] - 1}")
    return found[:, sequence].reshape(len(found), -1)


def _time(steps: Array, dt: float | None) -> Array:
    return steps if dt is None else steps * dt


def _label_time(ax: Axes, dt: float | None, y: str) -> None:
    ax.locator_params("x", nbins=6, integer=dt is None)
    style.label(ax, "step" if dt is None else "time (s)", y)
