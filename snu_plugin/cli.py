"""The command ``snu``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import snu_plugin

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``snu``; returns the exit status: 0, 1 for a negative verdict, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        return _fail(options.command, "interrupted; what was written so far is whole", 130)
    except BrokenPipeError:
        # The reader of a pipe has enough; nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, LookupError, ImportError) as error:
        return _fail(options.command, _one_line(error), BAD_INPUT)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="snu",
        description="Spiking Neural Units for snnTorch and Norse, exchanged through NIR, "
        "mapped onto phase-change memory.",
    )
    parser.add_argument("--version", action="version", version=f"snu {snu_plugin.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = _command(commands, "demo", _demo, "the whole way on Bach chorales, with a report")
    demo.add_argument("--out", type=Path, default=Path("snu-demo"), help="folder for the report")
    demo.add_argument("--data", type=Path, help="JSB_Chorales.mat; default: music21's chorales")
    demo.add_argument("--epochs", type=int, default=None, help="epochs of training (70)")
    demo.add_argument("--seed", type=int, default=0, help="seed of training and chip (0)")

    verify = _command(commands, "verify", _verify, "run a graph in every installed simulator")
    verify.add_argument("graph", type=Path, metavar="GRAPH", help="a .nir file")
    verify.add_argument("--simulators", help="names, separated by commas; default: all found")
    verify.add_argument("--dt", type=float, help="time step; default: the one of the graph")
    verify.add_argument("--json", action="store_true", help="print JSON")
    verify.add_argument("--picture", type=Path, help="PNG for the first divergence, if there is")

    place = _command(commands, "map", _map, "lay a graph out on a chip: does it fit?")
    place.add_argument("graph", type=Path, metavar="GRAPH", help="a .nir file")
    place.add_argument("--chip", default="PCM", help="a preset, or a TOML file (PCM)")
    place.add_argument("--dt", type=float, help="time step; default: the one of the graph")
    place.add_argument("--activity", type=float, default=0.1, help="share of rows driven (0.1)")
    place.add_argument("--json", action="store_true", help="print JSON")

    age = _command(commands, "run", _run, "the score of a graph as chips age")
    age.add_argument("graph", type=Path, metavar="GRAPH", help="a .nir file: one Input, one Output")
    age.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="JSB_Chorales.mat (likelihood of its test pieces), or an .npz with x (T, N, ...), "
        "time first, and labels (N,) (accuracy: the output with the largest sum over time)",
    )
    age.add_argument("--chip", default="PCM", help="a preset, or a TOML file (PCM)")
    age.add_argument("--at", default="1h,1d,30d,1y", help="times since programming (1h,1d,30d,1y)")
    age.add_argument("--chips", type=int, default=10, help="chips; the number is the seed (10)")
    age.add_argument("--reads", type=int, default=5, help="runs on each chip at each time (5)")
    age.add_argument("--jobs", type=int, default=1, help="processes; -1: one per core (1)")
    age.add_argument("--dt", type=float, help="time step; default: the one of the graph")
    age.add_argument("--no-verify", action="store_true", help="allow a .mat of another checksum")
    age.add_argument("--out", type=Path, help="FILE.json (statistics, scores) or FILE.csv (scores)")

    paper = _command(commands, "reproduce", _reproduce, "a row of the published tables")
    paper.add_argument("task", metavar="TASK", help="jsb, mnist or fashion")
    paper.add_argument("--unit", default="snu", help="snu, ssnu, rnn, lstm, gru, src (snu)")
    paper.add_argument("--optimizer", help="sgd, adam or grapes; default: the recipe's")
    paper.add_argument("--lr", type=float, help="learning rate; default: the recipe's")
    paper.add_argument("--epochs", type=int, help="passes over the data; default: the recipe's")
    paper.add_argument("--seeds", default="0", help="whole numbers, separated by commas (0)")
    paper.add_argument("--data", type=Path, required=True, help="file or folder of the data")
    paper.add_argument("--no-verify", action="store_true", help="allow data of other checksums")
    paper.add_argument("--out", type=Path, default=Path("snu-reproduce"), help="for the record")
    paper.add_argument("--resume", action="store_true", help="go on where a run was interrupted")

    bench = _command(commands, "bench", _bench, "side-by-side timings in one run")
    bench.add_argument("what", choices=("neuron", "chip"), help="what is timed")
    bench.add_argument("--seconds", type=float, default=10.0, help="time for each workload (10)")
    bench.add_argument("--threads", type=int, help="threads of torch, neuron only; default: all")
    bench.add_argument("--json", action="store_true", help="print JSON")

    info = _command(commands, "info", _info, "versions, implementations, simulators, chips")
    info.add_argument("--chip", help="a preset or a TOML file: what its settings mean")
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


def _demo(options: argparse.Namespace) -> int:
    from snu_plugin.experiments.demo import EPOCHS, demo
    from snu_plugin.experiments.progress import Progress

    epochs = EPOCHS if options.epochs is None else options.epochs
    with Progress() as say:
        record = demo(options.out, data=options.data, epochs=epochs, seed=options.seed, say=say)
    nll = record["nll"]
    print(f"data {record['data']['name']}, {record['devices']:,} devices, seed {record['seed']}")
    print(f"float {nll['float']:.3f}  nir {nll['nir']:.3f}  ideal chip {nll['ideal_chip']:.3f}")
    print(f"{'':12}" + "".join(f"{age:>9}" for age in nll["programmed"]))
    for case in ("programmed", "compensated", "tuned"):
        print(f"{case:12}" + "".join(f"{value:9.3f}" for value in nll[case].values()))
    print(f"verified: {', '.join(f'{k} {v}' for k, v in record['verify'].items())}")
    print(f"report: {options.out / 'report.html'}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from snu_plugin import graph

    names = None if options.simulators is None else options.simulators.split(",")
    g = graph.read(options.graph)
    report = graph.verify(g, simulators=names, dt=options.dt)
    print(json.dumps(report.to_dict(), indent=1) if options.json else report)
    if options.picture is not None and (found := report.divergence()) is not None:
        from snu_plugin.report.divergence import divergence

        name = f"{found.simulator}, {found.importer} importer"
        places = {"begin": found.begin, "step": found.step}
        divergence(options.picture, found.expected, found.outputs, **places, name=name)
    return 0 if report.exact else 1


def _map(options: argparse.Namespace) -> int:
    from snu_plugin import graph
    from snu_plugin.accelerator.presets import find_chip
    from snu_plugin.compiler import plan

    found = plan(
        graph.read(options.graph),
        find_chip(options.chip),
        dt=options.dt,
        activity=options.activity,
    )
    print(json.dumps(found.to_dict(), indent=1) if options.json else found)
    return 0 if found.fits else 1


def _run(options: argparse.Namespace) -> int:
    from snu_plugin import graph
    from snu_plugin.accelerator.presets import find_chip
    from snu_plugin.experiments import ageing, scored
    from snu_plugin.experiments.progress import Progress

    ageing.check_out(options.out)
    with Progress() as say:
        record, scores = ageing.run(
            graph.read(options.graph),
            lambda *shapes: scored.load(options.data, *shapes, verify=not options.no_verify),
            find_chip(options.chip),
            at=ageing.ages(options.at),
            chips=options.chips,
            reads=options.reads,
            jobs=options.jobs,
            dt=options.dt,
            say=say,
        )
    if options.out is not None:
        ageing.save(options.out, record, scores)
    print(ageing.text(record))
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    from snu_plugin.experiments import paper, results
    from snu_plugin.experiments.progress import Progress

    if not all(seed.strip().isdigit() for seed in options.seeds.split(",")):
        raise ValueError(f"seeds are {options.seeds!r}; give whole numbers, separated by commas")
    chosen = paper.recipe(
        options.task,
        options.unit,
        optimizer=options.optimizer,
        lr=options.lr,
        epochs=options.epochs,
    )
    with Progress() as say:
        try:
            record = paper.reproduce(
                options.task,
                chosen,
                data=options.data,
                seeds=[int(seed) for seed in options.seeds.split(",")],
                out=options.out,
                resume=options.resume,
                verify=not options.no_verify,
                say=say,
            )
        except KeyboardInterrupt:
            return _fail(
                options.command, "interrupted; --resume goes on after the last whole epoch", 130
            )
    print(results.text(record))
    return 0


def _bench(options: argparse.Namespace) -> int:
    from snu_plugin.bench import chip, neuron

    if options.what == "neuron":
        print(neuron.run(options.json, seconds=options.seconds, threads=options.threads))
        return 0
    answer = chip.run(options.seconds)
    print(json.dumps(answer, indent=1) if options.json else chip.text(answer))
    return 0


def _info(options: argparse.Namespace) -> int:
    from snu_plugin.experiments import installed

    if options.chip is None:
        answer: Any = installed.installed()
        text = installed.installed_text(answer)
    else:
        answer = installed.chip(options.chip)
        text = installed.chip_text(answer)
    print(json.dumps(answer, indent=1) if options.json else text)
    return 0


def _fail(command: str, message: str, status: int) -> int:
    print(f"snu {command}: {message}", file=sys.stderr)
    return status


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return " ".join(str(error.args[0]).split())
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
