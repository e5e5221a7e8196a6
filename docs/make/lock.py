"""The versions that the package was tested with: ``python docs/make/lock.py``.

Writes ``requirements-lock.txt``: what the package and the extra ``all`` need, directly or not, at
the versions found here. To have the same: ``pip install -c requirements-lock.txt '.[all]'``. The
libraries of NVIDIA that torch's build for GPUs brings are left to torch, which names their versions
itself, and so is the choice of its build.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements-lock.txt"
OWN, TORCHS = "snu-plugin", ("nvidia-", "cuda-")
HEAD = """\
# Versions that snu-plugin was tested with, of all that it and its extra "all" need.
# pip install -c requirements-lock.txt '.[all]'
# Made by docs/make/lock.py.
"""


def wanted() -> list[Requirement]:
    """Return what the package and all its extras but those of its makers name.

    Nor what ``dask`` names: those versions are the cluster's, which all its machines share.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found = [*project["dependencies"]]
    for name, needs in extras.items():
        found += needs if name not in ("all", "dask", "docs", "notebooks", "test") else []
    return [Requirement(line) for line in found]


def closure(needs: Iterable[Requirement]) -> dict[str, str]:
    """Return the versions found here of all that is needed, directly or not, by name.

    What a marker leaves out on this machine, and what is not installed, is not in it.
    """
    todo, found = list(needs), dict[str, str]()
    while todo:
        need = todo.pop()
        name = canonicalize_name(need.name)
        if name in found or name == OWN or name.startswith(TORCHS):
            continue
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            there = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = Version(there.version).public  # without the build, such as +cpu
        todo += [Requirement(line) for line in there.requires or ()]
    return dict(sorted(found.items()))


if __name__ == "__main__":
    lines = [f"{name}=={version}\n" for name, version in closure(wanted()).items()]
    LOCK.write_text(HEAD + "".join(lines))
    print(f"{len(lines)} versions in {LOCK.name}")
