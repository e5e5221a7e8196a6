"""A network on chips: ``snu map``, ``snu run``, ``snu life``."""

from __future__ import annotations

import argparse
from pathlib import Path

from snu_plugin.accepted import POSITIVE
from snu_plugin.commands.shared import (
    LAYOUT,
    SCORING,
    Command,
    add,
    chip_of,
    layout_of,
    sample_of,
    say,
    shown_of,
    studied,
)


def _map_arguments(command: argparse.ArgumentParser) -> None:
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


def _map(options: argparse.Namespace) -> int:
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


MAP = Command(
    "map",
    "lay a graph out on a chip: does it fit?",
    "net.nir train.npz --chip PCM --out plan",
    _map_arguments,
    _map,
)


def _run_arguments(command: argparse.ArgumentParser) -> None:
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


def _run(options: argparse.Namespace) -> int:
    from snu_plugin.experiments import ageing
    from snu_plugin.experiments.data_files import load_scored, load_tuning
    from snu_plugin.experiments.runs import left_in
    from snu_plugin.experiments.settings import ages

    settings = ageing.RunSettings(
        at=ages(options.at), chips=options.chips, reads=options.reads, **layout_of(options)
    )
    load = load_tuning if options.tuned else load_scored
    kept = None if options.out is None else ageing.checkpoints_of(options.out)
    record, scores = studied(
        options, ageing.run, settings, load, lambda: left_in(kept),
        sample=lambda: sample_of(options),
    )  # fmt: skip
    whole = ageing.whole(record, scores)
    say(options, whole, ageing.text(record))
    if options.report is not None:
        from snu_plugin.experiments import reports

        shown = shown_of(options)
        reports.of_run(options.report, record, scores, command=options.again, **shown)
    return 0


RUN = Command(
    "run",
    "the score of a graph as chips age",
    "net.nir test.npz --at 1h,30d --out scores",
    _run_arguments,
    _run,
)


def _life_arguments(command: argparse.ArgumentParser) -> None:
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


def _life(options: argparse.Namespace) -> int:
    from snu_plugin.experiments import life, lives
    from snu_plugin.experiments.data_files import load_scored, load_tuning
    from snu_plugin.experiments.runs import left_in
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
    load = load_tuning if settings.tunes else load_scored
    record = studied(
        options, life.life, settings, load, lambda: left_in(options.out / "life.checkpoints"),
        sample=lambda: sample_of(options),
    )  # fmt: skip
    picture = options.out / "life.png"
    left = f"record: {options.out / 'life.json'}\npicture: {picture}"
    say(options, record, f"{life.text(record)}\n{left}")
    if options.report is not None:
        from snu_plugin.experiments import reports

        reports.of_life(options.report, record, picture, command=options.again)
    return 0


LIFE = Command(
    "life",
    "the score over years of use, and what upkeep costs",
    "net.nir test.npz --for 2y --every 30d --do none,calibrate",
    _life_arguments,
    _life,
)
