"""No public name without an example: each stands in code that a test runs."""

import ast
import importlib
import inspect
import json
import re
from doctest import DocTestParser
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMISED = re.compile(r"^(snu_\w+(?:\.[a-z]+)?)\.(\w+)(?=\(|:|$)", re.MULTILINE)
NAMES: dict[str, set[str]] = {}
for module, name in PROMISED.findall(Path(__file__).with_name("contract.txt").read_text("utf-8")):
    NAMES.setdefault(module, set()).add(name)
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@cache
def used() -> frozenset[str]:
    """Every name and attribute in pages, notebooks, examples and doctests."""
    code = [path.read_text("utf-8") for path in (ROOT / "examples").glob("*.py")]
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        code += EXAMPLE.findall(page.read_text("utf-8"))
    for notebook in (ROOT / "docs").rglob("*.ipynb"):
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        code += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for folder in ("snu_plugin", "adapters"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text("utf-8")
            if ">>>" in text:
                code += [example.source for example in DocTestParser().get_examples(text)]
    return frozenset(name for text in code for name in named(text))


def named(text: str) -> set[str]:
    """The names and attributes of a piece of code; none where it is no whole one."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return set()
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("module", sorted(NAMES))
def test_every_public_name_has_an_example_that_runs(module: str) -> None:
    assert NAMES[module] - used() == set()


@pytest.mark.parametrize("module", sorted(NAMES))
def test_every_public_name_says_what_it_is(module: str) -> None:
    room = importlib.import_module(module)
    for name in sorted(NAMES[module]):
        assert (getattr(room, name).__doc__ or "").strip(), f"{module}.{name} has no docstring"


@pytest.mark.parametrize("module", sorted(NAMES))
def test_every_method_that_users_call_has_an_example_that_runs(module: str) -> None:
    room = importlib.import_module(module)
    found = {
        f"{kind.__name__}.{method}"
        for name in NAMES[module]
        for kind in kinds(getattr(room, name))
        for method in methods(kind)
    }
    assert {one for one in found if one.partition(".")[2] not in used()} == set()


def kinds(thing: object) -> list[type]:
    """A class of ours and what it is derived from, of ours as well; of anything else none."""
    return [k for k in getattr(thing, "__mro__", ()) if k.__module__.startswith("snu_")]


def methods(kind: type) -> list[str]:
    """The methods and properties that a class itself adds; torch calls the two left out."""
    return [
        name
        for name, made in vars(kind).items()
        if not name.startswith("_")
        and name not in ("forward", "extra_repr")
        and (inspect.isroutine(made) or isinstance(made, property | cached_property))
    ]


def test_a_name_in_no_example_would_be_found() -> None:
    assert {"to_nir", "verify"} < NAMES["snu_plugin.graph"]
    assert named("import a.b\nfrom c import d\ne.f(g)") == {"d", "e", "f", "g"}
    assert "never_used_anywhere" not in used()
    chip = importlib.import_module("snu_plugin.accelerator").Accelerator
    assert {"run", "age_s", "save"} < set(methods(chip))
