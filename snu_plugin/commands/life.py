"""``snu life``: the score over years of use."""

from __future__ import annotations

import argparse
from pathlib import Path

from snu_plugin.accepted import POSITIVE
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
)


def arguments(command: argparse.ArgumentParser) -> None:
    add(command, "graph", help="a .nir file, one Input and Output")
    add(command, "data", help="as for snu run; to tune, as for snu tune")
    add(command, "--chip")
    command.add_argument("--for", dest="length", default="2y", help="how long chips are used (2y)")
    command.add_argument("--every", default="30d", help="from one visit to the next (30d)")
    command.add_argument(
        "--when",
        type=float,
        metavar="SHARE",
        help="look after a chip only at visits that find its products off by so much more than "
        "when it was last looked after, such as 0.05; default: at every visit",
    )
    command.add_argument(
        "--do",
        default="none,calibrate,tune,rewrite",
        help="what is done to a chip, each in a life of its own, separated by commas: none; "
        "calibrate: gains fitted anew, no labels; tune: recalibrated and tuned in the loop; "
        "rewrite: all weights written again; or names as for snu tune --rule, joined by +, with "
        "the period of those before it: calibrate@30d+adapter:8+digital@1y "
        "(none,calibrate,tune,rewrite)",
    )
    command.add_argument(
        "--chips", type=int, default=3, help="chips; each has a seed of its own (3)"
    )
    command.add_argument(
        "--reads", type=int, default=3, help="runs that a score is the mean of (3)"
    )
    add(command, "--seed", help="of the first chip; others count on (0)")
    add(command, "--jobs", "--scheduler", *SCORING)
    folder = "folder for life.json and life.png, made if missing (snu-life)"
    add(command, "--out", help=folder, default=Path("snu-life"))
    add(command, "--report", "--resume", "--json")


def run(options: argparse.Namespace) -> int:
    from snu_plugin import graph
    from snu_plugin.experiments import life, life_record, lives
    from snu_plugin.experiments.data_files import load_scored, load_tuning
    from snu_plugin.experiments.resuming import left_in
    from snu_plugin.experiments.settings import one_age
    from snu_plugin.hil import Every, WhenWorse

    every = one_age(options.every, "every")
    POSITIVE.check("every", every)
    if options.when is not None:
        POSITIVE.check("when", options.when)
    policies = tuple(part.strip() for part in options.do.split(","))
    settings = lives.LifeSettings(
        seconds=one_age(options.length, "for"),
        schedule=Every(every) if options.when is None else WhenWorse(options.when, every),
        do=policies,
        chips=options.chips,
        reads=options.reads,
        seed=options.seed,
        **layout_of(options),
    )
    with followed(lambda: left_in(options.out / "life.checkpoints")) as progress:
        record = life.life(
            graph.read(options.graph),
            data_of(options, load_tuning if settings.tunes else load_scored),
            chip_of(options),
            settings,
            options.out,
            sample=lambda: sample_of(options),
            inputs=inputs_of(options),
            jobs=options.jobs,
            scheduler=options.scheduler,
            resume=options.resume,
            progress=progress,
        )
    picture = options.out / "life.png"
    left = f"record: {options.out / 'life.json'}\npicture: {picture}"
    say(options, record, f"{life_record.text(record)}\n{left}")
    if options.report is not None:
        from snu_plugin.experiments import reports

        reports.of_life(options.report, record, picture, command=options.again)
    return 0


COMMAND = Command(
    "life",
    "the score over years of use, and what upkeep costs",
    "net.nir test.npz --for 2y --every 30d --do none,calibrate",
    arguments,
    run,
)
