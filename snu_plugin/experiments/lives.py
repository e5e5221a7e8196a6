"""Chips looked after over years of use, scored at every visit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import Accelerator, Program, Spent
from snu_plugin.accepted import OFTEN, SEED
from snu_plugin.durations import UNITS_S, span
from snu_plugin.experiments import ways
from snu_plugin.experiments.chip_life import ChipFile, Layout
from snu_plugin.experiments.datasets import Judged, ScoredData, TuningData
from snu_plugin.experiments.passes import judged
from snu_plugin.experiments.runs import EVERY_S, Say
from snu_plugin.experiments.settings import one_thread
from snu_plugin.hil import Every, Remembered, WhenWorse


@dataclass(frozen=True, kw_only=True)
class LifeSettings(Layout):
    """What is asked for besides graph, data and chip.

    Raises:
        LookupError: For a policy that no name stands for; see ``ways.steps``.
        ValueError: For counts that are not positive, a life without a visit, or what is to be done
            more often than there are visits.
    """

    seconds: float = 2 * UNITS_S["y"]
    """How long a life is."""
    schedule: Every | WhenWorse = field(default_factory=Every)
    do: tuple[str, ...] = tuple(ways.SAYS)
    """Policies, each for a life of its own of the same chips; see ``ways.steps``."""
    chips: int = 3
    reads: int = 3
    """Runs that a score is the mean of."""
    seed: int = 0
    """Of the first chip; the others count on."""

    def __post_init__(self) -> None:
        for name in ("chips", "reads"):
            OFTEN.check(name, getattr(self, name))
        SEED.check("seed", self.seed)
        for policy in self.do:
            for step in ways.steps(policy):
                if 0 < step.period_s < self.schedule.seconds:
                    raise ValueError(
                        f"{policy} is more often than visits, of which there is one every "
                        f"{span(self.schedule.seconds)}; give a shorter --every"
                    )
        if len(set(self.do)) < len(self.do):
            raise ValueError(f"do is {','.join(self.do)}; give every name once")
        if not self.seconds >= self.schedule.seconds:
            raise ValueError(
                f"a life of {span(self.seconds)} has no visit, as there is one every "
                f"{span(self.schedule.seconds)}; give a longer life or more visits"
            )

    @property
    def tunes(self) -> bool:
        """Whether any policy learns from data."""
        return any(step.tunes for policy in self.do for step in ways.steps(policy))

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
    silent: float
    """Sequences on which every output was silent before anything was done, mean over runs."""


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
        policy: What is done; see ``ways.steps``.
        number: Of the chip, its seed.
        settings: How long, when, how often scored.
        checkpoint: Where the life is kept on the way; what lies there is taken up.
        same: Settings that must be those of the checkpoint.
        progress: Called with a sentence at every visit.
    """
    schedule, steps = settings.schedule, ways.steps(policy)

    def visited(visit: int, found: Judged, left: Judged, done: bool, off: float | None) -> Visit:
        pulses, energy_nj, stuck = cost.sets + cost.resets, cost.energy_nj, sum(chip.stuck.values())
        return Visit(
            policy, number, visit, chip.clock_s - begun_s, found.score, left.score, done, off,
            pulses, cost.readings, energy_nj or 0.0, cost.seconds, stuck, found.silent,
        )  # fmt: skip

    with one_thread(), torch.no_grad():
        file = ChipFile(checkpoint, {**same, "policy": policy, "number": number}, EVERY_S)
        begun, kept = file.load()
        if begun is not None:
            chip, visits = begun, [Visit(*values) for values in kept["visits"]]
            begun_s, cost = kept["begun_s"], Spent(*kept["cost"])
            before, last = Remembered(kept["products"], kept["level"]), kept["last"]
        else:
            chip = Accelerator(program, number)
            chip.program()
            begun_s, cost = chip.clock_s - chip.age_s, Spent()
            value = judged(chip, data.test, settings.reads)
            before, last = schedule.start(chip, probes), [0] * len(steps)
            visits = [visited(0, value, value, False, None)]
        while len(visits) <= settings.visits:
            visit = len(visits)
            chip.wait(max(0.0, begun_s + visit * schedule.seconds - chip.clock_s))
            found = left = judged(chip, data.test, settings.reads)
            done, off = False, None
            if steps:
                then, began_s = _total(chip), chip.clock_s
                due, off = schedule.look(chip, probes, before)
                for at, step in enumerate(steps):
                    since_s = (visit - last[at]) * schedule.seconds * (1 + 1e-9)
                    if due and since_s >= step.period_s:
                        ways.look_after(chip, step, data, probes, _draw(number, visit, at))
                        last[at], done = visit, True
                if done:
                    before = schedule.after(chip, probes, before)
                took = _total(chip).since(then)._replace(seconds=chip.clock_s - began_s)
                cost = cost.plus(took)
                if done:
                    left = judged(chip, data.test, settings.reads)
            visits.append(visited(visit, found, left, done, off))
            progress(
                f"{policy}, chip {number}, visit {visit} of {settings.visits}: {left.score:.4g}"
            )
            known = {
                "visits": [tuple(v) for v in visits],
                "begun_s": begun_s,
                "cost": tuple(cost),
                "products": dict(before.products),
                "level": before.level,
                "last": last,
            }
            file.save(chip, known, last=visit == settings.visits)
    return visits


def _draw(*about: int) -> Generator:
    """Return a generator of its own for each chip, visit and step."""
    return Generator().manual_seed(int(np.random.SeedSequence(about).generate_state(1)[0]))


def _total(chip: Accelerator) -> Spent:
    """Return what was spent on a chip so far, but for waiting, whose energy is not known."""
    total = Spent()
    for operation, spent in chip.spent.items():
        if operation != "wait":
            total = total.plus(spent)
    return total
