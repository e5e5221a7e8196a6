"""What a command is, the options that several have and what reads them, and how they answer."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from snu_plugin.usage import path, signals_as_themselves, stopped

if TYPE_CHECKING:
    from snu_plugin.accelerator import Chip
    from snu_plugin.experiments.chip_life import Layout
    from snu_plugin.experiments.datasets import Judging
    from snu_plugin.experiments.runs import Say


class Command(NamedTuple):
    """A word that can be typed after ``snu``.

    Args:
        name: the word.
        text: what it does, in a line of ``snu --help``.
        example: what its own help shows to be typed after the name.
        arguments: adds its arguments to a parser. It is asked before every command, so it and its
            module import nothing that takes time.
        run: does it with what was typed, and returns the exit status: 0, 1 for a negative verdict.
    """

    name: str
    text: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


SHARED: Mapping[str, Mapping[str, Any]] = {
    "graph": {"type": path, "metavar": "GRAPH", "help": "a .nir file"},
    "data": {"type": path, "metavar": "DATA"},
    "--chip": {"default": "PCM", "help": "a preset, or a TOML file (PCM)"},
    "--dt": {"type": float, "help": "time step; default: the one of the graph"},
    "--feedback": {
        "choices": ("silent", "biased"),
        "help": "what a path that feeds back delivers at the first step: nothing, as other readers "
        "of NIR have it, or its biases, as in snnTorch; default: what the graph declares, else "
        "silent",
    },
    "--outliers": {
        "type": float,
        "default": 0.0,
        "metavar": "SHARE",
        "help": "share of each matrix, its largest weights, that stays in digital logic, exact (0)",
    },
    "--loss": {
        "help": "what tuning minimises: rate, membrane, last, count, population:CLASSES; "
        "regression or likelihood, with labels (T, N, ...) (from the labels; with a teacher the "
        "distance)"
    },
    "--metric": {"help": "the score: names as for --loss, or teacher (what goes with the loss)"},
    "--teacher": {
        "type": path,
        "metavar": "GRAPH",
        "help": "a .nir file, such as the trained network, whose outputs are learned from: DATA "
        "needs no labels",
    },
    "--seed": {"type": int, "default": 0},
    "--jobs": {"type": int, "default": 1, "help": "processes; -1: one per core (1)"},
    "--scheduler": {
        "metavar": "ADDRESS",
        "help": "a Dask cluster instead, such as tcp://127.0.0.1:8786 or tls://HOST:8786",
    },
    "--no-verify": {"action": "store_true", "help": "allow a .mat of another checksum"},
    "--out": {"type": path},
    "--report": {"type": path, "metavar": "FILE", "help": "an HTML page with all of it"},
    "--resume": {"action": "store_true", "help": "go on where a run was interrupted"},
    "--json": {"action": "store_true", "help": "print JSON"},
}
"""What every command means by an argument of that name."""

LAYOUT = "--dt", "--feedback", "--outliers"
"""How a graph comes onto chips."""
SCORING = "--loss", "--metric", "--teacher", *LAYOUT, "--no-verify"
"""What every command takes that scores a graph on chips: how, and on which data."""


def add(command: argparse.ArgumentParser, *names: str, **other: Any) -> None:
    """Declare shared arguments; ``other`` says what is otherwise in this command."""
    for name in names:
        command.add_argument(name, **{**SHARED[name], **other})


def check_graph(path: Path) -> None:
    """Refuse a graph that is not there; names what was perhaps meant."""
    if path.is_file():
        return
    from snu_plugin import zoo
    from snu_plugin.files import near_file

    known = path.name in zoo.cards() and not path.exists()
    near = (
        f"; snu zoo get {path.name} copies that network here" if known else near_file(path, ".nir")
    )
    raise FileNotFoundError(f"{path} is not a file; give the path of a .nir file{near}")


def layout_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return how the graph comes onto chips, as ``experiments.chip_life.Layout`` takes it."""
    return {name: getattr(options, name) for name in ("dt", "feedback", "outliers")}


def chip_of(options: argparse.Namespace) -> Chip:
    """Return the chip that is asked for; what its file leaves open is always shown."""
    from snu_plugin.accelerator import find_chip

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        return find_chip(options.chip)


def _judging_of(options: argparse.Namespace) -> Judging:
    from snu_plugin import graph
    from snu_plugin.experiments.datasets import Judging
    from snu_plugin.hil import taught_by

    teacher = None
    if options.teacher is not None:
        teacher = taught_by(graph.read(options.teacher), options.dt)
    return Judging(loss=options.loss, metric=options.metric, teacher=teacher)


def sample_of(options: argparse.Namespace) -> Any:
    """Return the inputs that set the ranges of converters."""
    from snu_plugin.experiments.data_files import load_sample

    return load_sample(options.data, verify=not options.no_verify)


def shown_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a page shows the layers of a graph on."""
    from snu_plugin import graph

    g = graph.read(options.graph)
    return {"g": g, "x": sample_of(options), "dt": options.dt, "feedback": options.feedback}


def studied(
    options: argparse.Namespace,
    study: Callable[..., Any],
    settings: Layout,
    load: Callable[..., Any],
    left: Callable[[], str],
    **more: Any,
) -> Any:
    """Return what a study of a graph on chips comes to.

    Args:
        options: What was typed.
        study: What is done, such as ``experiments.tuning.tune``.
        settings: What it takes besides graph, data and chip.
        load: Loads the data for the ports of the graph, such as ``data_files.load_tuning``.
        left: Says, where it is stopped, what is left.
        more: What else ``study`` takes.
    """
    from snu_plugin import graph
    from snu_plugin.experiments.runs import Running

    files = {"graph": options.graph, "data": options.data, "teacher": options.teacher}
    g = graph.read(options.graph)
    by = _judging_of(options)

    def data(*ports: tuple[int, ...]) -> Any:
        return load(options.data, *ports, verify=not options.no_verify, by=by)

    with followed(left) as progress:
        running = Running(
            jobs=options.jobs,
            scheduler=options.scheduler,
            inputs={name: file for name, file in files.items() if file is not None},
            resume=options.resume,
            progress=progress,
        )
        return study(g, data, chip_of(options), settings, options.out, running=running, **more)


SHORTEST = 16
"""Columns that a line of an answer takes at least."""


def say(options: argparse.Namespace, record: Any, text: object) -> None:
    """Print an answer: as JSON where that is asked for, else as text that a terminal can hold."""
    if options.json:
        print(json.dumps(record, indent=1))
    elif sys.stdout.isatty():
        print(broken(str(text), shutil.get_terminal_size().columns))
    else:
        print(text)


def broken(text: str, columns: int) -> str:
    r"""Return a text whose sentences go on below, between two words, where a terminal ends.

    >>> print(broken("so it is\n  two words and two more", columns=16))
    so it is
      two words and
        two more
    """
    lines = []
    for line in text.splitlines():
        inside = " " * (len(line) - len(line.lstrip()) + 2)
        lines += textwrap.wrap(
            line, max(columns, SHORTEST), subsequent_indent=inside, break_long_words=False,
            break_on_hyphens=False,
        ) or [""]  # fmt: skip
    return "\n".join(lines)


@contextmanager
def followed(left: Callable[[], str]) -> Iterator[Say]:
    """Show how far a command is; where it is stopped, ``main`` says what is ``left``."""
    from snu_plugin.experiments.runs import Progress

    with Progress() as progress:
        try:
            with signals_as_themselves():
                yield progress
        except KeyboardInterrupt as error:
            raise stopped(left(), error) from error
