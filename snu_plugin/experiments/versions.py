"""The versions of what a result depends on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

NAMES = ("torch", "numpy", "nir", "snntorch", "norse", "numba", "snu-plugin")


def versions(names: Sequence[str] = NAMES) -> dict[str, str]:
    """Return the versions of those that are installed, by name of the package."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
