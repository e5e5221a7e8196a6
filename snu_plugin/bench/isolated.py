"""One candidate in a process of its own: how long until its first result, and its peak memory.

``python -m snu_plugin.bench.isolated NAME STEPS BATCH SIZES THREADS`` prints one JSON object.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from snu_plugin.bench.candidates import COPIES, Workload, candidates
from snu_plugin.bench.timing import table

LIMIT_S = 600.0
"""Seconds that one candidate may take."""

# Large tensors get memory of their own and give it back at once, so that the peak is theirs.
PLAIN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def run(
    names: Iterable[str],
    work: Workload,
    threads: int,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run each candidate alone.

    Returns:
        The workload, and for each candidate ``first_s``, from the start of Python to the end of
        the first forward and backward pass; ``peak_tensors``, the memory that a later pass needs
        at its peak besides inputs and weights, in tensors ``(T, B, N)`` of the last layer: the
        output is one of them (``None`` where the system does not tell); or ``error``.
    """
    rows = []
    for name in (name for name in names if name != COPIES):
        progress(f"{name} in a process of its own")
        rows.append({"candidate": name, **_child(name, work, threads)})
    return {"workload": str(work), "threads": threads, "rows": rows}


def text(answer: dict[str, Any]) -> str:
    """Return the answer of ``run`` as a table."""
    rows = [
        (
            row["candidate"],
            f"{row['first_s']:.1f}" if "first_s" in row else row["error"],
            "" if row.get("peak_tensors") is None else f"{row['peak_tensors']:.2f}",
        )
        for row in answer["rows"]
    ]
    head = ("candidate", "seconds to the first result", "peak, tensors (T, B, N)")
    return f"Each in a process of its own, {answer['workload']}:\n\n{table(head, rows)}"


def _child(name: str, work: Workload, threads: int) -> dict[str, Any]:
    sizes = ",".join(map(str, work.sizes))
    command = [sys.executable, "-W", "ignore", "-m", "snu_plugin.bench.isolated", name]
    command += [str(work.steps), str(work.batch), sizes, str(threads), repr(time.time())]
    environment = os.environ | PLAIN_MEMORY
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no result after {LIMIT_S:g} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: list[str]) -> int:
    """Measure one candidate and print what was found."""
    name, steps, batch, sizes, threads, start = arguments
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(threads))
    work = Workload(int(steps), int(batch), tuple(int(n) for n in sizes.split(",")))
    call = candidates()[name](work)
    call()
    first = time.time() - float(start)
    call()
    before = settled()
    call()
    peak = memory("VmHWM")
    tensors = None if before is None or peak is None else (peak - before) / work.tensor_bytes
    print(json.dumps({"first_s": first, "peak_tensors": tensors}))
    return 0


def settled() -> int | None:
    """Give back what is free, forget the last peak, and return the bytes in use."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew from here
    except (OSError, AttributeError):
        return None
    return memory("VmRSS")


def memory(field: str) -> int | None:
    """Return a figure of this process in bytes, as Linux names it in ``/proc/self/status``."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), None)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
