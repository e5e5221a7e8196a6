"""The front door of the scan: what it accepts, and which implementation it takes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from forked import Process
from snu_plugin import SNU, SNUConfig, State, implementations, snu_scan
from snu_plugin.neuron import Engine, Euler, euler_scan, reference, scan
from snu_plugin.neuron.surrogate import tanh_derivative
from snu_plugin.origin import how_to_install

WITHOUT_NUMBA = """
import json, sys
sys.modules["numba"] = None
import torch
import snu_plugin
y, _ = snu_plugin.snu_scan(torch.full((6, 1, 1), 0.6))
try:
    snu_plugin.snu_scan(torch.ones(2, 1, 1), impl="numba")
except ValueError as error:
    said = str(error)
print(json.dumps([y.flatten().tolist(), snu_plugin.implementations()["numba"], said]))
"""


INHIBITED = SNUConfig(lateral_inhibition="sample")


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def other_slope(v: Tensor) -> Tensor:
    return torch.exp(-v.abs())


def test_without_numba_the_reference_runs_and_the_reason_is_said() -> None:
    done = Process(WITHOUT_NUMBA)
    assert done.wait() == 0, done.err
    y, (available, reason), said = json.loads(done.out)
    assert y == [0, 1, 0, 1, 0, 1]
    assert not available
    assert how_to_install("numba") in reason
    assert reason in said


def test_what_is_not_installed_is_looked_for_once() -> None:
    code = """
import sys

class Asked:
    times = 0

    def find_spec(self, name, path=None, target=None):
        if name == "numba":
            Asked.times += 1
            raise ModuleNotFoundError("No module named 'numba'", name="numba")

for name in [name for name in sys.modules if name.split(".")[0] == "numba"]:
    del sys.modules[name]
sys.meta_path.insert(0, Asked())
import torch
import snu_plugin
layer = snu_plugin.SNU(3)
before = [layer(torch.ones(4, 2, 3)), Asked.times][1]
layer(torch.ones(4, 2, 3)), layer(torch.ones(4, 2, 3))
print(before, Asked.times)
"""
    done = Process(code)
    assert done.wait() == 0, done.err
    before, after = map(int, done.out.split())
    assert 0 < before == after


def test_the_fused_scan_is_listed_before_the_reference() -> None:
    pytest.importorskip("numba")
    assert list(implementations()) == ["numba", "triton", "reference"]
    assert implementations()["numba"] == (True, "")


def test_no_name_takes_the_fused_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("the reference ran")

    monkeypatch.setattr(reference, "snu_scan", refuse)
    snu_scan(ones(2, 1, 3))
    with pytest.raises(RuntimeError, match="the reference ran"):
        snu_scan(ones(1, 1, 3))


@pytest.mark.parametrize(
    ("config", "given", "reason"),
    [
        (INHIBITED, {"recurrent": torch.eye(3)}, "lateral inhibition"),
        (SNUConfig(), {"decay": torch.tensor(0.5, dtype=torch.float64)}, "float64"),
    ],
    ids=["lateral inhibition", "mixed precision"],
)
def test_what_is_not_fused_falls_to_the_reference_but_a_name_raises(
    config: SNUConfig, given: dict[str, Tensor], reason: str
) -> None:
    pytest.importorskip("numba")
    arguments = {"x": ones(4, 2, 3), **given}
    with pytest.raises(ValueError, match=f"impl='numba' cannot run this call: .*{reason}"):
        snu_scan(config=config, impl="numba", **arguments)  # type: ignore[arg-type]
    y, _ = snu_scan(config=config, **arguments)  # type: ignore[arg-type]
    expected, _ = snu_scan(config=config, impl="reference", **arguments)  # type: ignore[arg-type]
    assert torch.equal(y, expected)


def test_a_surrogate_that_a_soft_unit_never_uses_is_no_reason() -> None:
    pytest.importorskip("numba")
    snu_scan(ones(2, 1, 3), SNUConfig(soft=True, surrogate=other_slope), impl="numba")


def test_implementations_say_which_of_them_run_a_call_and_why_not() -> None:
    pytest.importorskip("numba")
    x = ones(4, 2, 3)
    assert implementations(x, SNUConfig(surrogate=other_slope), recurrent=torch.eye(3))[
        "numba"
    ] == (
        True,
        "",
    )
    assert implementations(x, INHIBITED)["numba"].available
    available, reason = implementations(x, INHIBITED, recurrent=torch.eye(3))["numba"]
    assert not available
    assert "lateral inhibition beside recurrent weights" in reason


def test_an_unknown_implementation_lists_those_that_exist() -> None:
    with pytest.raises(LookupError, match="must be one of numba, triton, reference"):
        snu_scan(ones(2, 1, 3), impl="cuda")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.ones(3, 2, 1, dtype=torch.int64)}, TypeError, "torch.int64"),
        ({"x": ones(3)}, ValueError, r"\(T, B, ..., features\)"),
        ({"decay": ones(4)}, ValueError, r"decay has shape \(4,\); it must broadcast to \(2, 5\)"),
        ({"threshold": ones(3, 2, 5)}, ValueError, "threshold has shape"),
        ({"recurrent": ones(5, 4)}, ValueError, r"it must be \(5, 5\)"),
        ({"state": State(ones(2, 4), ones(2, 5))}, ValueError, "state has shapes"),
    ],
)
def test_contradictions_are_refused_in_one_line(
    arguments: dict[str, Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        snu_scan(**{"x": ones(3, 2, 5), **arguments})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


COMPILED = """
import torch, snu_plugin
x = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0))
run = torch.compile(lambda x: snu_plugin.snu_scan(x)[0], backend="eager", fullgraph=True)
assert torch.equal(run(x), snu_plugin.snu_scan(x, impl="reference")[0])
"""


@pytest.mark.slow
def test_the_first_call_of_a_process_may_be_compiled() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], check=True)


def test_the_default_surrogate_is_the_published_one() -> None:
    assert SNUConfig().surrogate is tanh_derivative
    assert scan.ENGINES == ("numba", "triton")


def test_an_engine_of_ones_own_runs_or_says_why_not() -> None:
    def doubled(x: Tensor, config: SNUConfig, **_: object) -> tuple[Tensor, State]:
        return 2 * x, State(x[-1], x[-1])

    engine = Engine(
        name="mine",
        missing=lambda: "",
        refusal=lambda x, *_: "" if x.shape[0] == 3 else "it takes three steps",
        snu=doubled,
    )
    assert torch.equal(snu_scan(ones(3, 1, 1), impl=engine)[0], 2 * ones(3, 1, 1))
    assert torch.equal(SNU(1, impl=engine)(ones(3, 1, 1))[0], 2 * ones(3, 1, 1))
    with pytest.raises(ValueError, match="the engine 'mine' cannot run this call: it takes three"):
        snu_scan(ones(2, 1, 1), impl=engine)
    with pytest.raises(ValueError, match="mine has no scan of NIR's neurons"):
        euler_scan(ones(3, 1, 1), Euler(decay=torch.tensor(0.5)), impl=engine)
