"""Chorales on chips, from training to ten years: ``python docs/make/chorale_chips.py MAT``.

A network of 88-150-88 units is trained, plainly or as chips run it, written to chips of ``PCM``
with ranges from data, left alone to each age, and there recalibrated, tuned in its digital values,
given an adapter of rank 8 at the read-out and tuned, by labels or by the float network, or given
adapters beside both layers that add what read-back weights lack (``Correct``); no device is written
again. Each age is reached by a chip that nobody touched before. The way is chosen on the validation
pieces, over all chips of an age; what is printed are test pieces: medians over chips of the
difference to the same network without a chip, nats per step, and the float scores beside it.
Trained networks are kept in ``--out`` and taken up there.
"""

# Some of torch's functions have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import nir
import torch
from torch import Generator

from snu_plugin import graph
from snu_plugin.accelerator import PCM, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.durations import UNITS_S
from snu_plugin.experiments.datasets import SAMPLE, TuningData, chorale_parts
from snu_plugin.experiments.paper.jobs import ChoraleJob
from snu_plugin.experiments.paper.reproduce import recipe, train
from snu_plugin.experiments.passes import mean_score
from snu_plugin.hil import (
    Adapter,
    Correct,
    DigitalOnly,
    Recalibrate,
    Way,
    fine_tune,
    shown_inputs,
)
from snu_plugin.tasks import chorales

AGES_S = {"1d": 86_400.0, "1y": UNITS_S["y"], "10y": 10 * UNITS_S["y"]}
RULES: Mapping[str, tuple[list[Way], bool]] = {
    "recalibrated": ([Recalibrate()], False),
    "digital": ([Recalibrate(), DigitalOnly()], False),
    "adapter": ([Recalibrate(), Adapter(rank=8), DigitalOnly()], False),
    "taught": ([Recalibrate(), DigitalOnly()], True),
    "adapter, taught": ([Recalibrate(), Adapter(rank=8), DigitalOnly()], True),
    "corrected": ([Recalibrate(), Correct()], False),
    "corrected, rank 32": ([Recalibrate(), Correct(rank=32)], False),
    "corrected, taught": ([Recalibrate(), Correct(), DigitalOnly()], True),
}
"""By name: what is done, and whether the float network teaches instead of labels."""
PASSES = 8


def trained(unit: str, aware: bool, data: chorales.Chorales, epochs: int, out: Path) -> ChoraleJob:
    """Return the network, trained, or as ``out`` holds it."""
    chosen = recipe("jsb", unit, hardware_aware=aware, epochs=epochs)
    one = ChoraleJob(chosen, data, 0)
    kept = out / f"{unit}{'-aware' if aware else ''}-{epochs}.nir"
    if not kept.is_file():
        begun = time.monotonic()
        train(one, chosen)
        graph.write(kept, graph.to_nir(one.network.eval(), chorales.pad(data.test[:1]).x))
        print(f"{kept.name} trained in {time.monotonic() - begun:.0f} s", flush=True)
    return one


def changed(chip: Accelerator, way: str, g: nir.NIRGraph, data: TuningData, seed: int) -> None:
    """Do to a chip what the name says."""
    steps, taught = RULES[way]
    if not isinstance(steps[-1], DigitalOnly):
        for step in steps:
            shown_inputs(step, data.train.sample[:, :SAMPLE]).begin(chip)
        return
    batches = list(data.batches(Generator().manual_seed(seed)))
    if taught:
        fine_tune(chip, [x for x, _ in batches] * PASSES, rule=steps, teacher=g)
        return
    fine_tune(chip, batches * PASSES, data.train.loss, steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("mat", type=Path, help="JSB_Chorales.mat")
    parser.add_argument("--units", default="snu,ssnu")
    parser.add_argument("--training", default="aware,plain")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--chips", type=int, default=5)
    parser.add_argument("--ways", default=";".join(RULES))
    parser.add_argument("--ages", default=",".join(AGES_S))
    parser.add_argument("--outliers", type=float, default=0.0, help="share kept in digital logic")
    parser.add_argument("--out", type=Path, default=Path("chorale-chips"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    given.out.mkdir(parents=True, exist_ok=True)
    data = chorales.load(given.mat)
    parts = chorale_parts(data)
    print("| unit, training | float | age | chosen on validation | test, difference | all ways |")
    print("|---|---|---|---|---|---|", flush=True)
    for unit in given.units.split(","):
        for training in given.training.split(","):
            trained(unit, training == "aware", data, given.epochs, given.out)
            name = f"{unit}{'-aware' if training == 'aware' else ''}-{given.epochs}.nir"
            g = graph.read(given.out / name)
            net = graph.network(g)
            with torch.no_grad():
                alone = parts.test.score(lambda x, net=net: net(x)[0])  # type: ignore[misc]
            shown = parts.train.sample[:, :SAMPLE]
            program = compile(g, PCM, sample=shown, outliers=given.outliers)
            for age in given.ages.split(","):
                found: dict[str, tuple[float, list[float]]] = {}
                for way in given.ways.split(";"):
                    scores = []
                    for seed in range(given.chips):
                        chip = Accelerator(program, seed)
                        chip.program()
                        chip.wait(AGES_S[age] - chip.age_s)
                        changed(chip, way, g, parts, seed)
                        assert parts.valid is not None
                        scores.append(
                            (mean_score(chip, parts.valid), mean_score(chip, parts.test) - alone)
                        )
                    valid = statistics.median(v for v, _ in scores)
                    found[way] = (valid, [test for _, test in scores])
                best = min(found, key=lambda way: found[way][0])
                each = "; ".join(
                    f"{way} {statistics.median(tests):+.3f} "
                    f"({min(tests):+.3f} to {max(tests):+.3f})"
                    for way, (_, tests) in found.items()
                )
                middle = statistics.median(found[best][1])
                print(
                    f"| {unit}, {training} | {alone:.3f} | {age} | {best} | {middle:+.3f} | "
                    f"{each} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
