"""The pages that ``--report`` leaves, one for each command, from one template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
from torch import Tensor

from snu_plugin.accelerator import Program
from snu_plugin.durations import count, span
from snu_plugin.experiments import life, pictures
from snu_plugin.experiments.chip_life import Score
from snu_plugin.experiments.compare import COSTS, cost_cells
from snu_plugin.experiments.report_parts import (
    cost,
    cost_cards,
    divergence,
    folder_for_pictures,
    layers,
    percent,
    saturation,
    spent,
    spread,
    table,
)
from snu_plugin.experiments.settings import listed, versions
from snu_plugin.experiments.tuning import changed
from snu_plugin.graph import Report
from snu_plugin.report.page import SAID, Figure, Section, Sheet, Table, duration, write_sheet

MODELLED = "Every number about the chip comes from a simulation of its devices, not from silicon."

VISITS = (
    "Mean and standard deviation over chips; a mark is a visit at which chips were looked after."
)


def of_verify(
    path: Path, found: Report, g: nir.NIRGraph, x: Tensor | None, *, command: str, **how: Any
) -> Path:
    """Write what ``graph.verify`` found, and what the layers of the graph did.

    Args:
        path: Where the page goes.
        found: What it found.
        g: The graph.
        x: The inputs that were given; ``None``: those drawn for it are drawn again.
        command: What was typed.
        how: ``dt`` and ``feedback``, as they were given.
    """
    runs = [
        (
            run.simulator,
            "ours" if run.importer == "plugin" else "its own",
            run.status,
            percent(run.differing),
            "" if run.first_step is None else str(run.first_step),
            run.shortly,
        )
        for run in found.runs
    ]
    nodes = [
        (n.name or "(graph)", n.kind, n.verdict, percent(found.fired.get(n.name)), n.reason)
        for n in found.nodes
    ]
    with folder_for_pictures() as folder:
        sections = [
            table(
                "What simulators make of it",
                ("simulator", "importer", "result", "outputs that differ", "first at step", "why"),
                runs,
                divergence(folder / "divergence.png", found),
                words=(1, 2, 5),
            ),
            table(
                "Each node",
                ("node", "type", "verdict", "neurons that fired", "reason"),
                nodes,
                words=(1, 2, 4),
            ),
            *layers(folder, g, x, **how),
        ]
        exact = sum(run.status == "exact" for run in found.runs)
        sheet = Sheet(
            title="Does it run elsewhere as it was trained?",
            lede="Yes: exact." if found.exact else f"Not exact: {'; '.join(found.problems)}.",
            badges=(f"{found.steps} steps", f"{found.batch} sequences", found.inputs),
            cards={
                "importers exact": f"{exact} of {len(found.runs)}",
                "outputs that are not zero": percent(found.active),
                "states within rounding of their threshold": percent(found.near_threshold),
            },
            sections=sections,
            notes=found.notes,
            command=command,
            facts={"compared as": found.compared, "versions": listed(found.versions)},
        )
        return write_sheet(path, sheet)


def of_map(path: Path, answer: Mapping[str, Any], program: Program | None, *, command: str) -> Path:
    """Write what ``snu map`` says: where weights lie and what a step costs, or what is broken.

    Args:
        path: Where the page goes.
        answer: The plan as JSON.
        program: ``None`` where it does not fit.
        command: What was typed.
    """
    facts = {"versions": listed(versions())}
    sheet = Sheet(title="Does it fit on the chip?", lede="", command=command, facts=facts)
    if program is None:
        lede = f"No: {len(answer['broken'])} rules of {answer['chip']} are broken."
        broken = Section(title="What is broken", text=answer["broken"])
        return write_sheet(path, replace(sheet, lede=lede, sections=[broken]))
    with folder_for_pictures() as folder:
        tiles, power = pictures.of_program(folder, program, answer)
        rows = answer["activity"]
        driven = "driven by data" if rows is None else f"{rows:.0%} of the rows driven, assumed"
        sheet = replace(
            sheet,
            lede=f"Yes: on {answer['tiles']} of {answer['tiles_available']} tiles of "
            f"{answer['chip']}.",
            badges=("simulated chip", driven),
            cards={
                "devices": count(answer["devices"]),
                "of the cells of these tiles in use": percent(answer["utilisation"]),
                **cost_cards(answer),
            },
            sections=[
                Section(title="Where weights lie", figures=[
                    Figure(file=tiles, title="Tiles", caption="What lies where on each tile, and "
                           "the share of its cells in use.", wide=True)]),
                cost(power, answer),
                *saturation(answer["saturation"]),
            ],
            notes=[*answer["warnings"], *answer["notes"], MODELLED],
            facts={**facts, "assumed": "; ".join(answer["assumptions"])},
        )  # fmt: skip
        return write_sheet(path, sheet)


def of_run(
    path: Path,
    record: Mapping[str, Any],
    scores: Sequence[Score],
    g: nir.NIRGraph,
    x: Tensor,
    *,
    command: str,
    **how: Any,
) -> Path:
    """Write what ``snu run`` found: the score as chips age, and what the layers did.

    Args:
        path: Where the page goes.
        record: What ``ageing.run`` returned.
        scores: Likewise.
        g: The graph.
        x: Some of the inputs, ``(T, N, ...)``.
        command: What was typed.
        how: ``dt`` and ``feedback``, as they were given.
    """
    rows = [
        (SAID[case], *(spread(s["mean"], s["std"]) for s in by_age.values()))
        for case, by_age in record["scores"].items()
    ]
    with folder_for_pictures() as folder:
        drawn = pictures.of_scores(folder, record, scores)
        return _write(
            path, record, command,
            title=f"As chips age: {record['data']}",
            lede=f"{record['metric']}: {record['reference']:.4f} without a chip.",
            cards={
                "without a chip": f"{record['reference']:.4f}",
                "devices": count(record["devices"]),
                "chips and runs on each": f"{record['chips']} × {record['reads']}",
                **cost_cards(record["cost"]),
            },
            sections=[
                table(
                    "The score",
                    ("after", *map(span, record["ages_s"].values())),
                    rows,
                    [Figure(file=drawn[0], title="Score against age", wide=True)],
                    caption="Mean and standard deviation over chips and runs.",
                ),
                cost(drawn[1], record["cost"]),
                *saturation(record["saturation"]),
                *layers(folder, g, x, **how),
            ],
            notes=[*record["notes"], MODELLED],
        )  # fmt: skip


def of_tune(
    path: Path,
    record: Mapping[str, Any],
    g: nir.NIRGraph,
    x: Tensor,
    *,
    command: str,
    **how: Any,
) -> Path:
    """Write what ``snu tune`` did, beside what leaving alone and recalibrating give.

    Args:
        path: Where the page goes.
        record: What ``tuning.tune`` returned.
        g: The graph before it was tuned.
        x: Some of the inputs, ``(T, N, ...)``.
        command: What was typed.
        how: ``dt`` and ``feedback``, as they were given.
    """
    test, passes = record["test"], record["passes"]
    tuned = "tuned in the loop" if changed(record) else "the same, read again: nothing was kept"
    named = {
        "no chip": "reference",
        "left alone": "programmed",
        "recalibrated": "compensated",
        tuned: "tuned",
    }
    rows = [(name, f"{test[key]:.4f}", _gain(test, key)) for name, key in named.items()]
    with folder_for_pictures() as folder:
        figures = []
        if any(done["score"] is not None for done in passes):
            drawn = pictures.of_passes(folder, record)
            figures = [Figure(file=drawn, title="Pass by pass", wide=True)]
        return _write(
            path, record, command,
            title=f"Tuned in the loop: {record['data']}",
            lede=f"{record['metric']}: "
            + (f"{test['tuned']:.4f} {tuned}, " if changed(record) else "")
            + f"{test['compensated']:.4f} recalibrated, {test['programmed']:.4f} left alone, "
            f"{test['reference']:.4f} without a chip."
            + ("" if changed(record) else " Tuning kept nothing."),
            badges=(f"{span(record['age_s'])} after programming", f"rule: {record['rule']}"),
            cards={
                tuned: f"{test['tuned']:.4f}",
                "recalibrated": f"{test['compensated']:.4f}",
                "pulses": count(record["pulses"]),
                "passes kept": f"{record['kept']} of {len(passes) - 1}",
            },
            sections=[
                Section(
                    title="What it gains",
                    text=[record["outcome"]] if record["outcome"] else [],
                    tables=[Table(heads=("chip", "score", "to left alone"), rows=rows)],
                    figures=figures,
                ),
                spent(record["spent"]),
                *saturation(record["saturation"]),
                *layers(folder, g, x, **how),
            ],
        )  # fmt: skip


def of_compare(path: Path, record: Mapping[str, Any], *, command: str) -> Path:
    """Write what ``snu tune --compare`` found: every way beside the others, with its costs.

    Args:
        path: Where the page goes.
        record: What ``compare.compare`` returned.
        command: What was typed.
    """
    ways = record["ways"]
    ages = list(next(iter(ways.values()))["scores"])
    scores = [
        (way, *(spread(s["mean"], s["std"]) for s in found["scores"].values()))
        for way, found in ways.items()
    ]
    costs = [(way, *cost_cells(found["cost"])) for way, found in ways.items()]
    heads = ("way", *COSTS, "digital values")
    best = [f"At {when}: {way}." for when, way in record["best"].items()]
    return _write(
        path, record, command,
        title=f"Every way to change a chip: {record['data']}",
        lede=f"{record['metric']}: {record['reference']:.4f} without a chip.",
        badges=(f"changed {span(record['age_s'])} after programming",),
        cards={"devices": count(record["devices"]), "chips": str(record["chips"])},
        sections=[
            table(
                "Scores, mean and standard deviation over chips",
                ("way", *map(duration, ages)),
                scores,
            ),
            table("What each takes", heads, costs),
            Section(title="As good as the best, at least wear and energy", text=best),
        ],
    )  # fmt: skip


def of_life(path: Path, record: Mapping[str, Any], picture: Path, *, command: str) -> Path:
    """Write what ``snu life`` found: the score over the years, and what looking after took.

    Args:
        path: Where the page goes.
        record: What ``life.life`` returned.
        picture: A PNG of it.
        command: What was typed.
    """
    rows = [
        (name, means, *life.cost_cells(record["costs"][name], time=False))
        for name, means in record["policies"].items()
    ]
    drawn = Figure(file=picture, title="Score and upkeep", caption=VISITS, wide=True)
    heads = ("way", "what is done", "times", "pulses", "readings", "energy", "stuck devices")
    return _write(
        path, record, command,
        title=f"Years of use: {record['data']}",
        lede=f"{record['metric']}. {' '.join(life.text(record).splitlines()[1:2])}.",
        badges=(f"from seed {record['seed']}",),
        cards={
            "devices": count(record["devices"]),
            "chips, each in every life": str(record["chips"]),
            "strict reference, no chip": f"{record['reference']:.4f}",
        },
        sections=[
            Section(title="The score over the years", figures=[drawn]),
            table("What looking after one chip took in all", heads, rows, words=(1,)),
        ],
    )  # fmt: skip


def _write(
    path: Path, record: Mapping[str, Any], command: str, *, badges: Sequence[str] = (), **said: Any
) -> Path:
    """Write a page about simulated chips: what it ``said``, and what all such pages say."""
    about = {"notes": record["notes"], "facts": {"versions": listed(record["versions"])}, **said}
    chip = "simulated chip", f"chip: {record['chip']}"
    return write_sheet(path, Sheet(badges=(*chip, *badges), command=command, **about))


def _gain(test: Mapping[str, float], key: str) -> str:
    gained = test[key] - test["programmed"]
    return "" if key == "programmed" else f"{gained:+.4f}".replace("-", "−")
