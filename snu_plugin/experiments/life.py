"""Chips looked after in several ways over years of use, scored at every visit: ``snu life``."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
from torch import Generator, Tensor

from snu_plugin import files, graph
from snu_plugin.accelerator import Accelerator, Chip, Program, Spent, set_ranges
from snu_plugin.accelerator import settings as chip_settings
from snu_plugin.compiler import compile
from snu_plugin.experiments import pictures
from snu_plugin.experiments.chip_life import chip_bytes, chip_from_bytes
from snu_plugin.experiments.datasets import SAMPLE, ScoredData, TuningData
from snu_plugin.experiments.passes import mean_score
from snu_plugin.experiments.progress import Say
from snu_plugin.experiments.resuming import EVERY_S, check_resumable, checkpoints
from snu_plugin.experiments.settings import UNITS_S, one_thread, ports, versions, write_json
from snu_plugin.hil import Every, Remembered, WhenWorse, fine_tune
from snu_plugin.report import life_page, plots
from snu_plugin.training import load_checkpoint, save_checkpoint

PROBES = 16
"""Sequences without labels that the health of a chip is seen by."""
SHOWN = 6
"""Ages that the terminal shows."""


class Care(NamedTuple):
    """What whoever looks after a chip has at hand."""

    data: ScoredData | TuningData
    registers: Mapping[str, Tensor]
    """The digital values of the chip as it was born."""
    generator: Generator
    """Of this visit to this chip."""


Upkeep = Callable[[Accelerator, Care], None]
"""Looks after a chip."""


def calibrate(chip: Accelerator, care: Care) -> None:
    """Fit the gain of every column anew, with random probes: no labels, no pulses."""
    chip.calibrate()


def tune(chip: Accelerator, care: Care) -> None:
    """Recalibrate, then ``fine_tune`` with its defaults: one pass over what there is to learn."""
    data = care.data
    if not isinstance(data, TuningData):
        raise TypeError("tuning needs data with parts to learn from; see load_tuning")
    chip.calibrate()
    unit = data.train.unit(lambda x: chip.run(x)[0])
    fine_tune(chip, list(data.train.batches(care.generator)), partial(data.train.loss, unit=unit))


def rewrite(chip: Accelerator, care: Care) -> None:
    """Write every weight of the graph again in a closed loop; digital values as at birth."""
    chip.set_registers(care.registers)
    chip.write({name: op.weight.float() for name, op in chip.layout.products.items()})


POLICIES: Mapping[str, tuple[str, Upkeep | None]] = {
    "none": ("written once, then left alone", None),
    "calibrate": ("the digital gain of every column fitted anew, without labels", calibrate),
    "tune": ("recalibrated, then tuned in the loop: one pass, with labels", tune),
    "rewrite": ("every weight written again in a closed loop", rewrite),
}
"""What each way to look after a chip means, and what does it."""


@dataclass(frozen=True, kw_only=True)
class LifeSettings:
    """What is asked for besides graph, data and chip.

    Raises:
        LookupError: For a policy that is none of ``POLICIES``.
        ValueError: For counts that are not positive, or a life without a visit.
    """

    seconds: float = 2 * UNITS_S["y"]
    """How long a life is."""
    schedule: Every | WhenWorse = field(default_factory=Every)
    do: tuple[str, ...] = tuple(POLICIES)
    """Policies, each for a life of its own of the same chips."""
    chips: int = 3
    reads: int = 3
    """Runs that a score is the mean of."""
    seed: int = 0
    """Of the first chip; the others count on."""
    dt: float | None = None
    feedback: graph.Feedback | None = None

    def __post_init__(self) -> None:
        for name in ("chips", "reads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be at least 0")
        for policy in self.do:
            if policy not in POLICIES:
                raise LookupError(f"nothing to do is called {policy!r}; give {', '.join(POLICIES)}")
        if len(set(self.do)) < len(self.do):
            raise ValueError(f"do is {','.join(self.do)}; give every name once")
        if not self.seconds >= self.schedule.seconds:
            raise ValueError(
                f"a life of {self.seconds:g} s has no visit, as there is one every "
                f"{self.schedule.seconds:g} s; give a longer life or more visits"
            )

    @property
    def visits(self) -> int:
        """How often a chip is looked at."""
        return int(self.seconds / self.schedule.seconds * (1 + 1e-12))


class Visit(NamedTuple):
    """What one visit to one chip found, did and cost."""

    policy: str
    chip: int
    """Number of the chip, which is its seed."""
    number: int
    """From 1; 0 is the chip as it was written."""
    age_s: float
    """Seconds since the chip was first written."""
    found: float
    """Score before anything was done."""
    left: float
    """Score afterwards."""
    done: bool
    """Whether the chip was looked after."""
    off: float | None
    """How far its products were off, where that was asked for; see ``products_off``."""
    pulses: int
    """SET and RESET pulses that looking after it took so far; estimated where the devices' model
    does not say them."""
    readings: int
    """Readings of one device each, so far."""
    energy_nj: float
    """Of looking after it, so far; what the chip leaks while it waits is not known."""
    seconds: float
    """Of looking after it, so far, the host's time included."""
    stuck: int
    """Devices that never change any more."""


def live(
    program: Program,
    data: ScoredData | TuningData,
    probes: Tensor,
    policy: str,
    number: int,
    settings: LifeSettings,
    checkpoint: Path,
    same: Mapping[str, Any],
    progress: Say = lambda text: None,
) -> list[Visit]:
    """Live one life of one chip.

    Args:
        program: The network laid out.
        data: What scores it, and is tuned on.
        probes: Inputs ``(T, B, ...)`` without labels that show its health.
        policy: One of ``POLICIES``.
        number: Of the chip, its seed.
        settings: How long, when, how often scored.
        checkpoint: Where the life is kept on the way; what lies there is taken up.
        same: Settings that must be those of the checkpoint.
        progress: Called with a sentence at every visit.
    """
    scored = data.test if isinstance(data, TuningData) else data
    schedule, upkeep = settings.schedule, POLICIES[policy][1]
    own = {**same, "policy": policy, "number": number}
    born = Accelerator(program, number).registers
    with one_thread(), torch.no_grad():
        if checkpoint.is_file():
            kept = load_checkpoint(checkpoint, own)
            chip = chip_from_bytes(kept["chip"])
            visits = [Visit(*values) for values in kept["visits"]]
            begun_s, cost = kept["begun_s"], Spent(*kept["cost"])
            before = Remembered(kept["products"], kept["level"])
        else:
            chip = Accelerator(program, number)
            chip.program()
            begun_s, cost = chip.clock_s - chip.age_s, Spent()
            value = mean_score(chip, scored, settings.reads)
            before = schedule.start(chip, probes)
            visits = [_visit(policy, number, 0, chip, begun_s, (value, value), False, None, cost)]
        saved = time.monotonic()
        while len(visits) <= settings.visits:
            visit = len(visits)
            chip.wait(max(0.0, begun_s + visit * schedule.seconds - chip.clock_s))
            found = left = mean_score(chip, scored, settings.reads)
            done, off = False, None
            if upkeep is not None:
                then, since_s = _total(chip), chip.clock_s
                done, off = schedule.look(chip, probes, before)
                if done:
                    drawn = np.random.SeedSequence([number, visit]).generate_state(1)[0]
                    with torch.enable_grad():
                        upkeep(chip, Care(data, born, Generator().manual_seed(int(drawn))))
                    before = schedule.after(chip, probes, before)
                cost = cost.plus(_difference(_total(chip), then, chip.clock_s - since_s))
                if done:
                    left = mean_score(chip, scored, settings.reads)
            visits.append(
                _visit(policy, number, visit, chip, begun_s, (found, left), done, off, cost)
            )
            progress(f"{policy}, chip {number}, visit {visit} of {settings.visits}: {left:.4g}")
            if time.monotonic() - saved > EVERY_S or visit == settings.visits:
                content = {
                    "chip": chip_bytes(chip),
                    "visits": [tuple(v) for v in visits],
                    "begun_s": begun_s,
                    "cost": tuple(cost),
                    "products": dict(before.products),
                    "level": before.level,
                }
                save_checkpoint(checkpoint, content, own)
                saved = time.monotonic()
    return visits


def _visit(
    policy: str,
    number: int,
    visit: int,
    chip: Accelerator,
    begun_s: float,
    scores: tuple[float, float],
    done: bool,
    off: float | None,
    cost: Spent,
) -> Visit:
    return Visit(
        policy,
        number,
        visit,
        chip.clock_s - begun_s,
        *scores,
        done,
        off,
        cost.sets + cost.resets,
        cost.readings,
        cost.energy_nj or 0.0,
        cost.seconds,
        sum(chip.stuck.values()),
    )


def _total(chip: Accelerator) -> Spent:
    """Return what was spent on a chip so far, but for waiting, whose energy is not known."""
    total = Spent()
    for operation, spent in chip.spent.items():
        if operation != "wait":
            total = total.plus(spent)
    return total


def _difference(now: Spent, then: Spent, seconds: float) -> Spent:
    """Return what was spent in between, with the time that went by on the chip's clock."""
    return Spent(
        now.times - then.times,
        (now.energy_nj or 0.0) - (then.energy_nj or 0.0),
        seconds,
        now.sets - then.sets,
        now.resets - then.resets,
        now.readings - then.readings,
        now.conversions - then.conversions,
        now.estimated,
    )


def life(
    g: nir.NIRGraph,
    data: Callable[[tuple[int, ...], tuple[int, ...]], ScoredData | TuningData],
    chip: Chip,
    settings: LifeSettings,
    out: Path,
    *,
    sample: Callable[[], Tensor],
    inputs: Mapping[str, Path] | None = None,
    jobs: int = 1,
    resume: bool = False,
    report: Path | None = None,
    progress: Say = lambda text: None,
) -> dict[str, Any]:
    """Let the same chips live a life for each policy, and leave scores, costs and the picture.

    At every visit the data score a chip, it is looked after if the schedule says so, and is scored
    again. The number of jobs changes nothing but the time. On the way checkpoints lie in ``out``;
    ``resume`` takes them up and gives bit for bit what an uninterrupted run gives.

    Args:
        g: The graph; it must have one Input and one Output.
        data: Called with the shapes of Input and Output, returns the data for them; tuning needs
            ``TuningData``.
        chip: The chip's settings.
        settings: How long, when, what is done, how many chips.
        out: A folder for ``life.json`` and ``life.png``; it is made.
        sample: Returns inputs that set the ranges of the converters and show the chip's health.
        inputs: Files whose content must be the same when a run is taken up, by name.
        jobs: Processes (joblib; -1: one per core).
        resume: Take up what the checkpoints hold.
        report: An HTML page to leave besides.
        progress: Called with a sentence on what is going on.

    Returns:
        The record, as written.

    Raises:
        CannotMap: If the chip cannot hold the graph.
        ValueError: For data that do not fit, a first visit before the chip can be read, checkpoints
            that are damaged or belong to other settings, or nothing to resume.
    """
    from joblib import Parallel, delayed

    if jobs == 0:
        raise ValueError("jobs is 0; give a number of processes, or -1 for one per core")
    pictures.check_folder(out)
    if report is not None and not report.absolute().parent.is_dir():
        raise FileNotFoundError(f"--report is {report}; its folder does not exist, make it first")
    kept = out / "life.checkpoints"
    check_resumable(kept, resume)
    program = compile(g, chip, dt=settings.dt, feedback=settings.feedback)
    scored = data(*ports(program))
    seen = sample()
    program = set_ranges(program, seen[:, :SAMPLE])
    content = {n: hashlib.sha256(f.read_bytes()).hexdigest() for n, f in (inputs or {}).items()}
    same = {
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("do", "chips", "seed")},
        "by": type(settings.schedule).__name__,
        "chip": chip_settings(chip),
        **content,
    }
    made = Accelerator(program, settings.seed)
    made.program()
    if settings.schedule.seconds < made.age_s:
        raise ValueError(
            f"a visit every {settings.schedule.seconds:g} s is too early: {program.chip_name} is "
            f"first read {made.age_s:g} s after programming"
        )
    lives = [(policy, settings.seed + n) for policy in settings.do for n in range(settings.chips)]
    with files.claim(out / "life.json"), checkpoints(kept, resume):
        tasks = (
            delayed(live)(
                program,
                scored,
                seen[:, :PROBES],
                policy,
                number,
                settings,
                kept / f"{policy}-{number}.checkpoint",
                same,
                *([progress] if jobs == 1 else []),
            )
            for policy, number in lives
        )
        visits: list[Visit] = []
        for done, lived in enumerate(Parallel(n_jobs=jobs, return_as="generator")(tasks), 1):
            visits += lived
            progress(f"{done} of {len(lives)} lives done")
        test = scored.test if isinstance(scored, TuningData) else scored
        reference = graph.network(g, program.dt, feedback=settings.feedback)
        with one_thread(), torch.no_grad():
            strict = test.score(lambda x: reference(x)[0])
        record = _record(program, test, strict, settings, visits)
        picture = draw(out / "life.png", record)
        if report is not None:
            life_page.write_page(report, record, picture, text(record))
        write_json(out / "life.json", record)
    return record


def _record(
    program: Program,
    data: ScoredData,
    strict: float,
    settings: LifeSettings,
    visits: Sequence[Visit],
) -> dict[str, Any]:
    """Return settings, statistics and every visit, as JSON can hold them."""
    return {
        "data": data.name,
        "metric": data.metric,
        "higher_is_better": data.higher_is_better,
        "chip": program.chip_name,
        "devices": program.devices,
        "schedule": {"kind": type(settings.schedule).__name__, **asdict(settings.schedule)},
        "seconds": settings.seconds,
        "chips": settings.chips,
        "reads": settings.reads,
        "seed": settings.seed,
        "reference": strict,
        "policies": {name: POLICIES[name][0] for name in settings.do},
        "costs": {
            name: _costs([v for v in visits if v.policy == name], settings) for name in settings.do
        },
        "visits": [visit._asdict() for visit in visits],
        "notes": [
            *program.notes,
            "every number about the chip comes from a simulation of its devices, not from silicon",
            "costs are those of looking after one chip, mean over chips, without its use; what a "
            "chip leaks while it waits is not known",
        ],
        "versions": versions(),
    }


def _costs(visits: Sequence[Visit], settings: LifeSettings) -> dict[str, float]:
    """Return what a life took in the end, mean over chips."""
    last = [v for v in visits if v.number == settings.visits]
    mean = {
        name: statistics.fmean(getattr(v, name) for v in last)
        for name in ("pulses", "readings", "energy_nj", "seconds", "stuck")
    }
    return {"upkeeps": sum(v.done for v in visits) / settings.chips, **mean}


def found(record: Mapping[str, Any], policy: str, what: str = "found") -> np.ndarray:
    """Return a score or count of every visit, ``(chips, visits)``."""
    rows = [v for v in record["visits"] if v["policy"] == policy]
    return np.array([row[what] for row in rows], float).reshape(record["chips"], -1)


def draw(path: Path, record: Mapping[str, Any]) -> Path:
    """Draw the score against years, a line for each policy, with what it costs beside."""
    policies = list(record["policies"])
    ages = found(record, policies[0], "age_s").mean(0) / UNITS_S["y"]
    return plots.life(
        path,
        ages,
        {name: found(record, name) for name in policies},
        {name: found(record, name, "left") for name in policies},
        {name: found(record, name, "done").mean(0) > 0 for name in policies},
        {name: record["costs"][name] for name in policies},
        lines={"no chip": record["reference"]},
        ylabel=pictures.axis(record["metric"]),
    )


def text(record: Mapping[str, Any]) -> str:
    """Return the record as a terminal shows it."""
    schedule, policies = record["schedule"], list(record["policies"])
    when = f"looked at every {_span(schedule['seconds'])}"
    if schedule["kind"] == "WhenWorse":
        when += f" and looked after when {100 * schedule['by']:g} % worse"
    written = found(record, policies[0])[:, 0].mean()
    ages = found(record, policies[0], "age_s").mean(0)
    count = len(ages) - 1
    shown = sorted({round(1 + (count - 1) * (n / (SHOWN - 1)) ** 2) for n in range(SHOWN)})
    width = 2 + max(map(len, policies))
    lines = [
        f"{record['data']}: {record['metric']}",
        f"{record['chip']}, {record['devices']:,} devices, {record['chips']} chips from seed "
        f"{record['seed']}, {_span(record['seconds'])}, {when}",
        f"strict reference, no chip: {record['reference']:.4f}; as written {written:.4f}",
    ]
    for what, said in (("found", "before upkeep"), ("left", "after upkeep")):
        chosen = {n: found(record, n, what) for n in policies if what == "found" or n != "none"}
        if not chosen:
            continue
        lines.append(f"{said}, mean ± standard deviation over chips:")
        lines.append(" " * width + "".join(f"{_span(ages[n]):>18}" for n in shown))
        for name, chips in chosen.items():
            spread = chips.std(0, ddof=1) if len(chips) > 1 else np.zeros(chips.shape[1])
            cells = (f"{chips[:, n].mean():.4f} ± {spread[n]:.4f}" for n in shown)
            lines.append(f"{name:{width}}" + "".join(f"{cell:>18}" for cell in cells))
    lines.append("what looking after one chip took in all:")
    heads = ("times", "pulses", "readings", "energy", "time", "stuck devices")
    lines.append(" " * width + "".join(f"{head:>15}" for head in heads))
    for name, cost in record["costs"].items():
        taken = (
            f"{cost['upkeeps']:.4g}",
            f"{cost['pulses']:,.0f}",
            f"{cost['readings']:,.0f}",
            f"{cost['energy_nj'] * 1e-3:.4g} µJ",
            f"{cost['seconds']:.3g} s",
            f"{cost['stuck']:.4g}",
        )
        lines.append(f"{name:{width}}" + "".join(f"{cell:>15}" for cell in taken))
    return "\n".join(lines)


def _span(seconds: float) -> str:
    """Return a time in the unit that reads best, such as 30 d or 2 y."""
    unit = next((u for u in ("y", "d", "h", "min") if seconds >= 0.995 * UNITS_S[u]), "s")
    return f"{seconds / UNITS_S[unit]:.3g} {unit}"
