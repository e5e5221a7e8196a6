"""``snu map``: a graph laid out on a chip."""

from __future__ import annotations

import argparse

from snu_plugin.commands.answers import say
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import LAYOUT, add, chip_of, layout_of


def arguments(command: argparse.ArgumentParser) -> None:
    add(command, "graph")
    add(
        command, "data", nargs="?",
        help="inputs that set the ranges of the converters and drive the rows, as snu tune takes "
        "them (train_x, or x without labels); default: the ranges of the chip",
    )  # fmt: skip
    add(command, "--chip", *LAYOUT)
    command.add_argument(
        "--activity",
        type=float,
        help="share of rows driven; default: as DATA drives them, without them 0.1",
    )
    command.add_argument(
        "--steps", type=int, help="steps of an inference; default: those of DATA, without them 100"
    )
    add(command, "--out", help="folder for plan.json, tiles.png and energy.png")
    add(command, "--report", "--json")


def run(options: argparse.Namespace) -> int:
    from snu_plugin import graph
    from snu_plugin.compiler import plan
    from snu_plugin.experiments import pictures
    from snu_plugin.experiments.data_files import load_sample
    from snu_plugin.experiments.settings import write_json

    if options.out is not None:
        pictures.check_folder(options.out)
    found = plan(
        graph.read(options.graph),
        chip_of(options),
        **layout_of(options),
        activity=options.activity,
        steps=options.steps,
        sample=None if options.data is None else load_sample(options.data, verify=False),
    )
    answer = found.to_dict()
    if options.out is not None:
        write_json(pictures.folder(options.out) / "plan.json", answer)
        if found.program is not None:
            pictures.of_program(options.out, found.program, answer)
    if options.report is not None:
        from snu_plugin.experiments import reports

        reports.of_map(options.report, answer, found.program, command=options.again)
    say(options, answer, found)
    return 0 if found.fits else 1


COMMAND = Command(
    "map",
    "lay a graph out on a chip: does it fit?",
    "net.nir train.npz --chip PCM --out plan",
    arguments,
    run,
)
