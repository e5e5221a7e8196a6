"""What can be typed after ``snu``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import snu_plugin
from snu_plugin.usage import Parser

EXAMPLES = {
    "demo": "--out out",
    "verify": "net.nir test.npz --simulators snntorch,norse",
    "map": "net.nir train.npz --chip PCM --out plan",
    "run": "net.nir test.npz --at 1h,30d --out scores",
    "life": "net.nir test.npz --for 2y --every 30d --do none,calibrate",
    "tune": "net.nir data.npz --at 30d --out tuned.nir",
    "reproduce": "jsb --data JSB_Chorales.mat --seeds 0,1",
    "bench": "neuron --seconds 2",
    "doctor": "net.nir test.npz --chip PCM",
    "simulators": "install sinabs",
    "info": "--chip PCM",
    "docs": "",
}
"""What help shows after each command."""


def parser() -> Parser:
    """Return the parser of ``snu``; ``command`` in what it parses names the command."""
    snu = Parser(
        prog="snu",
        description="Spiking Neural Units for snnTorch and Norse, exchanged through NIR, "
        "mapped onto phase-change memory.",
    )
    snu.add_argument("--version", action="version", version=f"snu {snu_plugin.__version__}")
    commands = snu.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = _command(commands, "demo", "the whole way on Bach chorales, with a report")
    demo.add_argument("--out", type=Path, default=Path("snu-demo"), help="folder for the report")
    demo.add_argument("--data", type=Path, help="JSB_Chorales.mat; default: music21's chorales")
    demo.add_argument("--epochs", type=int, default=None, help="epochs of training (70)")
    demo.add_argument("--seed", type=int, default=0, help="seed of training and chip (0)")
    demo.add_argument("--resume", action="store_true", help="go on where a run was interrupted")
    demo.add_argument("--json", action="store_true", help="print JSON: report.json")

    verify = _command(commands, "verify", "run a graph in every installed simulator")
    verify.add_argument("graph", type=Path, metavar="GRAPH", help="a .nir file")
    verify.add_argument(
        "data",
        type=Path,
        nargs="?",
        metavar="DATA",
        help="inputs, as snu run takes them: an .npz with x (T, N, ...), time first (labels are "
        "not needed; of several Inputs an array with the name of each), or JSB_Chorales.mat; or a "
        ".nir of data, as nir.write_data makes it; default: seeded spikes, scaled until the graph "
        "fires",
    )
    verify.add_argument("--simulators", help="names, separated by commas; default: all found")
    verify.add_argument("--dt", type=float, help="time step; default: the one of the graph")
    _feedback(verify)
    verify.add_argument("--json", action="store_true", help="print JSON")
    _report(verify)
    verify.add_argument("--picture", type=Path, help="PNG for the first divergence, if there is")

    place = _command(commands, "map", "lay a graph out on a chip: does it fit?")
    place.add_argument("graph", type=Path, metavar="GRAPH", help="a .nir file")
    place.add_argument(
        "data",
        type=Path,
        nargs="?",
        metavar="DATA",
        help="inputs that set the ranges of the converters, as snu tune takes them (train_x, or x "
        "without labels); default: the ranges of the chip",
    )
    place.add_argument("--chip", default="PCM", help="a preset, or a TOML file (PCM)")
    place.add_argument("--dt", type=float, help="time step; default: the one of the graph")
    _feedback(place)
    _outliers(place)
    place.add_argument("--activity", type=float, default=0.1, help="share of rows driven (0.1)")
    place.add_argument("--steps", type=int, default=100, help="steps of an inference (100)")
    place.add_argument("--out", type=Path, help="folder for plan.json, tiles.png and energy.png")
    _report(place)
    place.add_argument("--json", action="store_true", help="print JSON")

    age = _command(commands, "run", "the score of a graph as chips age")
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
    _judging(age)
    age.add_argument("--dt", type=float, help="time step; default: the one of the graph")
    _feedback(age)
    _outliers(age)
    age.add_argument("--no-verify", action="store_true", help="allow a .mat of another checksum")
    age.add_argument(
        "--out", type=Path, help="FILE.json, FILE.csv, or a folder for both and score.png"
    )
    _report(age)
    age.add_argument(
        "--tuned",
        action="store_true",
        help="tune a copy of every chip at every age as well; DATA as for snu tune",
    )
    age.add_argument("--resume", action="store_true", help="go on where a run was interrupted")
    age.add_argument("--json", action="store_true", help="print JSON, as --out FILE.json holds it")

    life = _command(commands, "life", "the score over years of use, and what upkeep costs")
    life.add_argument("graph", type=Path, metavar="GRAPH", help="a .nir file, one Input and Output")
    life.add_argument(
        "data", type=Path, metavar="DATA", help="as for snu run; to tune, as for snu tune"
    )
    life.add_argument("--chip", default="PCM", help="a preset, or a TOML file (PCM)")
    life.add_argument("--for", dest="length", default="2y", help="how long chips are used (2y)")
    life.add_argument("--every", default="30d", help="from one visit to the next (30d)")
    life.add_argument(
        "--when",
        type=float,
        metavar="SHARE",
        help="look after a chip only at visits that find its products off by so much more than "
        "when it was last looked after, such as 0.05; default: at every visit",
    )
    life.add_argument(
        "--do",
        default="none,calibrate,tune,rewrite",
        help="what is done to a chip, each in a life of its own, separated by commas: none; "
        "calibrate: gains fitted anew, no labels; tune: recalibrated and tuned in the loop; "
        "rewrite: all weights written again; or names as for snu tune --rule, joined by +, with "
        "the period of those before it: calibrate@30d+adapter:8+digital@1y "
        "(none,calibrate,tune,rewrite)",
    )
    life.add_argument("--chips", type=int, default=3, help="chips; each has a seed of its own (3)")
    life.add_argument("--reads", type=int, default=3, help="runs that a score is the mean of (3)")
    life.add_argument("--seed", type=int, default=0, help="of the first chip; others count on (0)")
    life.add_argument("--jobs", type=int, default=1, help="processes; -1: one per core (1)")
    _judging(life)
    life.add_argument("--dt", type=float, help="time step; default: the one of the graph")
    _feedback(life)
    life.add_argument("--no-verify", action="store_true", help="allow a .mat of another checksum")
    life.add_argument(
        "--out", type=Path, default=Path("snu-life"), help="folder for life.json and life.png"
    )
    _report(life)
    life.add_argument("--resume", action="store_true", help="go on where a run was interrupted")
    life.add_argument("--json", action="store_true", help="print JSON")

    tune = _command(commands, "tune", "tune a graph on a chip, with the chip in the loop")
    tune.add_argument("graph", type=Path, metavar="GRAPH", help="a .nir file, one Input and Output")
    tune.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="JSB_Chorales.mat, or an .npz with train_x and train_labels to learn from, valid_x "
        "and valid_labels to choose by, x and labels to judge on, each as snu run takes them; x "
        "and labels alone are divided by the seed",
    )
    tune.add_argument("--chip", default="PCM", help="a preset, or a TOML file (PCM)")
    tune.add_argument(
        "--rule",
        default="digital",
        help="what changes the recalibrated chip: names with their number, separated by commas, "
        "an update rule last. recalibrate: gains; rewrite[:WORST]: write weights again, all or the "
        "worst share; adapter[:RANK], adapters[:RANK]: digital, low rank, at the read-out or "
        "everywhere; then digital: gains, biases, thresholds, no pulse; mixed[:LR]: add up "
        "gradients, pulse where they agree; pulses[:LEAST]: by their sign; stochastic[:LR]; "
        "thinned[:SHARE]; verify[:LR]: follow digital copies of the weights (digital)",
    )
    tune.add_argument(
        "--lr",
        type=float,
        help="number of the update rule: weight per gradient (mixed 3, verify and stochastic 0.1); "
        "least gradient of a pulse (pulses 0.03)",
    )
    tune.add_argument(
        "--digital-lr",
        type=float,
        help="first step of gains, biases and thresholds, in shares of their size (chosen by "
        "trial)",
    )
    tune.add_argument("--epochs", type=int, default=8, help="passes over the data (8)")
    tune.add_argument("--at", default="1d", help="time from programming to tuning (1d)")
    tune.add_argument("--seed", type=int, default=0, help="of the chip and the order (0)")
    _judging(tune)
    tune.add_argument("--dt", type=float, help="time step; default: the one of the graph")
    _feedback(tune)
    tune.add_argument("--no-verify", action="store_true", help="allow a .mat of another checksum")
    tune.add_argument(
        "--out",
        type=Path,
        default=Path("tuned.nir"),
        help="FILE.nir (beside it FILE.chip.npz, FILE.json), or a folder, which gets pictures too "
        "(tuned.nir)",
    )
    _report(tune)
    tune.add_argument("--resume", action="store_true", help="go on where a run was interrupted")
    tune.add_argument(
        "--compare",
        action="store_true",
        help="every way to change a chip on the same aged chips, in one table with its costs, and "
        "FILE.compare.json or compare.json in the folder; takes --at, --epochs and what follows",
    )
    tune.add_argument("--json", action="store_true", help="print JSON, as FILE.json holds it")
    tune.add_argument("--chips", type=int, default=3, help="compare: the number is the seed (3)")
    tune.add_argument(
        "--ways",
        help="compare: names, separated by commas, besides recalibrated and rewritten; all",
    )
    tune.add_argument("--jobs", type=int, default=1, help="compare: processes; -1: one a core (1)")

    paper = _command(commands, "reproduce", "a row of the published tables")
    paper.add_argument("task", metavar="TASK", help="jsb, mnist, fashion, nmnist or ptb")
    paper.add_argument(
        "--unit",
        default="snu",
        help="snu, ssnu, rnn, lstm, gru; digits: src, relu too; nmnist: src too (snu)",
    )
    paper.add_argument(
        "--recipe",
        help="jsb: plain, skip, deep, toolkit, recurrent, online; digits: toolkit, src, src-deep, "
        "src-distorted, quick, deep, distorted, conv, conv-wide, perceptron, single, "
        "inhibited-sample, inhibited-batch; nmnist: plain, src-deep; ptb: adam, small, tied",
    )
    paper.add_argument("--optimizer", help="sgd, adam or grapes; default: the recipe's")
    paper.add_argument("--lr", type=float, help="learning rate; default: the recipe's")
    paper.add_argument("--epochs", type=int, help="passes over the data; default: the recipe's")
    paper.add_argument("--seeds", default="0", help="whole numbers, separated by commas (0)")
    paper.add_argument(
        "--bits", help="score trained networks with weights of so many bits too, such as 2,3,4,6,8"
    )
    paper.add_argument(
        "--chip",
        help="follow them on a chip too (snu, ssnu): a preset, or a TOML file",
    )
    paper.add_argument("--data", type=Path, required=True, help="file or folder of the data")
    paper.add_argument("--no-verify", action="store_true", help="allow data of other checksums")
    paper.add_argument("--out", type=Path, default=Path("snu-reproduce"), help="for the record")
    paper.add_argument("--resume", action="store_true", help="go on where a run was interrupted")
    paper.add_argument("--json", action="store_true", help="print JSON")

    bench = _command(commands, "bench", "side-by-side timings in one run")
    bench.add_argument("what", choices=("neuron", "simulators", "chip"), help="what is timed")
    bench.add_argument(
        "graph", type=Path, nargs="?", metavar="GRAPH", help="simulators: a .nir file; an example"
    )
    bench.add_argument(
        "data",
        type=Path,
        nargs="?",
        metavar="DATA",
        help="simulators: .npy, or .npz with x, (T, B, ...); default: seeded spikes",
    )
    bench.add_argument("--seconds", type=float, default=10.0, help="time for each workload (10)")
    bench.add_argument("--threads", type=int, help="of torch; default: neuron 1 and all, else own")
    bench.add_argument("--only", help="neuron: parts of names, separated by commas; default: all")
    bench.add_argument(
        "--parts",
        help="neuron: layers, spikes, growth, apart (all); chip: layers, devices, tuning, growth",
    )
    bench.add_argument("--compiled", action="store_true", help="neuron: torch.compile too, minutes")
    bench.add_argument(
        "--device", default="cpu", help="cpu or cuda: neuron there at 16 x the batch, or chip (cpu)"
    )
    bench.add_argument("--out", type=Path, help="neuron: folder for neuron.json, .md, growth.png")
    bench.add_argument("--json", action="store_true", help="print JSON")

    doctor = _command(
        commands, "doctor", "why a network is silent, saturated or does not learn; the installation"
    )
    doctor.add_argument(
        "graph", type=Path, nargs="?", metavar="GRAPH", help="a .nir file; default: what is here"
    )
    doctor.add_argument(
        "data",
        type=Path,
        nargs="?",
        metavar="DATA",
        help="inputs, as snu verify takes them; default: seeded spikes that make every layer fire, "
        "as far as any do",
    )
    doctor.add_argument("--chip", help="a preset, or a TOML file: converters that saturate on it")
    doctor.add_argument("--dt", type=float, help="time step; default: the one of the graph")
    _feedback(doctor)
    doctor.add_argument("--json", action="store_true", help="print JSON")

    others = _command(commands, "simulators", "other simulators, and environments of their own")
    others.add_argument("what", choices=("install", "remove"), nargs="?", help="default: a list")
    others.add_argument("name", metavar="NAME", nargs="?", help="one of those in the list")
    others.add_argument("--json", action="store_true", help="print JSON")

    _command(commands, "docs", "open the documentation in a browser, from disk")

    info = _command(commands, "info", "versions, implementations, simulators, chips")
    info.add_argument("--chip", help="a preset or a TOML file: what its settings mean")
    info.add_argument("--out", type=Path, help="with --chip: folder for pictures of its devices")
    info.add_argument(
        "--clear",
        choices=("chorales", "simulators", "loops", "all"),
        help="remove what is kept on disk: rolls of chorales, environments of simulators, loops "
        "that Numba compiled, or all of it",
    )
    info.add_argument("--json", action="store_true", help="print JSON")
    return snu


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example: snu {name} {EXAMPLES[name]}".rstrip()
    )
    return command


def _judging(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--loss",
        help="what tuning minimises: rate, membrane, last, count, population:CLASSES; regression "
        "or likelihood, with labels (T, N, ...) (from the labels; with a teacher the distance)",
    )
    command.add_argument(
        "--metric", help="the score: names as for --loss, or teacher (what goes with the loss)"
    )
    command.add_argument(
        "--teacher",
        type=Path,
        metavar="GRAPH",
        help="a .nir file, such as the trained network, whose outputs are learned from: DATA "
        "needs no labels",
    )


def _report(command: argparse.ArgumentParser) -> None:
    command.add_argument("--report", type=Path, metavar="FILE", help="an HTML page with all of it")


def _outliers(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--outliers",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of each matrix, its largest weights, that stays in digital logic, exact (0)",
    )


def _feedback(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--feedback",
        choices=("silent", "biased"),
        help="what a path that feeds back delivers at the first step: nothing, as other readers of "
        "NIR have it, or its biases, as in snnTorch; default: what the graph declares, else silent",
    )
