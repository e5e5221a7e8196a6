"""``snu verify``: a graph in every simulator."""

from __future__ import annotations

import argparse
from typing import Any

from snu_plugin.commands.answers import say
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import add
from snu_plugin.usage import path


def arguments(command: argparse.ArgumentParser) -> None:
    add(command, "graph")
    add(
        command, "data", nargs="?",
        help="inputs, as snu run takes them: an .npz with x (T, N, ...), time first (labels are "
        "not needed; of several Inputs an array with the name of each), or JSB_Chorales.mat; or a "
        ".nir of data, as nir.write_data makes it; default: seeded spikes, scaled until the graph "
        "fires",
    )  # fmt: skip
    command.add_argument("--simulators", help="names, separated by commas; default: all found")
    add(command, "--dt", "--feedback", "--json", "--report")
    command.add_argument("--picture", type=path, help="PNG for the first divergence, if there is")


def run(options: argparse.Namespace) -> int:
    from snu_plugin import files, graph
    from snu_plugin.experiments.data_files import as_inputs, load_by_name, load_inputs
    from snu_plugin.experiments.progress import Progress

    names = None if options.simulators is None else options.simulators.split(",")
    picture = options.picture
    if picture is not None:
        files.check_file("--picture", picture)
        if picture.suffix.lower() != ".png":
            raise ValueError(f"--picture is {picture}; give a file that ends in .png")
    g = graph.read(options.graph)
    inputs = [name for name, node in g.nodes.items() if type(node).__name__ == "Input"]
    several = len(inputs) > 1 and options.data is not None and options.data.suffix != ".nir"
    x: Any = None
    if options.data is not None:
        x = load_by_name(options.data, inputs) if several else load_inputs(options.data)
    how = {"dt": options.dt, "feedback": options.feedback}
    with Progress() as progress:
        report = graph.verify(g, x, names, **how, progress=progress)
    say(options, report.to_dict(), report)
    if options.report is not None:
        from snu_plugin.experiments import reports

        x = None if x is None else as_inputs(g, x, options.dt, options.feedback)
        reports.of_verify(options.report, report, g, x, command=options.again, **how)
    if picture is not None and (found := report.divergence()) is not None:
        from snu_plugin.report.plots import divergence

        name = f"{found.simulator}, {found.importer} importer"
        places = {"begin": found.begin, "step": found.step}
        divergence(picture, found.expected, found.outputs, **places, name=name)
    return 0 if report.exact else 1


COMMAND = Command(
    "verify",
    "run a graph in every installed simulator",
    "net.nir test.npz --simulators snntorch,norse",
    arguments,
    run,
)
