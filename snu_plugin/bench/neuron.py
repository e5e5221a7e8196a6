"""What a layer of neurons costs beside its matrix product, forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from snu_plugin.bench import growth, isolated, spikes
from snu_plugin.bench.candidates import (
    ALONE,
    COMPILED,
    COPIES,
    PRODUCT,
    Maker,
    Workload,
    candidates,
    ready,
)
from snu_plugin.bench.timing import (
    check_device,
    check_parts,
    check_settings,
    counted,
    table,
    threads_of_torch,
    time_in_turns,
)

WORKLOADS = (
    Workload(100, 64, (784, 256)),
    Workload(100, 16, (88, 150)),
    Workload(500, 16, (512, 512)),
    Workload(20, 100, (784, 256, 256, 256, 10)),
    Workload(20, 15, (784, 256, 256, 256, 10)),
)
"""Rate-coded MNIST, Bach chorales, a long sequence, and a deep network at two batch sizes."""

PARTS = ("layers", "spikes", "growth", "apart")
"""Workloads in turns; the same by the share of spikes; workloads against each size; each candidate
in a process of its own."""


def run(
    seconds: float = 10.0,
    *,
    threads: int | None = None,
    only: Iterable[str] = (),
    parts: Sequence[str] = PARTS,
    workloads: Sequence[Workload] = WORKLOADS,
    compiled: bool = False,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time products, neurons and both together in one run; JSON can hold the answer.

    Everything is float32, forward and backward, with the gradients of all weights and thresholds.

    Args:
        seconds: About how long each workload takes; each round runs whole, and at least five.
        threads: Threads of torch; ``None``: one, then all that torch has.
        only: Parts of the names of those who are timed; none: all. ``spikes`` has its own.
        parts: Which of ``PARTS``.
        workloads: Sizes to run.
        compiled: Time ``torch.compile`` of the reference too, which compiles for minutes.
        device: ``cuda`` times the layers alone, at 16 times the batch.
        progress: Is told what is going on.

    Returns:
        ``layers``: for each number of threads, workload and candidate the quartiles in seconds and
        the median, over rounds, of the ``ratio`` to the product alone and, where there is no
        product, of the ``bytes_ratio`` to three copies of ``(T, B, N)``; ``spikes``, ``growth`` and
        ``apart``: see there; ``absent``: why some were left out.

    Raises:
        ValueError: If ``seconds`` or ``threads`` is not positive, or for an unknown part.
        LookupError: If nobody has a name in ``only``.
    """
    check_settings(seconds, threads)
    check_device(device)
    check_parts(parts, PARTS)
    makers = candidates(only)
    absent: dict[str, str] = {}
    if not compiled and COMPILED in makers:
        del makers[COMPILED]
        absent[COMPILED] = "not asked for: it takes minutes"
    counts = [threads] if threads is not None else sorted({1, torch.get_num_threads()})
    if device != "cpu":
        parts, counts = ["layers"], counts[:1]
        workloads = [w._replace(batch=16 * w.batch, device=device) for w in workloads]
    answer: dict[str, Any] = {"threads": counts, "absent": absent}
    if "layers" in parts:
        answer["layers"] = []
        for number, work in itertools.product(counts, workloads):
            progress(f"{work}, {counted(number)}")
            answer["layers"] += layers(work, number, makers, seconds, absent)
    if "spikes" in parts:
        answer["spikes"] = spikes.run(workloads, counts, seconds, progress)
    with threads_of_torch(counts[0]):
        if "growth" in parts:
            answer["growth"] = growth.run(makers, seconds, absent, progress)
        if "apart" in parts:
            names = [name for name in makers if name not in absent]
            answer["apart"] = isolated.run(names, workloads[0], counts[0], progress)
    return answer


def layers(
    work: Workload,
    threads: int,
    makers: Mapping[str, Maker],
    seconds: float,
    absent: dict[str, str],
) -> list[dict[str, Any]]:
    """Return a row for every candidate that can run one workload; adds to ``absent`` who cannot."""
    with threads_of_torch(threads):
        timings = time_in_turns(ready(work, makers, absent), seconds)
    product, copies = timings[PRODUCT], timings[COPIES]
    return [
        {
            "threads": threads,
            "workload": str(work),
            "candidate": name,
            **timing._asdict(),
            "ratio": timing.over(product),
            "bytes_ratio": timing.over(copies) if ALONE in name else None,
            "bytes_per_s": 6 * work.tensor_bytes / timing.median if name == COPIES else None,
        }
        for name, timing in timings.items()
    ]


HEAD = ("candidate", "ms", "quartiles", "x product", "x bytes")


def text(answer: Mapping[str, Any]) -> str:
    """Return the answer of ``run`` as tables in Markdown."""
    blocks = []
    rows = answer.get("layers", [])
    for threads, work in dict.fromkeys((row["threads"], row["workload"]) for row in rows):
        found = [r for r in rows if (r["threads"], r["workload"]) == (threads, work)]
        copied = [f", {r['bytes_per_s'] / 1e9:.3g} GB/s copied" for r in found if r["bytes_per_s"]]
        cells = []
        for row in found:
            median, low, high = (f"{1e3 * row[name]:.3g}" for name in ("median", "low", "high"))
            beside = "" if row["bytes_ratio"] is None else f"{row['bytes_ratio']:.2f}"
            ratio = f"{row['ratio']:.2f}"
            cells.append((row["candidate"], median, f"{low} to {high}", ratio, beside))
        blocks += [f"{work}, {counted(threads)}{''.join(copied)}", table(HEAD, cells)]
    if "spikes" in answer:
        blocks.append(spikes.text(answer["spikes"]))
    if "growth" in answer:
        blocks.append(growth.text(answer["growth"]))
    if "apart" in answer:
        blocks.append(isolated.text(answer["apart"]))
    by_reason: dict[str, list[str]] = {}
    for name, why in answer["absent"].items():
        by_reason.setdefault(why, []).append(name)
    blocks += [f"Not timed: {'; '.join(names)}: {why}." for why, names in by_reason.items()]
    return "\n\n".join(blocks)
