"""Candidates timed in turns, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from snu_plugin.accepted import COUNT, POSITIVE, Accepted, hint

FEWEST_ROUNDS = 5


class Timing(NamedTuple):
    """Seconds per call over all rounds."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    rounds: int
    times: tuple[float, ...]
    """Of each round."""

    def over(self, other: Timing) -> float:
        """Return the median, over rounds, of this time in units of another's in the same round."""
        return statistics.median(a / b for a, b in zip(self.times, other.times, strict=True))


def time_in_turns(
    candidates: Mapping[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time every candidate once per round, in rounds, for about ``seconds`` in all.

    Each runs twice before the first round, to compile and to warm caches. At least five rounds run,
    however long they take. Each is timed by ``clock``, which counts seconds.

    Raises:
        ValueError: If ``seconds`` is not positive.
    """
    check_settings(seconds, None)
    for call in candidates.values():
        call()
        call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < FEWEST_ROUNDS or time.perf_counter() < end:
        for name, call in candidates.items():
            start = clock()
            call()
            times[name].append(clock() - start)
        rounds += 1
    timings = {}
    for name, found in times.items():
        low, median, high = statistics.quantiles(found, n=4)
        timings[name] = Timing(median, low, high, len(found), tuple(found))
    return timings


@contextmanager
def threads_of_torch(number: int) -> Iterator[None]:
    """Have torch compute on so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_settings(seconds: float, threads: int | None) -> None:
    """Raise a ``ValueError`` unless both are positive, or threads ``None``."""
    POSITIVE.check("seconds", seconds)
    if threads is not None:
        cores = os.cpu_count() or 1
        words = f"a whole number from 1 to {cores}, the cores here"
        Accepted(words, lambda n: COUNT.holds(n) and n <= cores).check("threads", threads)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown with columns of even width; all but the first align right.

    >>> print(table(("name", "ms"), [("product", "1.5"), ("SNU", "12")]))
    | name    |  ms |
    |:--------|----:|
    | product | 1.5 |
    | SNU     |  12 |
    """
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    rule = [":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join([cells[0].ljust(widths[0]), *rest])} |"

    return "\n".join([line(head), f"|{'|'.join(rule)}|", *map(line, rows)])


def counted(threads: int) -> str:
    """Return a number of threads in words."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def check_parts(parts: Sequence[str], known: Sequence[str]) -> None:
    """Raise a ``ValueError`` for a part that is none of those known."""
    if unknown := [part for part in parts if part not in known]:
        near = hint(unknown[0], known)
        raise ValueError(f"part {unknown[0]!r} is unknown; the parts: {', '.join(known)}{near}")


def check_device(device: str) -> None:
    """Raise a ``ValueError`` for a device that is not here."""
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise ValueError(f"device is {device!r}; it must be cpu, or cuda where torch finds one")
