"""``snu doctor``: what ails a network, or the installation."""

from __future__ import annotations

import argparse
from typing import Any

from snu_plugin.commands.answers import say
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import add, chip_of


def arguments(command: argparse.ArgumentParser) -> None:
    add(command, "graph", help="a .nir file; default: what is here", nargs="?")
    add(
        command, "data", nargs="?",
        help="inputs, as snu verify takes them; default: seeded spikes that make every layer fire, "
        "as far as any do",
    )  # fmt: skip
    command.add_argument("--chip", help="a preset, or a TOML file: converters that saturate on it")
    add(command, "--dt", "--feedback", "--json")


def run(options: argparse.Namespace) -> int:
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


COMMAND = Command(
    "doctor",
    "why a network is silent, saturated or does not learn",
    "net.nir test.npz --chip PCM",
    arguments,
    run,
)
