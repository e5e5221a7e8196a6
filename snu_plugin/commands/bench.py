"""``snu bench``: timings side by side."""

from __future__ import annotations

import argparse

from snu_plugin.commands.answers import say
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import add


def arguments(command: argparse.ArgumentParser) -> None:
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


def run(options: argparse.Namespace) -> int:
    from snu_plugin import graph
    from snu_plugin.bench import chip, neuron, simulators
    from snu_plugin.experiments import pictures
    from snu_plugin.experiments.progress import Progress

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


COMMAND = Command("bench", "side-by-side timings in one run", "neuron --seconds 2", arguments, run)
