"""The threads that run the fused scan, which are torch's own, change no bit of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from snu_plugin import SNUConfig, snu_scan
from snu_plugin.neuron.numba_scan import jit

STEPS, BATCH, UNITS = 21, 16, 3001  # an odd share for each thread, and more than one tile


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def results(
    shape: tuple[int, ...], *, soft: bool = False, impl: str = "numba", double: bool = False
) -> list[Tensor]:
    """Return outputs, states and gradients where constants have a shape of their own."""
    kind = torch.float64 if double else torch.float32
    x, gy = (draw(STEPS, BATCH, UNITS, seed=seed).to(kind) for seed in range(2))
    constants = [torch.sigmoid(draw(*shape, seed=seed).to(kind)) for seed in (2, 3)]
    wanted = [t.requires_grad_() for t in (x, *constants)]
    decay, threshold = constants
    config = SNUConfig(soft=soft)
    y, state = snu_scan(x, config, decay=decay, threshold=threshold, impl=impl)
    return [y.detach(), *(s.detach() for s in state), *torch.autograd.grad(y, wanted, gy)]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("number", [2, 5])
def test_the_number_of_threads_changes_nothing(number: int, soft: bool) -> None:
    with threads(1):
        expected = results((UNITS,), soft=soft)
    with threads(number):
        actual = results((UNITS,), soft=soft)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


def test_without_openmp_one_thread_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with threads(3):
        expected = results((UNITS,))
        monkeypatch.setattr(jit, "team", lambda: None)
        assert jit.threads(1000 * jit.GRAIN) == 1
        actual = results((UNITS,))
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "shape", [(), (1,), (1, 1), (UNITS,), (1, UNITS), (BATCH, 1), (BATCH, UNITS)]
)
def test_gradients_of_shared_constants_are_the_references_whoever_shares_them(
    shape: tuple[int, ...],
) -> None:
    exact = results(shape, impl="reference", double=True, soft=True)
    with threads(2):
        actual = results(shape, double=True, soft=True)
    for one, other in zip(actual, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_gradient_shared_by_many_samples_is_as_exact_as_one_number_can_be() -> None:
    exact = results((), impl="reference", double=True, soft=True)
    single = results((), soft=True)
    for one, other in zip(single[-2:], exact[-2:], strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-6, atol=0)


def test_threads_of_the_caller_may_run_it_at_once() -> None:
    x = draw(60, 16, 300)
    expected, _ = snu_scan(x, impl="numba")
    outputs: list[Tensor] = []
    callers = [
        threading.Thread(target=lambda: outputs.append(snu_scan(x, impl="numba")[0]))
        for _ in range(6)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert len(outputs) == 6
    assert all(torch.equal(y, expected) for y in outputs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_runs_it_too() -> None:
    x = torch.ones(100, 8, 512)
    with threads(2):
        snu_scan(x, impl="numba")
        child = os.fork()
        if child == 0:
            y, _ = snu_scan(x, impl="numba")
            os._exit(0 if y.shape == x.shape else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.skipif(jit.team() is None, reason="this torch brings no OpenMP of GCC's")
def test_a_small_call_stays_in_its_thread_and_a_large_one_takes_as_many_as_torch() -> None:
    with threads(4):
        assert jit.threads(jit.GRAIN) == 1
        assert jit.threads(2 * jit.GRAIN) == 2
        assert jit.threads(1000 * jit.GRAIN) == 4
