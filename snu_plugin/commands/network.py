"""A network by itself: ``snu verify``, ``snu doctor``."""

from __future__ import annotations

import argparse
from typing import Any

from snu_plugin.commands.shared import Command, add, chip_of, say
from snu_plugin.usage import path


def _verify_arguments(command: argparse.ArgumentParser) -> None:
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


def _verify(options: argparse.Namespace) -> int:
    from snu_plugin import files, graph
    from snu_plugin.experiments.data_files import as_inputs, load_by_name, load_inputs
    from snu_plugin.experiments.runs import Progress

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
    if picture is not None:
        from snu_plugin.experiments.report_parts import divergence

        divergence(picture, report)
    return 0 if report.exact else 1


VERIFY = Command(
    "verify",
    "run a graph in every installed simulator",
    "net.nir test.npz --simulators snntorch,norse",
    _verify_arguments,
    _verify,
)


def _doctor_arguments(command: argparse.ArgumentParser) -> None:
    add(command, "graph", help="a .nir file; default: what is here", nargs="?")
    add(
        command, "data", nargs="?",
        help="inputs, as snu verify takes them; default: seeded spikes that make every layer fire, "
        "as far as any do",
    )  # fmt: skip
    command.add_argument("--chip", help="a preset, or a TOML file: converters that saturate on it")
    add(command, "--dt", "--feedback", "--json")


def _doctor(options: argparse.Namespace) -> int:
    from snu_plugin.experiments import doctor

    if options.graph is None:
        answer: Any = doctor.installation()
        ill, text = bool(answer["findings"]), doctor.text(answer)
    else:
        from snu_plugin.experiments.data_files import load_inputs

        found = doctor.network(
            options.graph,
            None if options.data is None else load_inputs(options.data),
            None if options.chip is None else chip_of(options),
            dt=options.dt,
            feedback=options.feedback,
        )
        answer, ill, text = found.to_dict(), bool(found), str(found)
    say(options, answer, text)
    return 1 if ill else 0


DOCTOR = Command(
    "doctor",
    "why a network is silent, saturated or does not learn",
    "net.nir test.npz --chip PCM",
    _doctor_arguments,
    _doctor,
)
