"""``snu demo``: the whole way on Bach chorales."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snu_plugin.commands.answers import followed, say
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import add
from snu_plugin.usage import path


def arguments(command: argparse.ArgumentParser) -> None:
    add(command, "--out", help="folder for the report (snu-demo)", default=Path("snu-demo"))
    command.add_argument("--data", type=path, help="JSB_Chorales.mat; default: music21's chorales")
    command.add_argument("--epochs", type=int, default=None, help="epochs of training (70)")
    add(command, "--seed", help="seed of training and chip (0)")
    add(command, "--no-verify", "--resume")
    add(command, "--json", help="print JSON: report.json")


def run(options: argparse.Namespace) -> int:
    from snu_plugin.experiments.demo import EPOCHS, checkpoints_of, demo
    from snu_plugin.experiments.resuming import left_in

    epochs = EPOCHS if options.epochs is None else options.epochs
    about = {"data": options.data, "epochs": epochs, "seed": options.seed}
    about["verify"] = not options.no_verify
    with followed(lambda: left_in(checkpoints_of(options.out))) as progress:
        record = demo(options.out, **about, resume=options.resume, progress=progress)
    say(options, record, f"{_text(record)}\nreport: {options.out / 'report.html'}")
    return 0


def _text(record: Mapping[str, Any]) -> str:
    """Return the likelihoods as a terminal shows them."""
    from snu_plugin.report.page import SAID

    nll = record["nll"]
    lines = [
        f"data {record['data']['name']}, {record['devices']:,} devices, seed {record['seed']}",
        f"float {nll['float']:.3f}  nir {nll['nir']:.3f}  ideal chip {nll['ideal_chip']:.3f}",
        f"{'':12}" + "".join(f"{age:>9}" for age in nll["programmed"]),
    ]
    for case in ("programmed", "compensated", "tuned"):
        lines.append(f"{SAID[case]:12}" + "".join(f"{value:9.3f}" for value in nll[case].values()))
    return "\n".join([*lines, f"verified: {', '.join(map(' '.join, record['verify'].items()))}"])


COMMAND = Command(
    "demo", "the whole way on Bach chorales, with a report", "--out out", arguments, run
)
