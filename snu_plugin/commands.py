"""What each command of ``snu`` does; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snu_plugin.accepted import POSITIVE
from snu_plugin.ended import stopped

if TYPE_CHECKING:
    from nir import NIRGraph

    from snu_plugin.accelerator import Chip
    from snu_plugin.experiments.datasets import Judging
    from snu_plugin.experiments.progress import Say


def _demo(options: argparse.Namespace) -> int:
    from snu_plugin.experiments.demo import EPOCHS, checkpoints_of, demo
    from snu_plugin.experiments.resuming import left_in

    epochs = EPOCHS if options.epochs is None else options.epochs
    about = {"data": options.data, "epochs": epochs, "seed": options.seed}
    with _followed(lambda: left_in(checkpoints_of(options.out))) as progress:
        record = demo(options.out, **about, resume=options.resume, progress=progress)
    if options.json:
        print(json.dumps(record, indent=1))
        return 0
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
    from snu_plugin import files, graph
    from snu_plugin.experiments.data_files import as_inputs, load_by_name, load_inputs
    from snu_plugin.experiments.progress import Progress

    names = None if options.simulators is None else options.simulators.split(",")
    picture = options.picture
    if picture is not None:
        files.check_parent("--picture", picture)
    g = graph.read(options.graph)
    inputs = [name for name, node in g.nodes.items() if type(node).__name__ == "Input"]
    several = len(inputs) > 1 and options.data is not None and options.data.suffix != ".nir"
    x: Any = None
    if options.data is not None:
        x = load_by_name(options.data, inputs) if several else load_inputs(options.data)
    how = {"dt": options.dt, "feedback": options.feedback}
    with Progress() as progress:
        report = graph.verify(g, x, names, **how, progress=progress)
    _say(options, report.to_dict(), report)
    if options.report is not None:
        from snu_plugin.experiments import reports

        x = None if x is None else as_inputs(g, x, options.dt, options.feedback)
        reports.of_verify(options.report, report, g, x, **how)
    if picture is not None and (found := report.divergence()) is not None:
        from snu_plugin.report.plots import divergence

        name = f"{found.simulator}, {found.importer} importer"
        places = {"begin": found.begin, "step": found.step}
        divergence(picture, found.expected, found.outputs, **places, name=name)
    return 0 if report.exact else 1


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
        _chip(options),
        dt=options.dt,
        feedback=options.feedback,
        activity=options.activity,
        steps=options.steps,
        outliers=options.outliers,
        sample=None if options.data is None else load_sample(options.data, verify=False),
    )
    answer = found.to_dict()
    if options.out is not None:
        write_json(pictures.folder(options.out) / "plan.json", answer)
        if found.program is not None:
            pictures.of_program(options.out, found.program, answer)
    if options.report is not None:
        from snu_plugin.experiments import reports

        reports.of_map(options.report, answer, found.program)
    _say(options, answer, found)
    return 0 if found.fits else 1


def _run(options: argparse.Namespace) -> int:
    from snu_plugin import graph
    from snu_plugin.experiments import ageing
    from snu_plugin.experiments.data_files import load_sample, load_scored, load_tuning
    from snu_plugin.experiments.resuming import left_in
    from snu_plugin.experiments.settings import ages

    g = graph.read(options.graph)
    kept = None if options.out is None else ageing.checkpoints_of(options.out)
    with _followed(lambda: left_in(kept)) as progress:
        record, scores = ageing.run(
            g,
            _data(options, load_tuning if options.tuned else load_scored),
            _chip(options),
            at=ages(options.at),
            chips=options.chips,
            sample=lambda: load_sample(options.data, verify=not options.no_verify),
            reads=options.reads,
            jobs=options.jobs,
            dt=options.dt,
            feedback=options.feedback,
            outliers=options.outliers,
            out=options.out,
            inputs=_inputs(options),
            resume=options.resume,
            progress=progress,
        )
    whole = ageing.whole(record, scores)
    _say(options, whole, ageing.text(record))
    if options.report is not None:
        from snu_plugin.experiments import reports

        reports.of_run(options.report, record, scores, **_shown(options, g))
    return 0


def _life(options: argparse.Namespace) -> int:
    from snu_plugin import graph
    from snu_plugin.experiments import life, life_record, lives
    from snu_plugin.experiments.data_files import load_sample, load_scored, load_tuning
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
        dt=options.dt,
        feedback=options.feedback,
    )
    with _followed(lambda: left_in(options.out / "life.checkpoints")) as progress:
        record = life.life(
            graph.read(options.graph),
            _data(options, load_tuning if settings.tunes else load_scored),
            _chip(options),
            settings,
            options.out,
            sample=lambda: load_sample(options.data, verify=not options.no_verify),
            inputs=_inputs(options),
            jobs=options.jobs,
            resume=options.resume,
            progress=progress,
        )
    picture = options.out / "life.png"
    _say(options, record, f"{life_record.text(record)}\npicture: {picture}")
    if options.report is not None:
        from snu_plugin.experiments import reports

        reports.of_life(options.report, record, picture)
    return 0


def _tune(options: argparse.Namespace) -> int:
    from snu_plugin import graph
    from snu_plugin.experiments import tuning
    from snu_plugin.experiments.data_files import load_tuning
    from snu_plugin.experiments.settings import one_age

    if options.compare:
        return _compare(options)
    settings = tuning.TuneSettings(
        rule=options.rule,
        lr=options.lr,
        digital_lr=options.digital_lr,
        passes=options.epochs,
        age_s=one_age(options.at),
        seed=options.seed,
        dt=options.dt,
        feedback=options.feedback,
    )
    g = graph.read(options.graph)
    with _followed(lambda: _left_at(tuning.places(options.out).checkpoint, "pass")) as progress:
        record = tuning.tune(
            g,
            _data(options, load_tuning, seed=options.seed),
            _chip(options),
            settings,
            options.out,
            inputs=_inputs(options),
            resume=options.resume,
            progress=progress,
        )
    tuned = tuning.places(options.out).graph
    _say(options, record, f"{tuning.text(record)}\ntuned graph: {tuned}")
    if options.report is not None:
        from snu_plugin.experiments import reports

        reports.of_tune(options.report, record, **_shown(options, g))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from snu_plugin import graph
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
        dt=options.dt,
        feedback=options.feedback,
    )
    with _followed(lambda: _left_at(compare.places(options.out)[1], "chip")) as progress:
        record = compare.compare(
            graph.read(options.graph),
            _data(options, load_tuning, seed=options.seed),
            _chip(options),
            settings,
            options.out,
            inputs=_inputs(options),
            jobs=options.jobs,
            resume=options.resume,
            progress=progress,
        )
    _say(options, record, compare.text(record))
    if options.report is not None:
        from snu_plugin.experiments import reports

        reports.of_compare(options.report, record)
    return 0


def _judging(options: argparse.Namespace) -> Judging:
    from snu_plugin import graph
    from snu_plugin.experiments.datasets import Judging
    from snu_plugin.hil import taught_by

    teacher = None
    if options.teacher is not None:
        teacher = taught_by(graph.read(options.teacher), options.dt)
    return Judging(loss=options.loss, metric=options.metric, teacher=teacher)


def _inputs(options: argparse.Namespace) -> dict[str, Path]:
    """Return the files whose content must be the same when a run is taken up."""
    files = {"graph": options.graph, "data": options.data, "teacher": options.teacher}
    return {name: file for name, file in files.items() if file is not None}


def _reproduce(options: argparse.Namespace) -> int:
    from snu_plugin.experiments.paper.records import text
    from snu_plugin.experiments.paper.reproduce import recipe, reproduce
    from snu_plugin.experiments.paper.studies import Study

    seeds = _numbers("seeds", options.seeds)
    study = Study(
        bits=() if options.bits is None else _numbers("bits", options.bits),
        chip=None if options.chip is None else _chip(options),
    )
    chosen = recipe(
        options.task,
        options.unit,
        options.recipe,
        optimizer=options.optimizer,
        lr=options.lr,
        epochs=options.epochs,
    )
    with _followed(lambda: "--resume goes on after the last whole epoch") as progress:
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
    _say(options, record, text(record))
    return 0


def _numbers(name: str, text: str) -> tuple[int, ...]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise ValueError(f"{name} are {text!r}; give whole numbers, separated by commas")
    return tuple(int(part) for part in text.split(","))


def _bench(options: argparse.Namespace) -> int:
    from snu_plugin import graph
    from snu_plugin.bench import chip, neuron, simulators
    from snu_plugin.experiments import pictures
    from snu_plugin.experiments.progress import Progress

    if options.graph is not None and options.what != "simulators":
        raise ValueError(f"{options.graph} is given; only snu bench simulators takes a graph")
    if options.what == "neuron":
        if options.out is not None:
            pictures.check_folder(options.out)
        with Progress() as progress:
            answer = neuron.run(
                options.seconds,
                threads=options.threads,
                only=options.only.split(",") if options.only else (),
                parts=options.parts.split(",") if options.parts else neuron.PARTS,
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
            parts=options.parts.split(",") if options.parts else chip.PARTS[:3],
        )
        text = chip.text(answer)
    _say(options, answer, text)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from snu_plugin.experiments import doctor

    if options.graph is None:
        answer: Any = doctor.installation()
        ill, text = bool(answer["findings"]), doctor.text(answer)
    else:
        from snu_plugin.experiments.data_files import load_inputs

        found = doctor.network(
            options.graph,
            None if options.data is None else load_inputs(options.data),
            None if options.chip is None else _chip(options),
            dt=options.dt,
            feedback=options.feedback,
        )
        answer, ill, text = found.to_dict(), bool(found), str(found)
    _say(options, answer, text)
    return 1 if ill else 0


def _simulators(options: argparse.Namespace) -> int:
    from snu_plugin import environments
    from snu_plugin.experiments import info

    def progress(text: str) -> None:
        if sys.stderr.isatty():
            print(text, file=sys.stderr)

    if options.what is not None and options.name is None:
        raise ValueError(
            f"{options.what} takes the name of a simulator, and none is given; give one"
        )
    if options.what == "install":
        path = environments.install(options.name, progress)
        answer: Any = {"installed": str(path), "packages": environments.contents(options.name)}
        text = f"{options.name} {environments.running_version(options.name)} is in {path}"
    elif options.what == "remove":
        removed = environments.remove(options.name)
        answer = {"removed": removed}
        text = f"{options.name} {'is removed' if removed else 'has no environment'}"
    else:
        rows = environments.listed()
        answer, text = [row._asdict() for row in rows], info.simulators_text(rows)
    _say(options, answer, text)
    return 0


def _docs(_: argparse.Namespace) -> int:
    from snu_plugin.experiments import docs

    page = docs.first_page()
    print(page)
    webbrowser.open(page.as_uri())
    return 0


def _info(options: argparse.Namespace) -> int:
    from snu_plugin.accelerator import describe
    from snu_plugin.experiments import caches, info

    if options.clear is not None:
        names = caches.NAMES if options.clear == "all" else (options.clear,)
        gone = {name: str(caches.clear(name)) for name in names}
        _say(options, {"removed": gone}, info.removed_text(gone))
        return 0
    chip = None
    if options.chip is None:
        answer: Any = info.installed()
        text = info.installed_text(answer)
    else:
        chip = _chip(options)
        answer = describe(chip)
        text = info.chip_text(answer)
    if options.out is not None:
        info.draw(chip, options.out)
    _say(options, answer, text)
    return 0


def _chip(options: argparse.Namespace) -> Chip:
    """Return the chip that is asked for; what its file leaves open is always shown."""
    from snu_plugin.accelerator import find_chip

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        return find_chip(options.chip)


def _shown(options: argparse.Namespace, g: NIRGraph) -> dict[str, Any]:
    """Return what a page shows the layers of a graph on."""
    from snu_plugin.experiments.data_files import load_sample

    x = load_sample(options.data, verify=not options.no_verify)
    return {"g": g, "x": x, "dt": options.dt, "feedback": options.feedback}


def _data(options: argparse.Namespace, load: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    """Return what loads the data for the ports of a graph."""
    how = {"verify": not options.no_verify, "by": _judging(options), **more}
    return lambda *shapes: load(options.data, *shapes, **how)


def _say(options: argparse.Namespace, record: Any, text: object) -> None:
    print(json.dumps(record, indent=1) if options.json else text)


@contextmanager
def _followed(left: Callable[[], str]) -> Iterator[Say]:
    """Show how far a command is; where it is stopped, ``main`` says what is ``left``."""
    from snu_plugin.experiments.progress import Progress

    with Progress() as progress:
        try:
            yield progress
        except KeyboardInterrupt as error:
            raise stopped(left(), error) from error


def _left_at(checkpoint: Path, what: str) -> str:
    kept = checkpoint.exists()
    return f"--resume goes on after the last whole {what}" if kept else "nothing was kept"


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "demo": _demo,
    "verify": _verify,
    "map": _map,
    "run": _run,
    "life": _life,
    "tune": _tune,
    "reproduce": _reproduce,
    "bench": _bench,
    "doctor": _doctor,
    "simulators": _simulators,
    "docs": _docs,
    "info": _info,
}
"""What runs each command that ``snu_plugin.options`` knows."""
