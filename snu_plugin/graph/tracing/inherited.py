"""Whether a module computes what the class that its rule is for computes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from inspect import getattr_static
from types import CodeType, MethodType
from typing import Any

import torch
from torch import nn

from snu_plugin.graph.tracing.layer_state import everything
from snu_plugin.random_states import undisturbed

CALLS = ("forward", "__call__", "_call_impl", "_wrapped_call_impl")
"""How torch comes to what a module computes."""


def check_inherited(module: nn.Module, ruled: Collection[type]) -> None:
    """Refuse a module whose class, or itself, replaces what the rule for a base class counts on.

    A rule says what a class's ``forward`` computes. It holds for a derived class that inherits
    ``forward``, and every method that ``forward`` calls. Parts of the module that have a rule too
    are looked at likewise, since the module's rule reads their parameters.

    Args:
        module: A module that a rule was found for.
        ruled: The classes that have a rule.

    Raises:
        TypeError: If something is replaced; names it.
    """
    for name, part in module.named_modules():
        kind = type(part)
        base = next((c for c in kind.__mro__ if c in ruled and c is not object), None)
        if base is None:
            continue
        for own in _used(base, part):
            theirs, ours = (getattr_static(of, own, None) for of in (base, kind))
            if ours is theirs and own not in vars(part):
                continue
            where = f"its part {name!r}, {kind.__name__}," if name else kind.__name__
            what = "a forward" if own in CALLS else f"{own}(), which forward uses,"
            raise TypeError(
                f"{where} has {what} of its own; the rule for {base.__name__} does not hold for "
                f"it: use {base.__name__} as it is, or add a rule with @to_node.register"
            )


def check_parametrized(module: nn.Module) -> None:
    """Refuse what is drawn anew whenever it is read; any other parametrisation leaves as it is.

    Raises:
        TypeError: If a parametrisation gives two values; the random state stays as it is.
    """
    for part in module.modules():
        for name in getattr(part, "parametrizations", {}):
            with torch.no_grad(), undisturbed(*part.parameters()):
                once, again = getattr(part, name), getattr(part, name)
            if not torch.equal(once, again):
                raise TypeError(
                    f"the parametrisation of {name} gives another value each time; a NIR graph has "
                    "one: remove the parametrisation (torch.nn.utils.parametrize)"
                )


def watch_hooks(module: nn.Module, name: str) -> None:
    """Make hooks inside a module, whose work no trace follows, raise where they change a value.

    Args:
        module: A copy of a layer; its hooks are replaced. Its own hooks, outside, stay.
        name: For messages.
    """
    for part in list(module.modules())[1:]:
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            for key, hook in hooks.items():
                hooks[key] = _only_looking(hook, name)


def _only_looking(hook: Callable[..., Any], name: str) -> Callable[..., Any]:
    def look(module: nn.Module, *given: Any) -> Any:
        before = [(tensor, tensor._version) for tensor in everything(given)]
        result = hook(module, *given)
        known = {id(tensor) for tensor, _ in before}
        new = any(id(tensor) not in known for tensor in everything(result))
        if new or any(tensor._version != version for tensor, version in before):
            raise TypeError(
                f"{name}: a hook on a part of it, {type(module).__name__}, changes a value; NIR "
                "has no hooks: remove it, or make a layer of it"
            )
        return result

    return look


def _used(base: type, part: nn.Module) -> list[str]:
    """Return the names of the methods and properties that a call of ``base`` runs."""
    found: dict[str, None] = dict.fromkeys(CALLS)
    todo = ["forward"]
    while todo:
        codes = _codes(base, todo.pop())
        for name in itertools.chain.from_iterable(map(_mentioned, codes)):
            bound = vars(part).get(name)
            if isinstance(bound, MethodType) and bound.__self__ is part:
                name = bound.__name__  # snnTorch and Norse keep a method of their own by a name.
            if name not in found and any(True for _ in _codes(base, name)):
                found[name] = None
                todo.append(name)
    return list(found)


def _codes(base: type, name: str) -> Iterator[CodeType]:
    for kind in base.__mro__:
        if kind in (nn.Module, object):
            continue
        value: Any = vars(kind).get(name)
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        code = getattr(value, "__code__", None)
        if isinstance(code, CodeType):
            yield code


def _mentioned(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _mentioned(constant)
