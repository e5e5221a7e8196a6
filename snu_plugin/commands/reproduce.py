"""``snu reproduce``: a row of the published tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from snu_plugin.commands.answers import followed, say
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import add, chip_of
from snu_plugin.usage import path


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("task", metavar="TASK", help="jsb, mnist, fashion, nmnist or ptb")
    command.add_argument(
        "--unit",
        default="snu",
        help="snu, ssnu, rnn, lstm, gru; digits: src, relu too; nmnist: src too (snu)",
    )
    command.add_argument(
        "--recipe",
        help="jsb: plain, skip, deep, toolkit, recurrent, online; digits: toolkit, src, src-deep, "
        "src-distorted, quick, deep, distorted, conv, conv-wide, perceptron, single, "
        "inhibited-sample, inhibited-batch; nmnist: plain, src-deep; ptb: adam, small, tied",
    )
    command.add_argument("--optimizer", help="sgd, adam or grapes; default: the recipe's")
    command.add_argument("--lr", type=float, help="learning rate; default: the recipe's")
    command.add_argument("--epochs", type=int, help="passes over the data; default: the recipe's")
    command.add_argument(
        "--hardware-aware",
        action="store_true",
        help="train as chips run it (snu, ssnu): PCM, another chip for every batch, noise that "
        "rises over the first third, converters with the ranges of the data",
    )
    command.add_argument("--seeds", default="0", help="whole numbers, separated by commas (0)")
    command.add_argument(
        "--bits", help="score trained networks with weights of so many bits too, such as 2,3,4,6,8"
    )
    command.add_argument(
        "--chip", help="follow them on a chip too (snu, ssnu): a preset, or a TOML file"
    )
    command.add_argument("--data", type=path, required=True, help="file or folder of the data")
    add(command, "--no-verify", help="allow data of other checksums")
    record = "folder for the record (snu-reproduce)"
    add(command, "--out", help=record, default=Path("snu-reproduce"))
    add(command, "--resume", "--json")


def run(options: argparse.Namespace) -> int:
    from snu_plugin.experiments.paper.records import text
    from snu_plugin.experiments.paper.reproduce import recipe, reproduce
    from snu_plugin.experiments.paper.studies import Study

    seeds = _numbers("seeds", options.seeds)
    study = Study(
        bits=() if options.bits is None else _numbers("bits", options.bits),
        chip=None if options.chip is None else chip_of(options),
    )
    chosen = recipe(
        options.task,
        options.unit,
        options.recipe,
        optimizer=options.optimizer,
        lr=options.lr,
        epochs=options.epochs,
        hardware_aware=options.hardware_aware,
    )
    with followed(lambda: "--resume goes on after the last whole epoch") as progress:
        record = reproduce(
            options.task,
            chosen,
            data=options.data,
            seeds=seeds,
            out=options.out,
            resume=options.resume,
            verify=not options.no_verify,
            study=study,
            progress=progress,
        )
    say(options, record, text(record))
    return 0


def _numbers(name: str, text: str) -> tuple[int, ...]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise ValueError(f"{name} are {text!r}; give whole numbers, separated by commas")
    return tuple(int(part) for part in text.split(","))


COMMAND = Command(
    "reproduce",
    "a row of the published tables",
    "jsb --data JSB_Chorales.mat --seeds 0,1",
    arguments,
    run,
)
