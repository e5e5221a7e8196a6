"""``snu tune``: a graph tuned with the chip in the loop, or all ways to tune it compared."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from snu_plugin.commands.shared import (
    SCORING,
    SHARED,
    Command,
    add,
    layout_of,
    say,
    shown_of,
    studied,
)


def arguments(command: argparse.ArgumentParser) -> None:
    add(command, "graph", help="a .nir file, one Input and Output")
    add(
        command, "data",
        help="JSB_Chorales.mat, or an .npz with train_x and train_labels to learn from, valid_x "
        "and valid_labels to choose by, x and labels to judge on, each as snu run takes them; x "
        "and labels alone are divided by the seed",
    )  # fmt: skip
    add(command, "--chip")
    command.add_argument(
        "--rule",
        default="digital",
        help="what changes the recalibrated chip: names with their number, separated by commas, "
        "an update rule last. recalibrate: gains; rewrite[:WORST]: write weights again, all or the "
        "worst share; adapter[:RANK], adapters[:RANK]: digital, low rank, at the read-out or "
        "everywhere; correct[:RANK]: such that add what read-back weights lack, no labels; then "
        "digital: gains, biases, thresholds, no pulse; mixed[:LR]: add up gradients, pulse where "
        "they agree; pulses[:LEAST]: by their sign; stochastic[:LR]; thinned[:SHARE]; "
        "verify[:LR]: follow digital copies of the weights (digital)",
    )
    command.add_argument(
        "--lr",
        type=float,
        help="number of the update rule: weight per gradient (mixed 3, verify and stochastic 0.1); "
        "least gradient of a pulse (pulses 0.03)",
    )
    command.add_argument(
        "--digital-lr",
        type=float,
        help="first step of gains, biases and thresholds, in shares of their size (chosen by "
        "trial)",
    )
    command.add_argument("--epochs", type=int, default=8, help="passes over the data (8)")
    command.add_argument("--at", default="1d", help="time from programming to tuning (1d)")
    add(command, "--seed", help="of the chip and the order (0)")
    command.add_argument(
        "--others",
        type=int,
        default=0,
        help="chips of the seeds behind it that are given what this one learned, and judged (0)",
    )
    add(command, *SCORING)
    told = "FILE.nir (beside it FILE.chip.npz, FILE.json), or a folder, which gets pictures too"
    add(command, "--out", help=f"{told} (tuned.nir)", default=Path("tuned.nir"))
    add(command, "--report", "--resume")
    command.add_argument(
        "--compare",
        action="store_true",
        help="every way to change a chip on the same aged chips, in one table with its costs, and "
        "FILE.compare.json or compare.json in the folder; takes --at, --epochs and what says so",
    )
    add(command, "--json", help="print JSON, as FILE.json holds it")
    command.add_argument("--chips", type=int, default=3, help="compare: the number is the seed (3)")
    command.add_argument(
        "--ways",
        help="compare: names, separated by commas, besides recalibrated and rewritten; all",
    )
    for name in ("--jobs", "--scheduler"):
        add(command, name, help=f"compare: {SHARED[name]['help']}")


def run(options: argparse.Namespace) -> int:
    from snu_plugin.experiments import tuning
    from snu_plugin.experiments.data_files import load_tuning
    from snu_plugin.experiments.settings import one_age

    if options.compare:
        return _compare(options)
    for name, unsaid in (("ways", None), ("chips", 3), ("scheduler", None)):
        if getattr(options, name) != unsaid:
            raise ValueError(
                f"--{name} is given; that is for --compare, give it too or leave it out"
            )
    settings = tuning.TuneSettings(
        rule=options.rule,
        lr=options.lr,
        digital_lr=options.digital_lr,
        passes=options.epochs,
        age_s=one_age(options.at),
        seed=options.seed,
        others=options.others,
        **layout_of(options),
    )
    load = partial(load_tuning, seed=options.seed)
    record = studied(
        options, tuning.tune, settings, load,
        lambda: _left_at(tuning.places(options.out).checkpoint, "pass"),
    )  # fmt: skip
    tuned = tuning.places(options.out).graph
    say(options, record, f"{tuning.text(record)}\ntuned graph: {tuned}")
    if options.report is not None:
        from snu_plugin.experiments import reports

        reports.of_tune(options.report, record, command=options.again, **shown_of(options))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from snu_plugin.experiments import compare
    from snu_plugin.experiments.data_files import load_tuning
    from snu_plugin.experiments.settings import one_age

    named = compare.WAYS if options.ways is None else map(str.strip, options.ways.split(","))
    settings = compare.CompareSettings(
        chips=options.chips,
        passes=options.epochs,
        age_s=one_age(options.at),
        ways=tuple(named),
        seed=options.seed,
        **layout_of(options),
    )
    load = partial(load_tuning, seed=options.seed)
    record = studied(
        options, compare.compare, settings, load,
        lambda: _left_at(compare.places(options.out)[1], "chip"),
    )  # fmt: skip
    say(options, record, compare.text(record))
    if options.report is not None:
        from snu_plugin.experiments import reports

        reports.of_compare(options.report, record, command=options.again)
    return 0


def _left_at(checkpoint: Path, what: str) -> str:
    kept = checkpoint.exists()
    return f"--resume goes on after the last whole {what}" if kept else "nothing was kept"


TUNE = Command(
    "tune",
    "tune a graph on a chip, with the chip in the loop",
    "net.nir data.npz --at 30d --out tuned.nir",
    arguments,
    run,
)
