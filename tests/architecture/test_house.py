"""The house of the code base: which part may know which, and by which door."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

from snu_plugin import simulators

ROOT = Path(__file__).parents[2]
CORE = ROOT / "snu_plugin"

BELOW: dict[str, set[str]] = {
    "durations": set(),
    "notebook": set(),
    "files": set(),
    "random_states": set(),
    "archives": set(),
    "schedule": set(),
    "simulators": {"schedule"},
    "environments": {"simulators", "files"},
    "neuron": set(),
    "tasks": {"files", "archives"},
    "report": {"durations", "files"},
    "graph": {
        "neuron",
        "schedule",
        "simulators",
        "environments",
        "files",
        "notebook",
        "random_states",
    },
    "acceleration": {"neuron", "simulators", "random_states"},
    "accelerator": {"durations", "notebook", "neuron", "schedule", "files", "archives"},
    "training": {"neuron", "files"},
    "diagnosis": {"graph", "accelerator", "neuron", "simulators", "notebook"},
    "compiler": {"graph", "accelerator", "schedule"},
    "hil": {
        "durations",
        "compiler",
        "graph",
        "accelerator",
        "neuron",
        "schedule",
        "training",
        "files",
        "notebook",
    },
    "bench": {
        "neuron",
        "graph",
        "accelerator",
        "compiler",
        "hil",
        "simulators",
        "environments",
        "archives",
    },
    "testing": {"neuron", "graph"},
    "experiments": {"*"},
    "zoo": {"files", "graph", "notebook"},
    "plot": {"report", "graph", "accelerator"},
    "usage": set(),
    "commands": {"*"},
    "cli": {"commands", "usage", "report"},
}
"""The rooms, and what each may use of the others; ``FOR_ALL`` besides."""
FOR_ALL = {"accepted", "origin"}

SHELVES = {"bench", "experiments", "report", "tasks"}
"""Rooms whose files stand side by side: each is a door of its own, so that one command does not
load what another needs. All other rooms are entered by their ``__init__`` alone."""

SIDE_DOORS = {"snu_plugin.graph.layers", "snu_plugin.neuron.numba_scan"}
"""Doors besides: what adapters are written with, and compiled loops, which need Numba."""

ADAPTERS = {"neuron", "graph", "acceleration", "testing", "simulators", "schedule"}
HOSTS = {"snu_snntorch": {"snntorch"}, "snu_norse": {"norse"}}
SIMULATORS = {"snntorch", "norse", "snu_snntorch", "snu_norse", "sinabs", "spikingjelly"}
HEAVY = (*SIMULATORS, "numba", "triton", "scipy", "matplotlib", "music21", "jinja2", "mido")


@cache
def parts() -> list[str]:
    return sorted(
        path.stem
        for path in CORE.iterdir()
        if not path.name.startswith("_")
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    )


def files_of(part: str) -> list[Path]:
    folder = CORE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [CORE / f"{part}.py"]


@cache
def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Every import in a file, inside functions, too."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path: Path) -> Iterator[str]:
    """Every module, and every ``module.name`` of a ``from`` import, that a file mentions."""
    for node in imports(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_parts(path: Path) -> set[str]:
    known = set(parts())
    names = [name.split(".") for name in imported(path)]
    return {n[1] for n in names if n[0] == "snu_plugin" and len(n) > 1 and n[1] in known}


def test_every_part_has_its_place() -> None:
    assert set(parts()) <= {*BELOW, *FOR_ALL}


def test_a_part_knows_only_what_lies_below_it() -> None:
    for part in parts():
        below = BELOW.get(part, set())
        if "*" not in below:
            for path in files_of(part):
                assert own_parts(path) <= below | {part, *FOR_ALL}, f"{path} looks up"


def test_the_page_of_the_design_names_the_same_arrows() -> None:
    page = (ROOT / "docs" / "design.md").read_text()
    table = page.partition("| room | uses |\n|---|---|\n")[2].partition("\n\n")[0]
    told: dict[str, set[str]] = {}
    for line in table.splitlines():
        rooms, uses = (set(re.findall(r"`(\w+)`", cell)) for cell in line.split("|")[1:3])
        told |= dict.fromkeys(rooms, {"*"} if line.endswith("| all |") else uses)
    assert told == {room: set(uses) for room, uses in BELOW.items()}


@pytest.mark.parametrize(
    ("room", "title"),
    [
        ("neuron", "Neurons, in one folder"),
        ("graph", "Graphs, in one folder"),
        ("accelerator", "A chip, in one folder"),
        ("hil", "A chip in the loop"),
        ("experiments", "Studies, in one folder"),
        ("acceleration", "A host's network at once"),
    ],
)
def test_the_page_of_the_design_names_every_file_of_the_large_rooms(room: str, title: str) -> None:
    page = (ROOT / "docs" / "design.md").read_text()
    section = page.partition(f"### {title}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("    ")]
    told = {name for line in lines for name in re.split(" {3,}", line[4:])[0].split()}
    there = {
        p.stem if p.is_file() else f"{p.name}/" for p in (ROOT / "snu_plugin" / room).iterdir()
    }
    assert told - {""} == there - {"__init__", "__pycache__/"}


def test_the_core_imports_no_simulator() -> None:
    for path in (path for part in parts() for path in files_of(part)):
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & SIMULATORS, f"{path} imports {tops & SIMULATORS}"


@pytest.mark.parametrize("adapter", sorted(HOSTS))
def test_an_adapter_knows_neither_chip_nor_another_adapter(adapter: str) -> None:
    for path in sorted((ROOT / "adapters" / adapter).rglob("*.py")):
        assert own_parts(path) <= {*ADAPTERS, *FOR_ALL}, f"{path} looks up"
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & (SIMULATORS - HOSTS[adapter] - {adapter}), f"{path} knows another host"


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its full name."""
    found = {}
    for top in (ROOT, ROOT / "adapters"):
        for path in [*top.glob("snu_*/**/*.py")]:
            parts = path.relative_to(top).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def of_another_room(path: Path) -> Iterator[tuple[str, str]]:
    """Every ``module, name`` that a file takes from a room of the core which is not its own."""
    own = path.relative_to(ROOT).parts[1].removesuffix(".py") if CORE in path.parents else ""
    for node in imports(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            room = node.module.split(".")[1:2]
            if node.module.startswith("snu_plugin.") and room != [own]:
                yield from ((node.module, alias.name) for alias in node.names)


def test_a_room_is_entered_by_its_front() -> None:
    taken_there = ((path, *found) for path in modules().values() for found in of_another_room(path))
    for path, module, taken in taken_there:
        if module.split(".")[1] in SHELVES:
            assert not taken.startswith("_"), f"{path} takes the private {module}.{taken}"
        elif module not in SIDE_DOORS:
            assert module.count(".") == 1, f"{path} enters {module} by the back; see {SIDE_DOORS}"
            front = importlib.import_module(module)
            if modules()[module].name == "__init__.py":
                assert taken in front.__all__, f"{path} takes {taken}, not offered by {module}"


def test_no_file_has_the_name_of_what_its_room_offers() -> None:
    for part in (p for p in parts() if (CORE / p).is_dir()):
        front = importlib.import_module(f"snu_plugin.{part}")
        files = {path.stem for path in (CORE / part).iterdir()}
        both = files & set(getattr(front, "__all__", ()))
        assert not both, f"of {part}: who imports first decides which it is"


WITHIN_GRAPH = {
    "tracing": {"tracing"},
    "rules": {"tracing", "rules", "snu_nodes", "resets"},
}
"""Folders inside ``graph``, and what of ``graph`` they may use. Tracing knows nothing of NIR."""


@pytest.mark.parametrize("folder", WITHIN_GRAPH)
def test_how_a_model_is_traced_and_what_its_layers_are_know_only_what_lies_below(
    folder: str,
) -> None:
    for path in (CORE / "graph" / folder).glob("*.py"):
        names = [name.split(".") for name in imported(path)]
        used = {n[2] for n in names if n[:2] == ["snu_plugin", "graph"]}
        assert used <= WITHIN_GRAPH[folder], f"{path} looks up"


def test_no_modules_import_each_other_in_a_circle() -> None:
    known, graph = modules(), nx.DiGraph()
    for name, path in known.items():
        for wanted in imported(path):  # inside functions and for types, too
            target = wanted if wanted in known else wanted.rpartition(".")[0]
            if target in known and (wanted == target or known[target].name != "__init__.py"):
                graph.add_edge(name, target)
    circles = [c for c in nx.strongly_connected_components(graph) if len(c) > 1]
    circles += [{one} for one in nx.nodes_with_selfloops(graph)]
    assert not circles, sorted(map(sorted, circles))


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


@pytest.mark.parametrize("words", [["--help"], ["tune", "--help"], ["tune", "--no-such-option"]])
def test_the_command_answers_without_loading_torch(words: list[str]) -> None:
    code = (
        "import contextlib, sys\nfrom snu_plugin import cli\n"
        f"with contextlib.suppress(SystemExit): cli.main({words!r})\n"
        "print([m for m in ('torch', 'numpy', 'networkx') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_every_adapter_that_is_named_loads() -> None:
    assert set(simulators.adapters()) >= {"snntorch", "norse"}
    for name in simulators.adapters():
        module = simulators.adapter(name)
        for promised in ("SNU", "sSNU", "to_nir", "from_nir", "register", "unregister"):
            assert hasattr(module, promised), f"{name} lacks {promised}"


def test_an_unknown_adapter_is_refused_with_those_that_exist() -> None:
    with pytest.raises(LookupError, match=r"no adapter 'brian'; installed: .*norse"):
        simulators.adapter("brian")
