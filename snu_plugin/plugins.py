"""Adapters to simulators, found by entry point and imported only when asked for."""

from __future__ import annotations

from importlib.metadata import entry_points
from types import ModuleType

GROUP = "snu_plugin.adapters"


def adapters() -> tuple[str, ...]:
    """Return the names of the adapters that are installed, sorted; imports none of them."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def adapter(name: str) -> ModuleType:
    """Import and return the adapter called ``name``.

    Raises:
        LookupError: If no installed distribution offers it; lists those that exist.
        ImportError: If its simulator is missing; names the extra to install.
    """
    for point in entry_points(group=GROUP):
        if point.name == name:
            try:
                module: ModuleType = point.load()
            except ImportError as error:
                raise ImportError(
                    f"the {name} adapter needs {error.name or 'a package'}, which is not "
                    f"installed: pip install 'snu-plugin[{name}]'"
                ) from error
            return module
    raise LookupError(f"no adapter {name!r}; installed: {', '.join(adapters()) or 'none'}")
