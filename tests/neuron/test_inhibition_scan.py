"""Lateral inhibition runs fused as the reference runs it; ``test_numba_scan`` has its sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from snu_plugin import SNUConfig, snu_scan
from snu_plugin.neuron.config import Inhibition

pytest.importorskip("numba")

both = pytest.mark.parametrize("inhibition", ["sample", "batch"])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def results(impl: str, x: Tensor, config: SNUConfig) -> list[Tensor]:
    """Return outputs, last state and the gradients of input and of one decay and threshold each."""
    l, theta = torch.tensor(0.9).to(x), torch.tensor(0.7).to(x)
    leaves = [t.clone().requires_grad_() for t in (x, l, theta)]
    y, state = snu_scan(leaves[0], config, decay=leaves[1], threshold=leaves[2], impl=impl)
    grads = torch.autograd.grad((y * drawn(*y.shape, seed=1)).sum() + state.s.sum(), leaves)
    return [y.detach(), *(part.detach() for part in state), *grads]


@both
@pytest.mark.parametrize("soft", [False, True])
def test_maps_inhibit_along_the_last_axis_or_all_together(
    inhibition: Inhibition, soft: bool
) -> None:
    x = drawn(9, 3, 4, 5, 6).double()
    config = SNUConfig(soft=soft, lateral_inhibition=inhibition)
    for one, other in zip(
        results("numba", x, config), results("reference", x, config), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@both
def test_groups_beyond_a_tile_agree(inhibition: Inhibition) -> None:
    x, config = drawn(5, 2, 9001).double() - 2, SNUConfig(lateral_inhibition=inhibition)
    found = results("numba", x, config)
    assert 0 < found[0].mean() < 0.1
    for one, other in zip(found, results("reference", x, config), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@both
@pytest.mark.parametrize("soft", [False, True])
def test_the_number_of_threads_changes_no_bit(inhibition: Inhibition, soft: bool) -> None:
    x = drawn(20, 50, 301)
    config = SNUConfig(soft=soft, lateral_inhibition=inhibition)
    before = torch.get_num_threads()
    found = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(results("numba", x, config))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_units_that_fire_together_share_the_gradient_of_the_reset() -> None:
    x = torch.tensor([[[2.0, 2.0, 0.5]], [[0.0, 0.0, 0.4]]], dtype=torch.float64)
    config = SNUConfig(lateral_inhibition="sample", surrogate=torch.ones_like)
    for impl in ("numba", "reference"):
        leaf = x.clone().requires_grad_()
        _, state = snu_scan(leaf, config, decay=torch.tensor(0.5).double(), impl=impl)
        assert state.s.tolist() == [[0.0, 0.0, 0.4]]
        (grad,) = torch.autograd.grad(state.s.sum(), leaf)
        # ds/dy is -0.5 s of all three, 2.25 together; each of the two that fired takes half of it.
        assert grad[0, 0].tolist() == pytest.approx([-1.125, -1.125, 0.0])


def surrogate(v: Tensor) -> Tensor:
    return torch.exp(-v.abs())


def test_another_surrogate_is_followed() -> None:
    config = SNUConfig(lateral_inhibition="sample", surrogate=surrogate)
    x = drawn(30, 3, 17).double()
    found, expected = (results(impl, x, config) for impl in ("numba", "reference"))
    plain = results("numba", x, SNUConfig(lateral_inhibition="sample"))
    assert not torch.allclose(found[3], plain[3])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def by_vmap(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    y: Tensor = torch.func.vmap(run)(x)
    return y


def by_grad(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    grad: Tensor = torch.func.grad(lambda x: run(x[0]).square().sum())(x)
    return grad


@pytest.mark.parametrize("transform", [by_vmap, by_grad])
def test_inside_transforms_the_reference_runs_and_a_name_raises(
    transform: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor],
) -> None:
    config, x = SNUConfig(lateral_inhibition="sample", soft=True), drawn(2, 6, 3, 4)
    expected = transform(lambda x: snu_scan(x, config, impl="reference")[0], x)
    assert torch.equal(transform(lambda x: snu_scan(x, config)[0], x), expected)
    with pytest.raises(ValueError, match="lateral inhibition is fused in eager torch only"):
        transform(lambda x: snu_scan(x, config, impl="numba")[0], x)


def test_batched_gradients_are_refused() -> None:
    config = SNUConfig(lateral_inhibition="sample", soft=True)
    x = drawn(6, 3, 4).requires_grad_()
    y, _ = snu_scan(x, config, impl="numba")
    with pytest.raises(RuntimeError, match=r"no batched gradients; impl='reference'"):
        torch.autograd.grad(y, x, torch.ones(2, *y.shape), is_grads_batched=True)
