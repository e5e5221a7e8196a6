"""What is measured: ``snu reproduce``, ``snu bench``."""

from __future__ import annotations

import argparse
from pathlib import Path

from snu_plugin.commands.shared import Command, add, chip_of, followed, say
from snu_plugin.usage import path


def _reproduce_arguments(command: argparse.ArgumentParser) -> None:
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


def _reproduce(options: argparse.Namespace) -> int:
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


REPRODUCE = Command(
    "reproduce",
    "a row of the published tables",
    "jsb --data JSB_Chorales.mat --seeds 0,1",
    _reproduce_arguments,
    _reproduce,
)


def _bench_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", choices=("neuron", "simulators", "chip"), help="what is timed")
    add(command, "graph", help="simulators: a .nir file; an example", nargs="?")
    told = "simulators: .npy, or .npz with x, (T, B, ...); default: seeded spikes"
    add(command, "data", help=told, nargs="?")
    command.add_argument("--seconds", type=float, default=10.0, help="time for each workload (10)")
    command.add_argument(
        "--threads", type=int, help="of torch; default: neuron 1 and all, else own"
    )
    command.add_argument("--only", help="neuron: parts of names, separated by commas; default: all")
    command.add_argument(
        "--parts",
        help="neuron: layers, spikes, growth, apart (all); chip: layers, devices, tuning, growth",
    )
    command.add_argument(
        "--compiled", action="store_true", help="neuron: torch.compile too, minutes"
    )
    command.add_argument(
        "--device", default="cpu", help="cpu or cuda: neuron there at 16 x the batch, or chip (cpu)"
    )
    add(command, "--out", help="neuron: folder for neuron.json, .md, growth.png")
    add(command, "--json")


USED_BY = {
    "graph": ("simulators",),
    "data": ("simulators",),
    "only": ("neuron",),
    "compiled": ("neuron",),
    "out": ("neuron",),
    "threads": ("neuron", "simulators"),
    "parts": ("neuron", "chip"),
    "device": ("neuron", "chip"),
}
"""What each option says something of."""


def _check_used(options: argparse.Namespace) -> None:
    """Refuse what would be passed over without a word; a chip runs on one thread anyway."""
    for name, takers in USED_BY.items():
        given = getattr(options, name)
        unsaid = given in (None, False, "cpu") or (name, given) == ("threads", 1)
        if options.what not in takers and not unsaid:
            told = f"{given}" if name in ("graph", "data") else f"--{name}"
            who = " and ".join(f"snu bench {taker}" for taker in takers)
            raise ValueError(f"{told} is given; that is for {who}, leave it out")


def _bench(options: argparse.Namespace) -> int:
    from snu_plugin import graph
    from snu_plugin.bench import chip, neuron, simulators
    from snu_plugin.experiments import pictures
    from snu_plugin.experiments.runs import Progress

    _check_used(options)
    parts = {} if options.parts is None else {"parts": options.parts.split(",")}
    if options.what == "neuron":
        if options.out is not None:
            pictures.check_folder(options.out)
        with Progress() as progress:
            answer = neuron.run(
                options.seconds,
                threads=options.threads,
                only=options.only.split(",") if options.only else (),
                **parts,
                compiled=options.compiled,
                device=options.device,
                progress=progress,
            )
        text = neuron.text(answer)
        if options.out is not None:
            pictures.of_timings(options.out, answer, text)
    elif options.what == "simulators":
        answer = simulators.run(
            None if options.graph is None else graph.read(options.graph),
            None if options.data is None else simulators.data(options.data),
            seconds=options.seconds,
            threads=options.threads,
        )
        text = simulators.text(answer)
    else:
        answer = chip.run(
            options.seconds,
            device=options.device,
            **parts,
        )
        text = chip.text(answer)
    say(options, answer, text)
    return 0


BENCH = Command(
    "bench", "side-by-side timings in one run", "neuron --seconds 2", _bench_arguments, _bench
)
