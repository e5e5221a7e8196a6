"""What users type: every public name with its signature, and every option of the command.

``contract.txt`` is what they can rely on. A line that goes or changes fails here; whoever changes
it on purpose writes the file anew: ``python tests/architecture/test_contract.py``.
"""

import argparse
import difflib
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import snu_plugin
from snu_plugin.commands import parser

RECORD = Path(__file__).with_name("contract.txt")

NAMES = {
    "snu_plugin": "SNUConfig snu_step snu_scan Linear Conv1d Conv2d SNU sSNU implementations "
    "accelerate diagnose",
    "snu_snntorch": "SNU sSNU RSNU RsSNU SNUSequence sSNUSequence to_nir from_nir reset register "
    "unregister registered",
    "snu_norse": "SNUCell sSNUCell SNURecurrentCell sSNURecurrentCell SNU sSNU SNURecurrent "
    "sSNURecurrent SNUParameters SNUState snu_feed_forward_step to_nir from_nir register "
    "unregister registered",
    "snu_plugin.graph": "to_nir to_node read write check membranes network verify",
    "snu_plugin.accelerator": "Chip IDEAL PCM PCM_PULSED HERMES Accelerator Board",
    "snu_plugin.compiler": "compile CannotMap",
    "snu_plugin.hil": "fine_tune hardware_aware Recalibrate Adapter Rewrite Refresh MixedPrecision "
    "ProgramVerify SignPulses",
    "snu_plugin.plot": "raster traces rates graph chip_map score device",
    "snu_plugin.zoo": "Card card cards get read",
}
"""Names of the contract that exist; those it has newly gained are added as they come."""


def lines() -> Iterator[str]:
    """Everything that is promised, a line each."""
    for module, names in NAMES.items():
        for name in names.split():
            yield from described(f"{module}.{name}", getattr(importlib.import_module(module), name))
    yield from commands(parser())


def described(name: str, thing: Any) -> Iterator[str]:
    if is_dataclass(thing) and not isinstance(thing, type):
        yield f"{name}: a {type(thing).__name__}"
        return
    yield f"{name}{signature(thing)}"
    if not isinstance(thing, type):
        return
    given = fields(thing) if is_dataclass(thing) else ()
    for field in given:
        yield f"{name}.{field.name}"
    methods = classmethod, staticmethod, property, FunctionType
    for method in sorted(set(dir(thing)) - {field.name for field in given}):
        home = next((kind for kind in thing.__mro__ if method in vars(kind)), object)
        made = vars(home).get(method)
        ours = home.__module__.startswith("snu_") and not method.startswith("_")
        if ours and isinstance(made, methods):
            shown = (
                ": property" if isinstance(made, property) else signature(getattr(thing, method))
            )
            yield f"{name}.{method}{shown}"


def signature(thing: Any) -> str:
    """Parameters with their defaults; annotations may be spelled in more than one way."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    shown = []
    star = False
    for p in found.parameters.values():
        if p.kind is p.KEYWORD_ONLY and not star:
            shown.append("*")
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        mark = "*" * ((p.kind is p.VAR_POSITIONAL) + 2 * (p.kind is p.VAR_KEYWORD))
        shown.append(mark + p.name + ("" if p.default is p.empty else f"={value(p.default)}"))
    return f"({', '.join(shown)})"


def value(default: Any) -> str:
    return getattr(default, "__name__", None) or repr(default)


def commands(command: argparse.ArgumentParser) -> Iterator[str]:
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from commands(inner)
        elif not isinstance(action, (argparse._HelpAction, argparse._VersionAction)):
            words = "|".join(action.option_strings) or action.dest
            kind = "" if action.choices is None else f" of {', '.join(map(str, action.choices))}"
            yield f"$ {command.prog} {words}{kind} = {value(action.default)}"


def test_the_package_lists_what_users_type_and_nothing_else() -> None:
    rooms = {name.split(".")[1] for name in NAMES if name.startswith("snu_plugin.")}
    promised = set(NAMES["snu_plugin"].split())
    assert set(dir(snu_plugin)) - {"State", "__version__"} == promised | rooms
    for name in dir(snu_plugin):
        assert getattr(snu_plugin, name) is not None
    with pytest.raises(AttributeError, match="'snu_plugin' has no attribute 'acelerate'"):
        _ = snu_plugin.acelerate


def test_every_name_and_command_that_users_type_is_as_it_was() -> None:
    # In any order: two that each add a line need not agree on the place.
    promised, found = sorted(RECORD.read_text().splitlines()), sorted(lines())
    difference = difflib.unified_diff(promised, found, "promised", "found", lineterm="", n=0)
    assert promised == found, "\n".join(difference)


if __name__ == "__main__":
    RECORD.write_text("".join(f"{line}\n" for line in lines()))
