"""The versions of what a result depends on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

NAMES = ("torch", "numpy", "nir", "snntorch", "norse", "numba", "snu-plugin")


def versions() -> dict[str, str]:
    """Return the installed versions, by name of the package."""
    found = {}
    for name in NAMES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
