"""Every name that users type stands in the reference, with a docstring and an example that runs."""

import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import build_site

REFERENCE = build_site.DOCS / "reference"
DIRECTIVE = re.compile(r"^\.\. auto(?:class|function|data|exception):: (\S+)$", re.MULTILINE)
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def contract() -> ModuleType:
    """Return the test that lists what users type."""
    path = Path(__file__).parents[1] / "architecture" / "test_contract.py"
    spec = importlib.util.spec_from_file_location("contract", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = [(module, name) for module, names in contract().NAMES.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_public_name_is_explained_and_shown(module: str, name: str) -> None:
    page = (REFERENCE / f"{module.removeprefix('snu_plugin.')}.md").read_text(encoding="utf-8")
    listed = {target.rpartition(".")[2] for target in DIRECTIVE.findall(page)}
    assert name in listed, f"{module}.{name} is not in the reference"
    thing = getattr(importlib.import_module(module), name)
    own = thing.__doc__ if inspect.isclass(thing) or inspect.isroutine(thing) else "a value"
    assert own, f"{module}.{name} has no docstring"
    shown = ">>>" in own or any(re.search(rf"\b{name}\b", code) for code in EXAMPLE.findall(page))
    assert shown, f"{module}.{name} has no example"


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_method_that_users_call_has_a_docstring(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    if not inspect.isclass(thing):
        return
    for method, made in vars(thing).items():
        if not method.startswith("_") and (inspect.isroutine(made) or isinstance(made, property)):
            doc = (
                made.__func__.__doc__
                if isinstance(made, (classmethod, staticmethod))
                else made.__doc__
            )
            assert doc or method in ("forward", "extra_repr"), f"{module}.{name}.{method}"
