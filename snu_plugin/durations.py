"""Times, energies and counts as people write them: one way for pages, pictures and terminals."""

from __future__ import annotations

import math

UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "y": 365 * 86_400.0}
"""Seconds of each unit that is taken and shown."""


def span(seconds: float) -> str:
    """Return a time in the unit that reads best.

    >>> span(2_592_000), span(90), span(0.0002)
    ('30 d', '1.5 min', '200 µs')
    """
    if abs(seconds) < 1:
        return scaled(seconds, "s")
    unit = next((u for u in ("y", "d", "h", "min") if seconds >= 0.995 * UNITS_S[u]), "s")
    return f"{seconds / UNITS_S[unit]:.3g} {unit}"


PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k"}
"""By powers of ten."""


def scaled(value: float, unit: str, digits: int = 3) -> str:
    """Return a quantity with the prefix that leaves one to three digits before the point.

    >>> scaled(1.575e-4, "J"), scaled(3.08e-12, "J"), scaled(9.998e-7, "s"), scaled(0, "J")
    ('158 µJ', '3.08 pJ', '1 µs', '0 J')
    """
    if not value or not math.isfinite(value):
        return f"{value:g} {unit}"
    rounded = float(f"{value:.{digits}g}")
    power = min(max(3 * math.floor(math.log10(abs(rounded)) / 3), min(PREFIXES)), max(PREFIXES))
    return f"{rounded / 10.0**power:.{max(digits, 3)}g} {PREFIXES[power]}{unit}"


def energy(nanojoules: float | None) -> str:
    """Return an energy with three digits; of devices without a model of it, that it is not known.

    >>> energy(506.2), energy(1.5e6), energy(None)
    ('506 nJ', '1.5 mJ', 'not known')
    """
    return "not known" if nanojoules is None else scaled(1e-9 * nanojoules, "J")


def count(value: float) -> str:
    """Return how many; a mean that is no whole number keeps three digits.

    >>> count(52_800), count(1234567.3), count(2.6667), count(6.0)
    ('52,800', '1,234,567', '2.67', '6')
    """
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"
