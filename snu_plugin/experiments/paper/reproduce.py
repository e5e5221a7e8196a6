"""Rows of the published tables, run again with seeds and recorded."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from snu_plugin import graph
from snu_plugin.accepted import SEED, hint, shown
from snu_plugin.experiments.paper.jobs import job, load
from snu_plugin.experiments.paper.published import OURS, PUBLISHED
from snu_plugin.experiments.paper.recipes import METRIC, RECIPES, Recipe
from snu_plugin.experiments.paper.studies import CHIP_UNITS, Study
from snu_plugin.experiments.paper.training_job import Job, Met, meeting_chips
from snu_plugin.experiments.runs import Say, remaining
from snu_plugin.experiments.settings import versions, write_json
from snu_plugin.files import claim
from snu_plugin.training import Epoch, TrainingState, attach_grapes
from snu_plugin.training import train as run_training
from snu_plugin.usage import again

ONE_CYCLE_RISE = 0.1
"""Share of all passes in which the learning rate of ``one_cycle`` rises."""
OPTIMIZERS = ("sgd", "adam", "grapes")


def recipe(
    task: str, unit: str, name: str | None = None, *, optimizer: str | None = None,
    lr: float | None = None, epochs: int | None = None, hardware_aware: bool = False,
) -> Recipe:  # fmt: skip
    """Return the recipe of a unit on a task, changed where asked.

    ``name`` is the recipe's; ``None`` is the first that there is for the unit.
    ``optimizer="grapes"`` is the recipe's own optimiser with GRAPES.

    Raises:
        LookupError: For an unknown task, unit or name.
        ValueError: For values out of range, or another optimiser without its learning rate.
    """
    if task not in RECIPES:
        raise LookupError(f"no task {task!r}; there are {', '.join(RECIPES)}{hint(task, RECIPES)}")
    chosen = _known(task, unit, name)
    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise LookupError(
            f"no optimizer {optimizer!r}; there are {', '.join(OPTIMIZERS)}"
            f"{hint(optimizer, OPTIMIZERS)}"
        )
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs is {epochs}; it must be at least 1")
    if lr is not None and not 0 < lr < float("inf"):
        raise ValueError(f"lr is {lr}; it must be above 0 and finite")
    if optimizer == "grapes":
        chosen = replace(chosen, grapes=True, source=OURS)
    elif optimizer not in (None, chosen.optimizer):
        if lr is None:
            raise ValueError(
                f"the recipe of {unit} on {task} is for {chosen.optimizer}; "
                f"give a learning rate with {optimizer}"
            )
        chosen = replace(chosen, optimizer=str(optimizer), source=OURS)
    if lr is not None and lr != chosen.lr:
        chosen = replace(chosen, lr=lr, source=OURS)
    if hardware_aware:
        if unit not in CHIP_UNITS:
            raise ValueError(
                f"{unit} is on no chip; give one of {', '.join(CHIP_UNITS)}, or leave out "
                "--hardware-aware"
            )
        chosen = replace(chosen, hardware_aware=True, source=OURS)
    return replace(chosen, epochs=epochs or chosen.epochs)


def _known(task: str, unit: str, name: str | None) -> Recipe:
    named = RECIPES[task]
    if name is not None and name not in named:
        raise LookupError(
            f"no recipe {name!r} on {task}; there are {', '.join(named)}{hint(name, named)}"
        )
    offered = [of for known, of in named.items() if name in (None, known)]
    found = next((of[unit] for of in offered if unit in of), None)
    if found is None:
        units = list(dict.fromkeys(kind for of in offered for kind in of))
        what = task if name is None else f"{task}, {name}"
        raise LookupError(
            f"no recipe for {unit!r} on {what}; there are {', '.join(units)}{hint(unit, units)}"
        )
    return found


def reproduce(
    task: str,
    chosen: Recipe,
    *,
    data: Path,
    seeds: Sequence[int] = (0,),
    out: Path,
    resume: bool = False,
    verify: bool = True,
    study: Study | None = None,
    progress: Say = lambda text: None,
) -> dict[str, Any]:
    """Train with every seed, judge on the test set once, and write the record.

    After every epoch ``out`` holds checkpoints that ``resume`` takes up; at the end they make way
    for the record, ``<task>-<unit>.json`` (then the recipe's name where it is not the unit's first,
    ``-grapes`` where GRAPES was used, ``-aware`` where it was trained for a chip, and what was
    studied). Beside it lies the network of every seed as ``<record>-seed<seed>.nir``, where NIR can
    say it; where not, the record says why.

    Args:
        task: ``jsb``, ``mnist``, ``fashion``, ``nmnist`` or ``ptb``.
        chosen: From ``recipe``.
        data: File or folder; see the task's module in ``snu_plugin.tasks``.
        seeds: Of weights, order and spikes; each gives a run.
        out: Folder for the record.
        resume: Take up an interrupted call.
        verify: Refuse data of another checksum.
        study: Further looks at every trained network.
        progress: Told what is going on.

    Returns:
        The record, as written.

    Raises:
        ValueError: For seeds that are not distinct, or nothing to resume.
    """
    if not seeds or len(set(seeds)) < len(seeds) or not all(map(SEED.holds, seeds)):
        raise ValueError(
            f"seeds are {shown(list(seeds))}; give distinct numbers, each {SEED.words}"
        )
    study = study or Study()
    study.check(task, chosen.unit)
    unnamed = _known(task, chosen.unit, None).name
    about = [chosen.name] * (chosen.name != unnamed) + ["grapes"] * chosen.grapes
    about += ["aware"] * chosen.hardware_aware
    name = "-".join([task, chosen.unit, *about, *study.kinds])
    files = {seed: out / f"{name}-seed{seed}.checkpoint" for seed in seeds}
    if resume and not any(file.exists() for file in files.values()):
        raise ValueError(
            f"{out} holds no checkpoint of {name} with these seeds; leave out --resume"
        )
    loaded = load(task, data, verify=verify)
    settings = chosen.to_dict() | {"data": loaded.name}
    if chosen.schedule == "constant" and not chosen.hardware_aware:
        del settings["epochs"]
    with claim(out / name):
        runs = []
        for seed in seeds:
            one = job(chosen, loaded, seed)

            def on_epoch(done: Epoch, seed: int = seed) -> None:
                score = "" if done.score is None else f", validation {done.score:.3f}"
                counted = f"epoch {done.number}/{chosen.epochs}"
                progress(f"{name} seed {seed}, {counted}: {done.loss:.4f}{score}")

            state = train(
                one, chosen, files[seed], resume, settings, on_epoch,
                remaining(progress, f"{name} seed {seed}", chosen.epochs),
            )  # fmt: skip
            best = state.best_epoch
            runs.append(
                {
                    "seed": seed,
                    "epoch": best.number,
                    "valid": best.score,
                    **one.result(),
                    "seconds": round(state.seconds, 1),
                    "history": [[e.loss, e.score] for e in state.epochs],
                    "study": study.of(one, seed, progress),
                    **_leave(one, out / f"{name}-seed{seed}.nir"),
                }
            )
        record = _record(task, chosen, loaded.name, runs, one)
        record["command"] = _command(task, chosen, seeds, data.name, study)
        write_json(out / f"{name}.json", record)
        for file in files.values():
            file.unlink()
    return record


def _leave(one: Job, path: Path) -> dict[str, str]:
    """Write a trained network as a graph; returns its name, or why NIR cannot say it."""
    try:
        g = graph.to_nir(*one.leaves())
    except (TypeError, ValueError) as error:  # no reason to lose what was trained
        return {"no_graph": " ".join(str(error).split())}
    graph.write(path, g)
    return {"graph": path.name}


def train(
    one: Job,
    chosen: Recipe,
    checkpoint: Path | None = None,
    resume: bool = False,
    settings: dict[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_batch: Callable[[float], None] = lambda gone: None,
) -> TrainingState:
    """Train one network by its recipe; see ``snu_plugin.training.train``."""
    trained = [p for p in one.network.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if chosen.optimizer == "adam":
        optimizer = torch.optim.Adam(trained, lr=chosen.lr, eps=1e-7, fused=True)
    elif chosen.optimizer == "rmsprop":
        optimizer = torch.optim.RMSprop(trained, lr=chosen.lr, alpha=0.9, eps=1e-7)
    else:
        optimizer = torch.optim.SGD(trained, lr=chosen.lr)
    if chosen.language is not None:
        limit = chosen.language.clip

        def clip(*_: object) -> None:
            clip_grad_norm_(trained, limit)

        optimizer.register_step_pre_hook(clip)
    # Outputs of membranes far below the threshold, 1e-40, would make products ten times slower.
    torch.set_flush_denormal(True)
    try:
        with (
            attach_grapes(one.network) if chosen.grapes else nullcontext(),
            meeting_chips(one, chosen.epochs, one.seed)
            if chosen.hardware_aware
            else nullcontext(Met(lambda gone: None, one.score)) as met,
        ):

            def before(gone: float) -> None:
                met.on_batch(gone)
                on_batch(gone)

            return run_training(
                one.network,
                optimizer,
                chosen.epochs,
                batches=one.batches,
                loss=one.loss,
                score=met.score,
                lr_factor=lr_factor(chosen),
                generator=one.generator,
                checkpoint=checkpoint,
                resume=resume,
                settings=settings,
                on_epoch=on_epoch,
                on_batch=before,
            )
    finally:
        torch.set_flush_denormal(False)


def lr_factor(chosen: Recipe) -> Callable[[float], float] | None:
    """Return what multiplies the learning rate after so many epochs."""

    def cosine(share: float) -> float:  # 1 at 0, 0 at 1
        return (1 + math.cos(math.pi * share)) / 2

    epochs, rise = chosen.epochs, ONE_CYCLE_RISE * chosen.epochs
    if chosen.schedule == "cosine":
        return lambda gone: cosine(gone / epochs)
    if chosen.schedule == "one_cycle":
        return lambda gone: (
            1 - cosine(gone / rise) if gone < rise else cosine((gone - rise) / (epochs - rise))
        )
    return (lambda gone: 0.5 ** max(int(gone) - 4, 0)) if chosen.schedule == "halving" else None


def _record(
    task: str, chosen: Recipe, data: str, runs: list[dict[str, Any]], one: Job
) -> dict[str, Any]:
    tests = [r["test"] for r in runs]
    spikes = [r["spikes"] for r in runs if "spikes" in r]
    published = None if chosen.grapes else PUBLISHED.get((task, chosen.name, chosen.unit))
    studied = {
        kind: {stage: statistics.fmean(r["study"][kind][stage] for r in runs) for stage in stages}
        for kind, stages in runs[0]["study"].items()
    }
    return {
        "task": task,
        "unit": chosen.unit,
        "metric": METRIC[task],
        "data": data,
        "recipe": chosen.to_dict(),
        "published": published._asdict() if published and data == task else None,
        "mean": statistics.mean(tests),
        "sigma": statistics.stdev(tests) if len(tests) > 1 else None,
        "parameters": sum(p.numel() for p in one.network.parameters() if p.requires_grad),
        "spikes": statistics.mean(spikes) if spikes else None,
        "spikes_per": one.spikes_per,
        "seconds": statistics.mean(r["seconds"] for r in runs),
        "threads": torch.get_num_threads(),
        "command": "",
        "versions": versions(),
        "study": studied,
        "runs": runs,
    }


def _command(task: str, chosen: Recipe, seeds: Sequence[int], file: str, study: Study) -> str:
    """Return the line that gives a record again."""
    own = _known(task, chosen.unit, chosen.name)
    parts = ["reproduce", task, "--unit", chosen.unit]
    if own != _known(task, chosen.unit, None):
        parts += ["--recipe", chosen.name]
    if chosen.grapes or chosen.optimizer != own.optimizer:
        parts += ["--optimizer", "grapes" if chosen.grapes else chosen.optimizer]
    if chosen.lr != own.lr:
        parts += ["--lr", f"{chosen.lr:g}"]
    parts += ["--hardware-aware"] * chosen.hardware_aware
    parts += ["--epochs", str(chosen.epochs), "--seeds", ",".join(map(str, seeds)), "--data", file]
    return again([*parts, *study.options])
