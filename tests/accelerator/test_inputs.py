"""Inputs of every kind that torch has are the same to a chip, or refused in words."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from forked import Process
from snu_plugin.accelerator import PCM, Accelerator, Program
from snu_plugin.compiler import compile
from snu_plugin.hil import fine_tune

X = (torch.rand(6, 4, 16, generator=Generator().manual_seed(0)) < 0.3).float()


def program() -> Program:
    nodes = {
        "in": nir.Input({"input": np.array([16])}),
        "fc": nir.Linear(np.random.default_rng(0).normal(size=(4, 16))),
        "out": nir.Output({"output": np.array([4])}),
    }
    return compile(nir.NIRGraph(nodes, list(pairwise(nodes))), PCM, dt=1.0)


def chip() -> Accelerator:
    made = Accelerator(program(), 0)
    made.program()
    return made


def turned(x: Tensor) -> Tensor:
    return x.transpose(0, 2).contiguous().transpose(0, 2)


KINDS: dict[str, Callable[[Tensor], Any]] = {
    **{
        str(kind).removeprefix("torch."): partial(Tensor.to, dtype=kind)
        for kind in (
            torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
            torch.float16, torch.bfloat16, torch.float64,
        )
    },
    "not contiguous": turned,
    "a view with strides of 0": lambda x: x[:, :1].expand(-1, 4, -1),
    "with a gradient": lambda x: x.clone().requires_grad_(),
    "of a computation": lambda x: x.clone().requires_grad_() * 1,
    "a parameter": lambda x: torch.nn.Parameter(x),
    "COO": lambda x: x.to_sparse(),
    "COO, hybrid": lambda x: x.to_sparse(2),
    "quantised": lambda x: torch.quantize_per_tensor(x, 1.0, 0, torch.quint8),
    "NumPy": lambda x: x.numpy(),
    "NumPy, bool": lambda x: x.numpy().astype(bool),
    "NumPy, float64": lambda x: x.numpy().astype(np.float64),
    "NumPy, uint16": lambda x: x.numpy().astype(np.uint16),
    "NumPy, big-endian": lambda x: x.numpy().astype(">f4"),
    "NumPy, turned": lambda x: np.asfortranarray(x.numpy()),
    "NumPy, read-only": lambda x: np.broadcast_to(x.numpy()[:, :1], x.shape),
    "NumPy, backwards": lambda x: x.numpy()[::-1].copy()[::-1],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*[Ss]parse.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz.*")
def test_a_chip_takes_inputs_of_every_kind_as_the_same_numbers(kind: str) -> None:
    given = KINDS[kind](X)
    same = (
        X[:, :1].expand(-1, 4, -1)
        if kind in ("a view with strides of 0", "NumPy, read-only")
        else X
    )
    assert torch.equal(chip().run(given)[0], chip().run(same)[0])
    assert torch.equal(chip().run({"in": given})[0], chip().run(same)[0])
    y, _ = chip().run(given)
    assert y.dtype == torch.float32
    assert not y.requires_grad


@pytest.mark.parametrize("kind", ["bool", "int16", "float64", "with a gradient", "COO", "NumPy"])
def test_a_tuning_takes_what_a_run_takes(kind: str) -> None:
    def losses(x: Any) -> list[float]:
        labels = torch.arange(4)
        history = fine_tune(
            chip(),
            [(x, labels)] * 2,
            lambda y, t: torch.nn.functional.cross_entropy(y.sum(0), t),
            hold_back=0.0,
        )
        return [record.loss for record in history]

    assert losses(KINDS[kind](X)) == losses(X)


def sequences_of_several_lengths() -> Tensor:
    return torch.nested.nested_tensor([X[0], X[1, :2]], layout=torch.jagged)  # loads much at first


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (X.to(torch.complex64), TypeError, "complex64; rows are driven by real numbers"),
        (X.tolist(), TypeError, "input in is list; give numbers, as a tensor"),
        (None, TypeError, "NoneType"),
        (X.numpy().astype(object), TypeError, "input in is object"),
        (X.numpy().astype("U1"), TypeError, "input in is <U1"),
        (X * torch.nan, ValueError, "384 values that are not finite"),
        (torch.where(X > 0, torch.inf, X), ValueError, "not finite in float32"),
        (X.double() + 1e300, ValueError, "not finite in float32"),
        (X.to("meta"), ValueError, "on meta, the chip on cpu; give x.to.'cpu'."),
        (sequences_of_several_lengths, TypeError, "nested"),
        (X[..., :15], ValueError, r"shape \(6, 4, 15\); it must be \(T, B, 16\)"),
        (X[:0], ValueError, "at least one step"),
        ({"x": X}, ValueError, "inputs are x; the graph has in"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*nested.*:UserWarning")
def test_what_drives_no_rows_is_refused_in_words(
    given: Any, error: type[Exception], said: str
) -> None:
    given = given() if callable(given) else given
    with pytest.raises(error, match=said) as caught:
        chip().run(given)
    assert "\n" not in str(caught.value)
    with pytest.raises(error, match=said):
        fine_tune(chip(), [(given, 0)] * 2, lambda y, t: y.sum() + t, hold_back=0)


@pytest.mark.filterwarnings("ignore:more than 1%")
def test_large_finite_values_are_finite() -> None:
    assert bool(chip().run(torch.full((1, 1, 16), 3e38))[0].isfinite().all())


LIFE = """
import sys, warnings, hashlib, torch, numpy as np, nir
from dataclasses import replace
from itertools import pairwise
from snu_plugin.accelerator import PCM, PCM_PULSED, HERMES, IDEAL, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.hil import fine_tune, MixedPrecision
warnings.simplefilter("ignore")
nodes = {
    "in": nir.Input({"input": np.array([16])}),
    "fc": nir.Affine(np.random.default_rng(0).normal(size=(6, 16)), np.ones(6)),
    "lif": nir.LIF(*(v * np.ones(6) for v in (4, 4, 0, 1, 0))),
    "out": nir.Output({"output": np.array([6])}),
}
g = nir.NIRGraph(nodes, list(pairwise(nodes)))
x = (torch.rand(8, 4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float32) < 0.3)
target = torch.zeros(8, 4, 6, dtype=torch.float32)
found = hashlib.sha256()
small = {"tile_rows": 8, "adc_gain_spread": 0.01, "voltage_offset": 0.01, "stuck_at_set": 0.02}
single = replace(PCM, devices_per_weight=1)
for chip in (HERMES, PCM_PULSED, IDEAL, replace(PCM, **small), single):
    made = Accelerator(compile(g, chip, dt=1.0, sample=x), 1)
    made.program(); made.wait(1e4); made.calibrate(); made.remember()
    if chip.devices_per_weight > 1:
        loss = lambda y, t: (y - t).square().mean()
        fine_tune(made, [(x, target), (~x, target)], loss, MixedPrecision(lr=30.0))
    made.calibrate("tile", method="mean")
    y, _ = made.run(x)
    assert y.dtype == torch.float32, y.dtype
    shown = (*made.registers.values(), *made.read_weights().values())
    assert all(v.dtype == torch.float32 for v in shown)
    found.update(y.numpy().tobytes())
    for w in made.read_weights().values(): found.update(w.numpy().tobytes())
found = found.hexdigest()
"""


def test_a_chip_is_the_same_whatever_torchs_default_dtype_is() -> None:
    names: dict[str, Any] = {}
    torch.set_default_dtype(torch.bfloat16)
    try:
        exec(LIFE, names)
    finally:
        torch.set_default_dtype(torch.float32)
    # What is made while the product is imported meets another default in a process of its own.
    begin = "import torch\ntorch.set_default_dtype(torch.float64)\n"
    done = Process(f"{begin}{LIFE}print(found)")
    assert done.wait() == 0, done.err[-2000:]
    assert names["found"] == done.out.strip()


def test_digital_values_that_a_chip_hands_out_are_copies() -> None:
    made = chip()
    before = {name: value.clone() for name, value in made.registers.items()}
    for value in made.registers.values():
        value.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in made.registers.items())
