"""``snu tune`` from files to files: a tuned graph, the chip's state, a history, a checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nir
import torch
from torch import Generator

from snu_plugin import graph
from snu_plugin.accelerator import ASSUMPTIONS, Accelerator, Chip, Program, Writing, writing
from snu_plugin.accelerator import settings as chip_settings
from snu_plugin.compiler import compile
from snu_plugin.experiments import pictures, tuning
from snu_plugin.experiments.ageing import ports
from snu_plugin.experiments.demo import one_thread
from snu_plugin.experiments.taught import Taught
from snu_plugin.experiments.tuning import Pass, Progress
from snu_plugin.experiments.versions import versions
from snu_plugin.files import write
from snu_plugin.hil import Accumulated, Loop, Moments, TrainerState, UpdateRecord
from snu_plugin.training import load_checkpoint, save_checkpoint

NOTES = (
    "every number about the chip comes from a simulation of its devices, not from silicon",
    "gains, biases and thresholds are digital and learn beside the devices",
    "the pass that is kept is a saved state of the modelled chip; a real one would stop there",
)


@dataclass(frozen=True)
class Places:
    """Where a tuning leaves what."""

    graph: Path
    chip: Path
    history: Path
    checkpoint: Path
    pictures: Path | None
    """A folder, or none."""


def places(out: Path) -> Places:
    """Return the files of ``out``: FILE.nir with its siblings, or a folder, which is made.

    Raises:
        OSError: If the folder of a file is missing, or the folder cannot be made.
    """
    if out.suffix == ".nir":
        if not out.absolute().parent.is_dir():
            raise FileNotFoundError(f"--out is {out}; its folder does not exist, make it first")
        chip, history = out.with_suffix(".chip.npz"), out.with_suffix(".json")
        return Places(out, chip, history, out.with_suffix(".checkpoint"), None)
    pictures.check_folder(out, "or a file that ends in .nir")
    return Places(
        out / "tuned.nir", out / "chip.npz", out / "tuning.json", out / "tuning.checkpoint", out
    )


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked for besides graph, data and chip."""

    rule: str = "digital"
    lr: float | None = None
    """See ``tuning.rule``."""
    digital_lr: float = 1e-2
    passes: int = tuning.PASSES
    age_s: float = 86_400.0
    """Seconds from programming to tuning."""
    seed: int = 0
    """Of the chip, and of the order of the data."""
    dt: float | None = None

    def __post_init__(self) -> None:
        tuning.rule(self.rule, self.lr)
        if self.passes < 1:
            raise ValueError(f"epochs is {self.passes}; it must be at least 1")
        if not 0 <= self.digital_lr < float("inf"):
            raise ValueError(f"digital-lr is {self.digital_lr}; it must be a number of at least 0")

    @property
    def loop(self) -> Loop:
        """How every update goes."""
        return Loop(rule=tuning.rule(self.rule, self.lr), digital_lr=self.digital_lr)


def tune(
    g: nir.NIRGraph,
    data: Callable[[tuple[int, ...], tuple[int, ...]], Taught],
    chip: Chip,
    wish: Wish,
    out: Path,
    *,
    files: Mapping[str, Path] | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write a graph onto a chip, let it age, tune it in the loop and leave the outcome in ``out``.

    After every pass, and before the first, a checkpoint lies there; ``resume`` takes it up and
    gives bit for bit what an uninterrupted run gives. At the end it makes way for the outcome.

    Args:
        g: The graph; it must have one Input and one Output.
        data: Called with the shapes of Input and Output, returns the data for them.
        chip: The chip's settings.
        wish: Rule, passes, age, seed.
        out: See ``places``.
        files: Files whose content must be the same when a run is taken up, by name.
        resume: Take up what the checkpoint holds.
        say: Called with a sentence on every update.

    Returns:
        The record, as written.

    Raises:
        CannotMap: If the chip cannot hold the graph.
        ValueError: For data that do not fit, an age before the chip can be read, a checkpoint that
            is damaged or belongs to other settings, or nothing to resume.
    """
    left = places(out)
    for name, file in (files or {}).items():
        if left.graph.exists() and left.graph.samefile(file):
            raise ValueError(f"--out is {out}; the {name} would be overwritten, give another file")
    if resume and not left.checkpoint.is_file():
        raise ValueError(f"{left.checkpoint} does not exist; leave out --resume to start anew")
    program = compile(g, chip, dt=wish.dt)
    taught = data(*ports(program))
    told = _told(chip, wish, files or {})
    with one_thread():
        if resume:
            progress, before = _take_up(left.checkpoint, told)
        else:
            progress, before = _first(program, taught, wish)
        left.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if len(progress.passes) > wish.passes + 1:
            raise ValueError(
                f"{left.checkpoint} holds {len(progress.passes) - 1} passes, more than the "
                f"{wish.passes} asked for"
            )

        def seen(now: Progress) -> None:
            _leave(left.checkpoint, now, before, told)

        seen(progress)
        made = tuning.go_on(progress, taught, wish.loop, wish.passes, seen=seen, say=say)
        with torch.no_grad():
            scores = before | {"tuned": tuning.mean_score(made, taught.test)}
            reference = graph.network(g, program.dt)
            strict = taught.test.score(lambda x: reference(x)[0])
        untuned = aged(program, wish)
    took = (after - earlier for after, earlier in zip(made.worn, untuned.worn, strict=True))
    record = _record(program, taught, wish, progress, {"reference": strict, **scores})
    record["writing"] = writing(chip, *took)._asdict()
    made.save(left.chip)
    graph.write(left.graph, made.to_nir())
    if left.pictures is not None:
        pictures.of_tuning(left.pictures, record, progress.history, untuned, made)
    write(left.history, (json.dumps(record, indent=1) + "\n").encode())
    left.checkpoint.unlink()
    return record


def text(record: dict[str, Any]) -> str:
    """Return the record as a terminal shows it."""
    test, passes = record["test"], record["passes"]
    shown = " ".join(f"{p['score']:.4f}" for p in passes if p["score"] is not None)
    return "\n".join(
        [
            f"{record['data']}: {record['metric']}",
            record["parts"],
            f"{record['chip']}, {record['devices']:,} devices, tuned {record['age_s']:g} s after "
            f"programming, rule {record['rule']}",
            f"strict reference, no chip {test['reference']:.4f}",
            f"as programmed {test['programmed']:.4f}   recalibrated {test['compensated']:.4f}   "
            f"tuned {test['tuned']:.4f}",
            f"to choose by, before and after each pass: {shown or 'nothing'}",
            f"kept: {record['kept']} of {len(passes) - 1} passes; written in tuning: "
            f"{Writing(**record['writing']).text()}",
        ]
    )


def _first(program: Program, data: Taught, wish: Wish) -> tuple[Progress, dict[str, float]]:
    """Write, age and calibrate the chip; return it with its scores on the way."""
    chip = aged(program, wish)
    with torch.no_grad():
        before = {"programmed": tuning.mean_score(chip, data.test)}
        chip.calibrate()
        before["compensated"] = tuning.mean_score(chip, data.test)
    return tuning.begin(chip, data, wish.loop, wish.seed), before


def aged(program: Program, wish: Wish) -> Accelerator:
    """Return a chip that was written and left alone until it is tuned."""
    chip = Accelerator(program, wish.seed)
    chip.program()
    if wish.age_s < chip.age_s:
        raise ValueError(
            f"the age of {wish.age_s:g} s is too early: {program.chip.name} is first read "
            f"{chip.age_s:g} s after programming"
        )
    chip.wait(wish.age_s - chip.age_s)
    return chip


def _told(chip: Chip, wish: Wish, files: Mapping[str, Path]) -> str:
    """Return what must be the same when a run is taken up; the number of passes may change."""
    given = {name: value for name, value in asdict(wish).items() if name != "passes"}
    content = {name: hashlib.sha256(f.read_bytes()).hexdigest() for name, f in files.items()}
    return json.dumps(given | content | {"chip": chip_settings(chip)}, sort_keys=True)


def _leave(file: Path, now: Progress, before: dict[str, float], told: str) -> None:
    memory = now.course.memory
    content = {
        "settings": told,
        "before": before,
        "chip": tuning.frozen(now.chip),
        "kept": now.kept,
        "unit": now.unit,
        "memory": list(memory) if isinstance(memory, tuple) else memory,
        "moments": list(now.course.moments),
        "weights": dict(now.course.weights),
        "updates": now.course.updates,
        "generator": now.generator.get_state(),
        "passes": [tuple(p) for p in now.passes],
        "history": [tuple(asdict(r).values()) for r in now.history],
    }
    save_checkpoint(file, content)


def _take_up(file: Path, told: str) -> tuple[Progress, dict[str, float]]:
    found = load_checkpoint(file)
    try:
        memory, moments = found["memory"], Moments(*found["moments"])
        memory = Accumulated(*memory) if isinstance(memory, list) else memory
        progress = Progress(
            tuning.thawed(found["chip"]),
            TrainerState(memory, moments, found["weights"], found["updates"]),
            Generator(),
            [Pass(*values) for values in found["passes"]],
            [UpdateRecord(*values) for values in found["history"]],
            found["kept"],
            found["unit"],
        )
        progress.generator.set_state(found["generator"])
        settings, before = found["settings"], found["before"]
    except Exception as error:  # a checkpoint of another command raises nearly anything
        raise ValueError(f"{file} is not a whole checkpoint; delete it and start anew") from error
    if settings != told:
        then, now = json.loads(settings), json.loads(told)
        differing = ", ".join(k for k in sorted(then | now) if then.get(k) != now.get(k))
        raise ValueError(
            f"{file} was left by a run of which {differing} differed; repeat those settings, or "
            "start anew without --resume"
        )
    return progress, before


def _record(
    program: Program, data: Taught, wish: Wish, progress: Progress, test: dict[str, float]
) -> dict[str, Any]:
    """Return settings, scores and history, as JSON can hold them."""
    chosen = tuning.kept(progress.passes, data)
    return {
        "data": data.test.name,
        "metric": data.test.metric,
        "parts": data.note,
        "chip": program.chip.name,
        "devices": program.devices,
        "tiles": program.tile_count,
        **{name: value for name, value in asdict(wish).items() if name != "passes"},
        "rule_settings": asdict(wish.loop.rule),  # type: ignore[call-overload]
        "test": test,
        "passes": [p._asdict() for p in progress.passes],
        "kept": chosen.number,
        "pulses": chosen.pulses,
        "losses": [r.loss for r in progress.history],
        "notes": [*program.notes, *NOTES, ASSUMPTIONS[-1]],
        "versions": versions(),
    }
