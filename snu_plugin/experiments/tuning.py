"""A chip tuned in the loop, pass by pass, from files to files: ``snu tune``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import nir
import torch
from torch import Generator, Tensor

from snu_plugin import files, graph
from snu_plugin.accelerator import (
    ASSUMPTIONS,
    Accelerator,
    Chip,
    Saturation,
    Spent,
    Writing,
    set_ranges,
    writing,
)
from snu_plugin.accelerator import settings as chip_settings
from snu_plugin.compiler import compile, saturation_text
from snu_plugin.experiments import pictures
from snu_plugin.experiments.chip_life import (
    aged_chip,
    chip_bytes,
    chip_from_bytes,
    copy_chip,
    recalibrated,
)
from snu_plugin.experiments.datasets import SAMPLE, ScoredData, TuningData
from snu_plugin.experiments.progress import Say
from snu_plugin.experiments.settings import one_thread, ports, versions, write_json
from snu_plugin.hil import (
    LOOKS_AT_PULSES,
    TRIED,
    DigitalOnly,
    Loop,
    MixedPrecision,
    ProgramVerify,
    Rule,
    SignPulses,
    Tuning,
    UpdateRecord,
)
from snu_plugin.training import load_checkpoint, save_checkpoint

PASSES = 8
"""Times that tuning sees what it learns from. Chosen on the validation chorales."""
JUDGES = 512
"""Sequences of the part to choose by that judge, at most: each look runs them several times."""
LOOKS_IN_PASS = LOOKS_AT_PULSES // PASSES
"""Looks in a pass of a rule with pulses, which cannot be taken back."""
READS = 3
"""Runs that a score is the mean of; each meets other slow read noise."""
RULE = MixedPrecision(lr=3.0, evidence=5.0)
"""Chosen on the validation chorales, where it is 0.01 nats better than no pulses at all; the plain
rule is worse than none, since a pulse is about as noisy as it is large."""
RULES: Mapping[str, Callable[[float | None], Rule]] = {
    # no pulse: gains, biases and thresholds alone, which can be set back
    "digital": lambda lr: DigitalOnly(),
    # add up gradients in digital and pulse where they agree (Nandakumar et al. 2020)
    "mixed": lambda lr: replace(RULE, lr=lr or RULE.lr),
    # one pulse against the sign of every large gradient (srnn-pcm)
    "pulses": lambda lr: SignPulses(threshold=lr or 0.03),
    # follow digital copies of the weights, reading before every pulse
    "verify": lambda lr: ProgramVerify(lr=lr or 0.1),
}
"""What makes each rule, given ``lr`` of ``rule``."""

NOTES = (
    "every number about the chip comes from a simulation of its devices, not from silicon",
    "gains, biases and thresholds are digital and learn beside the devices",
)


def rule(name: str, lr: float | None = None) -> Rule:
    """Return an update rule by name.

    Args:
        name: One of ``RULES``.
        lr: Weight per unit of gradient; for ``pulses`` the least gradient that causes a pulse; of
            no meaning for ``digital``. ``None``: 3, 0.1 and 0.03; in tuning chorales and digits
            about a gradient in a thousand is larger than 0.03.

    Raises:
        LookupError: For another name.
        ValueError: For an ``lr`` that is not positive.
    """
    if lr is not None and not 0 < lr < float("inf"):
        raise ValueError(f"lr is {lr}; it must be a positive number")
    if name == "digital" and lr is not None:
        raise ValueError(f"lr is {lr}; the rule 'digital' takes none, give digital-lr instead")
    if name not in RULES:
        raise LookupError(f"no rule {name!r}; give {', '.join(RULES)}")
    return RULES[name](lr)


class TuningPass(NamedTuple):
    """What one pass over the data gave."""

    number: int
    """From 1; 0 is the calibrated chip before the first."""
    loss: float | None
    """Mean loss that the chip showed while it was tuned."""
    score: float | None
    """Of the part to choose by, mean of ``READS`` runs."""
    pulses: int
    """SET and RESET pulses so far."""
    refreshed: int
    """Pairs written again in this pass."""
    saturated: float
    """Share of conversions at the end of the range, mean."""
    clock_s: float
    """The chip's clock afterwards."""


@dataclass
class TuningState:
    """How far the tuning of a chip has come."""

    tuning: Tuning[Any]
    generator: Generator
    """Of the order of the data."""
    passes: list[TuningPass] = field(default_factory=list)
    kept: int = 0
    """The pass whose digital values are kept."""
    unit: float = 1.0
    """In which the loss takes the outputs; found on the calibrated chip, then kept."""
    untuned: dict[str, float] = field(default_factory=dict)
    """Scores of the chip before the first pass, where they were taken."""

    @property
    def chip(self) -> Accelerator:
        """The chip that is tuned."""
        assert isinstance(self.tuning.chip, Accelerator)
        return self.tuning.chip

    @property
    def history(self) -> list[UpdateRecord]:
        """What every update did."""
        return self.tuning.history

    def save(self, file: Path, settings: Mapping[str, Any]) -> None:
        """Leave a checkpoint; ``load`` takes it up."""
        content = {
            "before": self.untuned,
            "chip": chip_bytes(self.chip),
            "kept": self.kept,
            "unit": self.unit,
            "tuning": self.tuning.saved(),
            "generator": self.generator.get_state(),
            "passes": [tuple(p) for p in self.passes],
            "history": [tuple(asdict(r).values()) for r in self.history],
        }
        save_checkpoint(file, content, settings)

    @classmethod
    def load(
        cls, file: Path, settings: Mapping[str, Any], data: TuningData, loop: Loop
    ) -> TuningState:
        """Return what ``save`` left; raises as ``load_checkpoint`` does."""
        found = load_checkpoint(file, settings)
        generator, unit = Generator(), found["unit"]
        generator.set_state(found["generator"])
        tuning = Tuning.restored(
            chip_from_bytes(found["chip"]),
            loop,
            partial(data.train.loss, unit=unit),
            judges(data),
            found["tuning"],
            (UpdateRecord(*values) for values in found["history"]),
        )
        return cls(
            tuning=tuning,
            generator=generator,
            passes=[TuningPass(*values) for values in found["passes"]],
            kept=found["kept"],
            unit=unit,
            untuned=found["before"],
        )


def judges(data: TuningData) -> list[tuple[Tensor, Any]] | None:
    """Return batches of the part to choose by, ``JUDGES`` sequences at most; without it none."""
    if data.valid is None:
        return None
    held, count = [], 0
    for x, target in data.valid.batches(Generator().manual_seed(0)):
        held.append((x, target))
        count += x.shape[1]
        if count >= JUDGES:
            break
    return held


def begin(
    chip: Accelerator, data: TuningData, loop: Loop, seed: int, *, choose_step: bool = False
) -> TuningState:
    """Take a programmed, calibrated chip, score it, and choose a step size if that is asked."""
    unit = data.train.unit(lambda x: chip.run(x)[0])
    tuning = Tuning.begin(chip, loop, partial(data.train.loss, unit=unit), judges(data))
    state = TuningState(tuning, Generator().manual_seed(seed), unit=unit)
    _finish(state, data, 0)
    if choose_step:
        tuning.choose_step(list(islice(data.batches(Generator().manual_seed(seed)), TRIED)))
    return state


def run_passes(
    state: TuningState,
    data: TuningData,
    passes: int,
    *,
    on_pass: Callable[[TuningState], None] = lambda state: None,
    progress: Say = lambda text: None,
) -> Accelerator:
    """Tune until there were ``passes`` passes; return the chip as it is left.

    With the digital values that were best on the part to choose by, if they help there beyond the
    noise of the measurement, else those of before; without such a part those of the last pass. It
    remembers its weights for ``calibrate`` where it is another than before.

    Args:
        state: From ``begin``; is moved on.
        data: What is learned from and chosen by.
        passes: In all.
        on_pass: Called after every pass, e.g. to leave a checkpoint.
        progress: Called with a sentence after every update.
    """
    tuning = state.tuning
    while len(state.passes) <= passes:
        number, first = len(state.passes), len(state.history)
        batches = list(data.batches(state.generator))
        looks = 1 if isinstance(tuning.loop.rule, DigitalOnly) else LOOKS_IN_PASS
        every = math.ceil(len(batches) / looks)
        for at, (x, target) in enumerate(batches, 1):
            record = tuning.update(x, target)
            progress(f"pass {number} of {passes}, batch {at}: loss {record.loss:.4g}")
            if at % every == 0 or at == len(batches):
                tuning.look()
                if tuning.guard is None or tuning.guard.best_look == tuning.guard.looks:
                    state.kept = number
        _finish(state, data, first)
        on_pass(state)
    changed = tuning.settle()
    if tuning.guard is not None and tuning.history.after == tuning.history.before:
        state.kept = 0
    if changed:
        state.chip.remember()
    return state.chip


@torch.no_grad()
def mean_score(chip: Accelerator, data: ScoredData, reads: int = READS) -> float:
    """Return the mean score of some runs on the chip, which age it by their length."""
    return sum(data.score(lambda x: chip.run(x)[0]) for _ in range(reads)) / reads


def tuned_copy(chip: Accelerator, data: TuningData, seed: int) -> Accelerator:
    """Return a copy of a calibrated chip, tuned as ``snu tune`` does by default."""
    state = begin(copy_chip(chip), data, TuneSettings().loop, seed, choose_step=True)
    return run_passes(state, data, PASSES)


def _finish(state: TuningState, data: TuningData, first: int) -> None:
    """Score the chip after a pass, whose records begin at ``first``."""
    records = state.history[first:]
    count = len(records)
    state.passes.append(
        TuningPass(
            len(state.passes),
            sum(r.loss for r in records) / count if count else None,
            None if data.valid is None else mean_score(state.chip, data.valid),
            sum(r.pulses for r in state.history),
            sum(r.refreshed for r in records),
            sum(r.saturated for r in records) / max(count, 1),
            state.chip.clock_s,
        )
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
class TuneSettings:
    """What is asked for besides graph, data and chip."""

    rule: str = "digital"
    lr: float | None = None
    """See ``rule``."""
    digital_lr: float | None = None
    """First step size of the digital values, in shares of their size; ``None``: by trial."""
    passes: int = PASSES
    age_s: float = 86_400.0
    """Seconds from programming to tuning."""
    seed: int = 0
    """Of the chip, and of the order of the data."""
    dt: float | None = None
    feedback: graph.Feedback | None = None

    def __post_init__(self) -> None:
        rule(self.rule, self.lr)
        if self.passes < 1:
            raise ValueError(f"epochs is {self.passes}; it must be at least 1")
        if self.digital_lr is not None and not 0 <= self.digital_lr < float("inf"):
            raise ValueError(f"digital-lr is {self.digital_lr}; it must be a number of at least 0")

    @property
    def loop(self) -> Loop:
        """How every update goes."""
        made = Loop(rule=rule(self.rule, self.lr))
        return made if self.digital_lr is None else replace(made, digital_lr=self.digital_lr)


def tune(
    g: nir.NIRGraph,
    data: Callable[[tuple[int, ...], tuple[int, ...]], TuningData],
    chip: Chip,
    settings: TuneSettings,
    out: Path,
    *,
    inputs: Mapping[str, Path] | None = None,
    resume: bool = False,
    progress: Say = lambda text: None,
) -> dict[str, Any]:
    """Write a graph onto a chip, let it age, tune it in the loop and leave the outcome in ``out``.

    After every pass, and before the first, a checkpoint lies there; ``resume`` takes it up and
    gives bit for bit what an uninterrupted run gives. At the end it makes way for the outcome.

    Args:
        g: The graph; it must have one Input and one Output.
        data: Called with the shapes of Input and Output, returns the data for them.
        chip: The chip's settings.
        settings: Rule, passes, age, seed.
        out: See ``places``.
        inputs: Files whose content must be the same when a run is taken up, by name.
        resume: Take up what the checkpoint holds.
        progress: Called with a sentence on every update.

    Returns:
        The record, as written.

    Raises:
        CannotMap: If the chip cannot hold the graph.
        ValueError: For data that do not fit, an age before the chip can be read, a checkpoint that
            is damaged or belongs to other settings, or nothing to resume.
    """
    left = places(out)
    for name, file in (inputs or {}).items():
        if left.graph.exists() and left.graph.samefile(file):
            raise ValueError(f"--out is {out}; the {name} would be overwritten, give another file")
    if resume and not left.checkpoint.is_file():
        raise ValueError(f"{left.checkpoint} does not exist; leave out --resume to start anew")
    program = compile(g, chip, dt=settings.dt, feedback=settings.feedback)
    parts, passes = data(*ports(program)), settings.passes
    program = set_ranges(program, parts.train.sample[:, :SAMPLE])
    own = {name: value for name, value in asdict(settings).items() if name != "passes"}
    content = {n: hashlib.sha256(f.read_bytes()).hexdigest() for n, f in (inputs or {}).items()}
    same = own | content | {"chip": chip_settings(chip)}
    with files.claim(left.checkpoint):
        with one_thread():
            if resume:
                state = TuningState.load(left.checkpoint, same, parts, settings.loop)
            else:
                made = aged_chip(program, settings.seed, settings.age_s)
                untuned = {"programmed": mean_score(made, parts.test)}
                untuned["compensated"] = mean_score(recalibrated(made), parts.test)
                choose = settings.digital_lr is None
                state = begin(made, parts, settings.loop, settings.seed, choose_step=choose)
                state.untuned = untuned
            if len(state.passes) > passes + 1:
                raise ValueError(
                    f"{left.checkpoint} holds {len(state.passes) - 1} passes, more than the "
                    f"{passes} asked for"
                )

            def keep(state: TuningState) -> None:
                state.save(left.checkpoint, same)

            keep(state)
            made = run_passes(state, parts, passes, on_pass=keep, progress=progress)
            tuned = mean_score(made, parts.test)
            with torch.no_grad():
                reference = graph.network(g, program.dt, feedback=settings.feedback)
                strict = parts.test.score(lambda x: reference(x)[0])
            before = aged_chip(program, settings.seed, settings.age_s)
            saturation = recalibrated(before).run(parts.train.sample[:, :SAMPLE])[1].saturation
        spent = made.spent
        history = state.tuning.history
        written = (after - earlier for after, earlier in zip(made.worn, before.worn, strict=True))
        record = {
            "data": parts.test.name,
            "metric": parts.test.metric,
            "parts": parts.note,
            "chip": program.chip_name,
            "devices": program.devices,
            "tiles": program.tile_count,
            **own,
            "rule_settings": asdict(settings.loop.rule),  # type: ignore[call-overload]
            "test": {"reference": strict, **state.untuned, "tuned": tuned},
            "passes": [p._asdict() for p in state.passes],
            "kept": state.kept,
            "outcome": history.note,
            "step": history.step,
            "stopped": history.stopped,
            "pulses": state.passes[-1].pulses,
            "losses": [r.loss for r in state.history],
            "spent": {what: took._asdict() for what, took in spent.items()},
            "saturation": {name: shares._asdict() for name, shares in saturation.items()},
            "notes": [*program.notes, *NOTES, ASSUMPTIONS[-1]],
            "versions": versions(),
            "writing": writing(chip, *written)._asdict(),
        }
        made.save(left.chip)
        graph.write(left.graph, made.to_nir())
        if left.pictures is not None:
            pictures.of_tuning(left.pictures, record, state.history, before, made)
        write_json(left.history, record)
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
            *saturation_text({n: Saturation(**s) for n, s in record["saturation"].items()}),
            *(note for note in record["notes"] if "ranges" in note),
            *(f"spent on {what}: {Spent(**took).text()}" for what, took in record["spent"].items()),
            *([record["outcome"]] if record["outcome"] else []),
            f"kept: {record['kept']} of {len(passes) - 1} passes; written in tuning: "
            f"{Writing(**record['writing']).text()}",
        ]
    )
