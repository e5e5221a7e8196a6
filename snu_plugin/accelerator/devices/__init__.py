"""Models of memory devices: one file a model, found by the name that ``Chip.device`` gives it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any

MODELS = "snu_plugin.devices"
"""Entry points of models that other packages bring: classes derived from ``DeviceModel``."""


@cache
def named(table: str) -> dict[str | None, Any]:
    """Return what the files of this folder have in their dict ``table``: ``FITS`` or ``PULSES``.

    ``FITS`` holds what makes a ``DeviceModel`` of a chip, ``PULSES`` what makes a ``Response``, by
    the name that a setting of ``Chip`` gives it. To ``FITS`` belong the classes of entry points.
    """
    # Backwards, so that lists of names begin with those that were published.
    files = sorted((file.name for file in pkgutil.iter_modules(__path__)), reverse=True)
    modules = [importlib.import_module(f"{__name__}.{file}") for file in files]
    found = {name: made for m in modules for name, made in getattr(m, table, {}).items()}
    if table == "FITS":
        brought = {point.name: _loaded(point) for point in entry_points(group=MODELS)}
        found = brought | found
    # The ideal one comes last.
    return dict(sorted(found.items(), key=lambda item: item[0] is None))


def maker(device: Any) -> Callable[[Any], Any]:
    """Return what makes the ``DeviceModel`` of a chip: by name, or ``device`` says it itself.

    Raises:
        LookupError: For what is neither a name nor a model.
    """
    if isinstance(device, str | None):
        return named("FITS")[device]  # type: ignore[no-any-return]
    tables = importlib.import_module(f"{__name__}.from_tables")
    if isinstance(device, tables.DeviceTables):
        return partial(tables.Tabulated, tables=device)
    model = importlib.import_module(f"{__name__}.model").DeviceModel
    if isinstance(device, type) and issubclass(device, model):
        return device
    raise LookupError(f"{device!r} is no model of a device")


def from_dict(fields: dict[str, Any]) -> Any:
    """Return the ``DeviceTables`` that gave this dict."""
    return importlib.import_module(f"{__name__}.tables").DeviceTables(**fields)


def _loaded(point: Any) -> Callable[[Any], Any]:
    """Return what loads the class of an entry point when a chip asks for it."""
    return lambda chip: point.load()(chip)
