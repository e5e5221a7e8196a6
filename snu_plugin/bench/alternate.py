"""Candidates timed in turns, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

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


def alternate(candidates: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
    """Time every candidate once per round, in rounds, for about ``seconds`` in all.

    Each runs twice before the first round, to compile and to warm caches. At least five rounds run,
    however long they take.

    Raises:
        ValueError: If ``seconds`` is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds!r}; it must be a positive number")
    for call in candidates.values():
        call()
        call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < FEWEST_ROUNDS or time.perf_counter() < end:
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
        rounds += 1
    return {name: _timing(found) for name, found in times.items()}


def _timing(times: list[float]) -> Timing:
    low, median, high = statistics.quantiles(times, n=4)
    return Timing(median, low, high, len(times), tuple(times))
