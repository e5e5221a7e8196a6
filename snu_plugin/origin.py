"""Where this package came from: what to type to have more of it."""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME = "snu-plugin"


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra from where this package came from.

    A clone, a wheel or folder that pip was given, or else the index that pip asks.

    >>> how_to_install("tasks").startswith("pip install ")
    True
    """
    root = Path(__file__).parents[1]
    if (root / "pyproject.toml").is_file() and (root / "adapters").is_dir():
        return f"pip install -e {shlex.quote(f'{root}[{extra}]')}"
    path = _given_to_pip()
    if path is None:
        return f"pip install '{NAME}[{extra}]'"
    return f"pip install {shlex.quote(f'{path}[{extra}]')}"


def _given_to_pip() -> str | None:
    """Return the path that pip was given (PEP 610); ``None`` if it was a name or an address."""
    try:
        told = metadata.distribution(NAME).read_text("direct_url.json")
        url = json.loads(told)["url"] if told else ""
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return None
    parts = urlsplit(str(url))
    return url2pathname(parts.path) if parts.scheme == "file" else None
