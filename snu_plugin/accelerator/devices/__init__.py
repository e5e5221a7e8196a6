"""Models of memory devices: one file a model, found by the name that ``Chip.fit`` gives it."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any


@cache
def named(table: str) -> dict[str | None, Any]:
    """Return what the files of this folder have in their dict ``table``: ``FITS`` or ``PULSES``.

    ``FITS`` holds what makes a ``DeviceModel`` of a chip, ``PULSES`` what makes a ``Response``, by
    the name that a setting of ``Chip`` gives it.
    """
    # Backwards, so that lists of names end with the ideal one.
    files = sorted((file.name for file in pkgutil.iter_modules(__path__)), reverse=True)
    modules = (importlib.import_module(f"{__name__}.{file}") for file in files)
    return {name: made for m in modules for name, made in getattr(m, table, {}).items()}
