"""The house of the code base: which part may know which."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from snu_plugin import plugins

ROOT = Path(__file__).parents[2]
CORE = ROOT / "snu_plugin"

BELOW: dict[str, set[str]] = {
    "files": set(),
    "neuron": set(),
    "plugins": set(),
    "tasks": {"files"},
    "report": {"files"},
    "graph": {"neuron", "plugins", "files"},
    "accelerator": {"neuron", "files"},
    "training": {"neuron", "files"},
    "compiler": {"graph", "accelerator", "neuron"},
    "hil": {"compiler", "graph", "accelerator", "neuron", "training"},
    "bench": {"neuron", "graph", "accelerator", "compiler", "plugins"},
    "testing": {"neuron", "graph", "plugins"},
    "experiments": {"*"},
    "options": set(),
    "cli": {"*"},
}
ADAPTERS = {"neuron", "graph", "testing", "plugins"}
HOSTS = {"snu_snntorch": {"snntorch"}, "snu_norse": {"norse"}}
SIMULATORS = {"snntorch", "norse", "snu_snntorch", "snu_norse", "sinabs", "spikingjelly"}
HEAVY = (*SIMULATORS, "numba", "triton", "scipy", "matplotlib", "music21", "jinja2", "mido")


def parts() -> list[str]:
    return sorted(
        path.stem
        for path in CORE.iterdir()
        if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py")
        if path.name != "py.typed"
    )


def files_of(part: str) -> list[Path]:
    folder = CORE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [CORE / f"{part}.py"]


def imported(path: Path) -> Iterator[str]:
    """Every module, and every ``module.name`` of a ``from`` import, that a file mentions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_parts(path: Path) -> set[str]:
    known = set(parts())
    names = [name.split(".") for name in imported(path)]
    return {n[1] for n in names if n[0] == "snu_plugin" and len(n) > 1 and n[1] in known}


def test_every_part_has_its_place() -> None:
    assert set(parts()) <= set(BELOW)


@pytest.mark.parametrize("part", parts())
def test_a_part_knows_only_what_lies_below_it(part: str) -> None:
    if "*" in BELOW[part]:
        return
    for path in files_of(part):
        assert own_parts(path) <= BELOW[part] | {part}, f"{path} looks up"


@pytest.mark.parametrize("part", parts())
def test_the_core_imports_no_simulator(part: str) -> None:
    for path in files_of(part):
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & SIMULATORS, f"{path} imports {tops & SIMULATORS}"


@pytest.mark.parametrize("adapter", sorted(HOSTS))
def test_an_adapter_knows_neither_chip_nor_another_adapter(adapter: str) -> None:
    for path in sorted((ROOT / "adapters" / adapter).rglob("*.py")):
        assert own_parts(path) <= ADAPTERS, f"{path} looks up"
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & (SIMULATORS - HOSTS[adapter] - {adapter}), f"{path} knows another host"


def test_nothing_imports_the_shelf_of_adapters() -> None:
    for path in [*CORE.rglob("*.py"), *(ROOT / "adapters").rglob("*.py")]:
        assert not any(name.split(".")[0] == "adapters" for name in imported(path)), path


def test_importing_the_core_loads_nothing_heavy() -> None:
    code = (
        "import sys, snu_plugin, snu_plugin.graph, snu_plugin.accelerator, snu_plugin.compiler, "
        "snu_plugin.hil, snu_plugin.tasks, snu_plugin.report, snu_plugin.cli\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_every_adapter_that_is_named_loads() -> None:
    assert set(plugins.adapters()) >= {"snntorch", "norse"}
    for name in plugins.adapters():
        module = plugins.adapter(name)
        for promised in ("SNU", "sSNU", "to_nir", "from_nir", "register", "unregister"):
            assert hasattr(module, promised), f"{name} lacks {promised}"


def test_an_unknown_adapter_is_refused_with_those_that_exist() -> None:
    with pytest.raises(LookupError, match=r"no adapter 'brian'; installed: .*norse"):
        plugins.adapter("brian")
