"""What the pages of several commands show: layers, costs, converters."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nir
import torch
from torch import Tensor

from snu_plugin import graph, plot
from snu_plugin.durations import count, energy, scaled, span
from snu_plugin.graph import Report
from snu_plugin.report import plots, style
from snu_plugin.report.page import Figure, Section, Table

SHOWN = 8
"""Sequences that the pictures of layers are made from."""
ROWS = 150
"""Neurons of a layer that the raster shows."""
Parts = Mapping[str, Mapping[str, Any]]


def layers(folder: Path, g: nir.NIRGraph, x: Tensor | None, **how: Any) -> Iterator[Section]:
    """Yield spikes, rates and membranes of the layers on some of the inputs, if any fire."""
    net = graph.network(g, dtype=torch.float32, **how)
    given, _ = graph.drawn_inputs(net) if x is None else (x[:, :SHOWN].float(), "")
    with torch.no_grad():
        values, _ = net.run(given)
    in_order = net.discrete.wiring.names
    spikes = {name: values[name] for name in in_order if net.discrete.spikes(name)}
    if not spikes:
        return
    figures: list[Figure] = []
    tall = min(3.0 + 0.8 * len(spikes), 7.0)
    drawings: list[tuple[str, float, float, Callable[[Any], Any], str]] = [
        ("Spikes", 9.6, tall, lambda ax: plot.raster(spikes, ax, most=ROWS),
         "A dot for each spike of the first sequence, in the strict reference; 1 in 2: every "
         "second neuron is shown."),
        ("How often neurons fire", 6.4, 1.6 + 0.6 * len(spikes), lambda ax: plot.rates(spikes, ax),
         f"Means of each layer over {given.shape[1]} sequences; the line holds the middle 80 % of "
         "its neurons."),
    ]  # fmt: skip
    potentials = graph.membranes(net, given[:, :1])
    if potentials:
        name, values_of = next(iter(potentials.items()))
        few = range(min(3, values_of[0, 0].numel()))
        drawings.append((
            f"Membranes of {name}", 6.4, 3.6, lambda ax: plot.traces(values_of, ax, neurons=few),
            "Before the reset, in the first sequence.",
        ))  # fmt: skip
    for title, width, height, draw, caption in drawings:
        figure, (ax,) = style.canvas(width, height)
        draw(ax)
        file = style.save(figure, folder / f"{len(figures)}-layers.png")
        wide = title == "Spikes"
        figures.append(Figure(file=file, title=title, caption=caption, wide=wide))
    yield Section(title="What the layers do", figures=figures)


def divergence(path: Path, found: Report) -> list[Figure]:
    """Draw the first run that leaves the reference, if one does."""
    seen = found.divergence()
    if seen is None:
        return []
    name = f"{seen.simulator}, {seen.importer} importer"
    places = {"begin": seen.begin, "step": seen.step}
    file = plots.divergence(path, seen.expected, seen.outputs, **places, name=name)
    return [Figure(file=file, title=f"Where {name} leaves the reference", wide=True)]


def table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    figures: Sequence[Figure] = (),
    **more: Any,
) -> Section:
    """Return a section of one table, and of pictures; ``more`` is for ``Table``."""
    return Section(title=title, tables=[Table(heads=heads, rows=rows, **more)], figures=figures)


def cost_cards(counted: Mapping[str, Any]) -> dict[str, str]:
    return {
        "energy per time step": energy(counted["energy_nj_per_step"]["total"]),
        "time per time step": scaled(1e-6 * counted["latency_us_per_step"], "s"),
    }


def cost(power: Path, counted: Mapping[str, Any]) -> Section:
    """Return what a step costs, by where it goes."""
    step = counted["energy_nj_per_step"]
    rows = [
        (part, energy(step[part]), percent(step[part] / (step["total"] or 1.0)))
        for part in ("array", "converters", "digital")
    ]
    writing = energy(counted["programming"]["energy_nj"])
    caption = f"Writing once takes {writing}. What idle tiles leak is not known."
    figures = [Figure(file=power, title="Energy", wide=True)]
    heads = ("goes into", "energy", "share")
    return table("What a time step costs", heads, rows, figures, caption=caption)


def spent(by_use: Parts) -> Section:
    rows = [
        (
            what,
            energy(took["energy_nj"]),
            span(took["seconds"]),
            count(took["sets"] + took["resets"]),
            count(took["readings"]),
        )
        for what, took in by_use.items()
    ]
    heads = ("spent on", "energy", "time", "pulses", "readings")
    return table("What it took", heads, rows)


def saturation(by_node: Parts | None) -> Iterator[Section]:
    if by_node:
        rows = [
            (name, percent(shares["inputs"]), percent(shares["outputs"]))
            for name, shares in by_node.items()
        ]
        caption = "Shares of the conversions that lie beyond the range and are clipped."
        yield table("Converters", ("node", "inputs", "outputs"), rows, caption=caption)


def spread(mean: float, sigma: float) -> str:
    """Return a mean and its standard deviation, both to the second digit of the latter.

    >>> spread(10.17803, 0.05374), spread(0.9125, 0.0), spread(0.31, 12.0)
    ('10.178 ± 0.054', '0.9125 ± 0', '0 ± 12')
    """
    if not sigma or not math.isfinite(sigma):
        return f"{mean:.4f} ± {sigma:g}"
    digits = max(0, 1 - math.floor(math.log10(sigma)))
    return f"{mean:.{digits}f} ± {sigma:.{digits}f}"


def percent(value: float | None) -> str:
    """Return a share with three digits that count, and of none nothing; all is all alone.

    >>> percent(0.0), percent(0.000123), percent(0.9999), percent(1.0), percent(None)
    ('0%', '0.0123%', 'over 99.9%', '100%', '')
    """
    if value is None:
        return ""
    text = f"{100 * value:.3g}%"
    return "over 99.9%" if text == "100%" and value < 1 else text


@contextmanager
def folder_for_pictures() -> Iterator[Path]:
    """Give a folder for pictures until the page holds them."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
