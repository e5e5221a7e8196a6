"""Times as people write them."""

from __future__ import annotations

UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "y": 365 * 86_400.0}
"""Seconds of each unit that is taken and shown."""


def span(seconds: float) -> str:
    """Return a time in the unit that reads best.

    >>> span(2_592_000), span(90), span(0.0002)
    ('30 d', '1.5 min', '0.0002 s')
    """
    unit = next((u for u in ("y", "d", "h", "min") if seconds >= 0.995 * UNITS_S[u]), "s")
    return f"{seconds / UNITS_S[unit]:.3g} {unit}"
