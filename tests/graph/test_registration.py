"""Names put into a host and functions of it replaced, and everything taken back."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from snu_plugin.simulators import Registration


def double(original: Callable[[int], int]) -> Callable[[int], int]:
    return lambda x: 2 * original(x)


@pytest.fixture
def host() -> Iterator[Any]:
    module: Any = ModuleType("some_host")
    module.run = lambda x: x + 1
    sys.modules["some_host"] = module
    yield module
    del sys.modules["some_host"]


def registration() -> Registration:
    return Registration("some_host", {"Unit": int}, [("some_host", "run", double)])


def test_a_host_has_our_names_and_wrapped_functions_until_they_are_removed(host: Any) -> None:
    ours, before = registration(), dict(vars(host))
    ours.install()
    ours.install()
    assert host.Unit is int
    assert host.run(1) == 4
    assert ours.taken() == []
    ours.remove()
    ours.remove()
    assert vars(host) == before


def test_a_block_takes_back_only_what_was_installed_inside_it(host: Any) -> None:
    ours, before = registration(), dict(vars(host))

    def fail() -> None:
        with ours.restored():
            ours.install()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert vars(host) == before
    ours.install()
    with ours.restored():
        ours.install()
    assert host.run(1) == 4


def test_names_that_a_host_has_from_elsewhere_are_told(host: Any) -> None:
    host.Unit = str
    assert registration().taken() == ["Unit"]


def test_a_wrapper_that_fails_leaves_the_host_as_it_was(host: Any) -> None:
    before = dict(vars(host))
    missing = Registration("some_host", {"Unit": int}, [("some_host", "absent", double)])
    with pytest.raises(AttributeError, match="absent"):
        missing.install()
    assert vars(host) == before


@pytest.mark.parametrize("name", ["run", "Unit"])
def test_what_another_package_replaced_since_is_not_taken_back(host: Any, name: str) -> None:
    ours = registration()
    ours.install()
    mine = getattr(host, name)
    setattr(host, name, abs)
    with pytest.raises(RuntimeError, match=rf"some_host\.{name} was replaced after register"):
        ours.remove()
    assert getattr(host, name) is abs
    setattr(host, name, mine)
    ours.remove()
    assert not hasattr(host, "Unit")
