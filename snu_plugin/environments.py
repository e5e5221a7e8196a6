"""Other simulators in environments of their own: made, listed, removed, and run in.

Each lies in the user's cache, ``snu-plugin/simulators/NAME``, a virtual environment with the
simulator at a pinned version and what it needs. Packages that this environment has at versions that
suit it, torch above all, are taken from here; those that it needs at other versions are put beside
it, and this environment is never changed.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import snu_plugin
from snu_plugin.accepted import hint
from snu_plugin.files import cache_folder, write
from snu_plugin.origin import how_to_install
from snu_plugin.simulators import SIMULATORS, adapters, installed

MARK = "snu-plugin.json"
"""What an environment holds once it is complete: what lies in it."""

START = """
import importlib.util, runpy, sys
folder = sys.argv.pop(1)
there = importlib.util.spec_from_file_location(
    "snu_plugin", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["snu_plugin"] = module = importlib.util.module_from_spec(there)
there.loader.exec_module(module)
runpy.run_module("snu_plugin.graph.worker", run_name="__main__", alter_sys=True)
"""
"""Runs the worker of this very package, in an environment that need not have it."""

PROBE = """
import importlib, importlib.metadata, json, sys
module, *names = sys.argv[1:]
importlib.import_module(module)
print(json.dumps({name: importlib.metadata.version(name) for name in names}))
"""


class Listed(NamedTuple):
    """A simulator, whether it can run here, and where it would."""

    name: str
    version: str
    """The one that would run; the pinned one, if none would."""
    where: str
    """"here", the folder of its environment, or why it cannot run."""
    runs: bool
    reads: str
    """What its importer takes."""
    megabytes: int
    """About how much its environment takes on disk; 0 for those of this package."""


def folder(name: str) -> Path:
    """Return where the environment of a simulator lies or would lie.

    Raises:
        OSError: The user has no home; see ``files.cache_folder``.
    """
    return cache_folder() / "simulators" / name


def _begun(name: str) -> bool:
    try:
        return folder(name).exists()
    except OSError:
        return False


def contents(name: str) -> dict[str, str] | None:
    """Return versions in the environment of a simulator by name; ``None``: it is not complete."""
    if name not in SIMULATORS:
        return None
    try:
        found = json.loads((folder(name) / MARK).read_bytes())
        packages = {str(key): str(value) for key, value in found["packages"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return packages if _python(name).exists() else None


def available() -> tuple[str, ...]:
    """Return the names of simulators without an adapter that run here or in an environment."""
    here = installed()
    return tuple(
        name
        for name, found in SIMULATORS.items()
        if found.by_default and (name in here or contents(name) is not None)
    )


def running_version(name: str) -> str:
    """Return the version of a simulator, or of another package, that would run."""
    there = contents(name)
    distribution = SIMULATORS[name].distribution if name in SIMULATORS else name
    try:
        return version(distribution) if there is None else there[distribution]
    except (PackageNotFoundError, KeyError):
        return "not installed"


def listed() -> list[Listed]:
    """Return every simulator that this package can run; imports none of them."""
    rows, here = [], installed()
    for name in adapters():
        told = running_version(name)
        runs = told != "not installed"
        where = "here" if runs else how_to_install(name)
        rows.append(Listed(name, told, where, runs, "all that its own layers can say", 0))
    for name, found in SIMULATORS.items():
        runs = True
        if contents(name) is not None:
            where = str(folder(name))
        elif _begun(name):
            where, runs = f"half installed: snu simulators install {name}", False
        elif name in here:
            where = "here"
        else:
            where, runs = f"snu simulators install {name}", False
        told = running_version(name) if runs else found.version
        rows.append(Listed(name, told, where, runs, found.reads, found.megabytes))
    return rows


def worker(name: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs a simulator, to which arguments are added, and its environment.

    It runs in the environment of the simulator if there is one, else in this. To be started in a
    folder that holds no code: then it imports nothing from the folder where the user is.
    """
    begin = ["-W", "ignore", "-c", START, str(Path(snu_plugin.__file__).resolve().parent)]
    if contents(name) is not None:
        return [str(_python(name)), "-I", *begin], dict(os.environ)
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    absolute = os.pathsep.join(map(os.path.abspath, paths))
    return [sys.executable, *begin], dict(os.environ) | ({"PYTHONPATH": absolute} if paths else {})


def install(name: str, progress: Callable[[str], None] = lambda text: None) -> Path:
    """Make the environment of a simulator, or complete one that is not; return its folder.

    Args:
        name: One of ``simulators.SIMULATORS``.
        progress: Is told what will be downloaded, and what is done.

    Raises:
        LookupError: For a simulator that has none.
        OSError: If it cannot be installed, or cannot be imported then; with the last word of
            what failed. What was downloaded stays for the next try.
    """
    found, path = _known(name), folder(name)
    wanted = f"{found.distribution}=={found.version}"
    have = contents(name)
    if have is not None and have.get(found.distribution) == found.version:
        progress(f"{name} {found.version} is installed in {path}")
        return path
    progress(f"{wanted} goes to {path}: about {found.megabytes} MB, beside what is here")
    path.mkdir(parents=True, exist_ok=True)
    try:
        if not _python(name).exists():
            venv.EnvBuilder(with_pip=True).create(path)
        packages = _packages(path)
        # Behind its own packages it finds those that are here.
        write(packages / "snu-plugin-here.pth", ("\n".join(_here()) + "\n").encode())
        progress(f"installing {wanted}")
        pip = ["-m", "pip", "--disable-pip-version-check", "install", wanted, *found.besides]
        _run([str(_python(name)), "-I", *pip])
        names = sorted(_names([packages]) | {found.distribution})
        told = _run([str(_python(name)), "-I", "-c", PROBE, found.module, *names])
    except (OSError, subprocess.CalledProcessError) as error:
        raise OSError(f"{name} could not be installed in {path}: {_last(error)}") from error
    record = {"packages": json.loads(told.splitlines()[-1]), "beside": _here()}
    write(path / MARK, json.dumps(record, indent=1).encode())
    progress(
        f"{name} is installed: " + ", ".join(f"{k} {v}" for k, v in record["packages"].items())
    )
    return path


def remove(name: str) -> bool:
    """Remove the environment of a simulator and tell whether there was one.

    Raises:
        LookupError: For a simulator that has none.
    """
    _known(name)
    path = folder(name)
    if not path.exists():
        return False
    (path / MARK).unlink(missing_ok=True)  # half removed it must not run
    shutil.rmtree(path)
    return True


def conflicts(name: str) -> list[str]:
    """Return packages that a simulator's environment has at another version than this one."""
    told = []
    for package, there in (contents(name) or {}).items():
        try:
            here = version(package)
        except PackageNotFoundError:
            continue
        if here != there:
            told.append(f"{package} {there} there, {here} here")
    return told


def _known(name: str) -> Any:
    if name in adapters():
        raise LookupError(f"{name} runs in this environment: {how_to_install(name)}")
    if name not in SIMULATORS:
        known = ", ".join(SIMULATORS)
        raise LookupError(
            f"no simulator {name!r}; it must be one of {known}{hint(name, SIMULATORS)}"
        )
    return SIMULATORS[name]


def _python(name: str) -> Path:
    return folder(name) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _packages(path: Path) -> Path:
    """Return the folder of an environment's own packages."""
    own = "venv" in sysconfig.get_scheme_names()
    scheme = "venv" if own else "nt" if os.name == "nt" else "posix_prefix"
    return Path(sysconfig.get_path("purelib", scheme, {"base": str(path), "platbase": str(path)}))


def _here() -> list[str]:
    """Return the folders of this environment's packages."""
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [path for path in (*site.getsitepackages(), *user) if Path(path).is_dir()]


def _names(folders: Sequence[Path]) -> set[str]:
    """Return the names of the packages in some folders, but for those that installed them."""
    from importlib.metadata import distributions

    found = {d.metadata["Name"] for d in distributions(path=[str(f) for f in folders])}
    return found - {"pip", "setuptools", "wheel"}


def _run(command: Sequence[str]) -> str:
    clean: Mapping[str, str] = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=clean, check=True)
    return done.stdout


def _last(error: OSError | subprocess.CalledProcessError) -> str:
    if isinstance(error, OSError):
        return str(error)
    lines = str(error.stderr or error.stdout or "").strip().splitlines()
    told = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    return told[0] if told else f"exit status {error.returncode}"
