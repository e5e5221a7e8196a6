"""``snu run``: the score of a graph as chips age."""

from __future__ import annotations

import argparse

from snu_plugin.commands.answers import followed, say
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import (
    SCORING,
    add,
    chip_of,
    data_of,
    inputs_of,
    layout_of,
    sample_of,
    shown_of,
)


def arguments(command: argparse.ArgumentParser) -> None:
    add(command, "graph", help="a .nir file: one Input, one Output")
    add(
        command, "data",
        help="JSB_Chorales.mat (likelihood of its test pieces), or an .npz with x (T, N, ...), "
        "time first, and labels (N,) (accuracy: the output with the largest sum over time)",
    )  # fmt: skip
    add(command, "--chip")
    command.add_argument(
        "--at", default="1h,1d,30d,1y", help="times since programming (1h,1d,30d,1y)"
    )
    command.add_argument("--chips", type=int, default=10, help="chips; the number is the seed (10)")
    command.add_argument("--reads", type=int, default=5, help="runs on each chip at each time (5)")
    add(command, "--jobs", "--scheduler", *SCORING)
    add(command, "--out", help="FILE.json, FILE.csv, or a folder for both and score.png")
    add(command, "--report")
    command.add_argument(
        "--tuned",
        action="store_true",
        help="tune a copy of every chip at every age as well; DATA as for snu tune",
    )
    add(command, "--resume")
    add(command, "--json", help="print JSON, as --out FILE.json holds it")


def run(options: argparse.Namespace) -> int:
    from snu_plugin import graph
    from snu_plugin.experiments import ageing
    from snu_plugin.experiments.data_files import load_scored, load_tuning
    from snu_plugin.experiments.layout import Layout
    from snu_plugin.experiments.resuming import left_in
    from snu_plugin.experiments.settings import ages

    g = graph.read(options.graph)
    kept = None if options.out is None else ageing.checkpoints_of(options.out)
    with followed(lambda: left_in(kept)) as progress:
        record, scores = ageing.run(
            g,
            data_of(options, load_tuning if options.tuned else load_scored),
            chip_of(options),
            at=ages(options.at),
            chips=options.chips,
            sample=lambda: sample_of(options),
            reads=options.reads,
            jobs=options.jobs,
            scheduler=options.scheduler,
            layout=Layout(**layout_of(options)),
            out=options.out,
            inputs=inputs_of(options),
            resume=options.resume,
            progress=progress,
        )
    whole = ageing.whole(record, scores)
    say(options, whole, ageing.text(record))
    if options.report is not None:
        from snu_plugin.experiments import reports

        shown = shown_of(options, g)
        reports.of_run(options.report, record, scores, command=options.again, **shown)
    return 0


COMMAND = Command(
    "run",
    "the score of a graph as chips age",
    "net.nir test.npz --at 1h,30d --out scores",
    arguments,
    run,
)
