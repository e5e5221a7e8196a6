"""Convolutions and pools of all steps: what the single steps give, in memory that is warm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.acceleration import at_once as images
from snu_plugin.neuron import convolution

STEPS, BATCH = 6, 3

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "conv1d": ((4, 9), (6, 4, 3), {"stride": 2, "padding": (1,)}),
    "conv2d": ((4, 9, 8), (6, 2, 3, 2), {"padding": (2, 1), "dilation": 2, "groups": 2}),
    "conv3d": ((2, 5, 4, 6), (3, 2, 2, 2, 3), {"stride": (1, 2, 1)}),
}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every step run by itself, however small."""
    monkeypatch.setattr(images, "SHARE", 1)


def with_gradients(call: Callable[..., Tensor], *given: Tensor) -> tuple[Tensor, ...]:
    leaves = [t.detach().clone().requires_grad_() for t in given]
    y = call(*leaves)
    g = torch.rand(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    return y, *torch.autograd.grad(y, leaves, g)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_gives_every_step_the_numbers_of_its_own_call(
    name: str, biased: bool
) -> None:
    torch.manual_seed(0)
    shape, weights, settings = CONVOLUTIONS[name]
    x, weight = torch.randn(STEPS, BATCH, *shape), torch.randn(*weights)
    given = [x, weight, *([torch.randn(len(weight))] if biased else [])]
    function = getattr(F, name)

    def stepped(x: Tensor, *rest: Tensor) -> Tensor:
        return torch.stack([function(x_t, *rest, **settings) for x_t in x])

    def at_once(x: Tensor, *rest: Tensor) -> Tensor:
        found: Tensor = images.of_all_steps(name, function, x, rest, settings)
        return found

    expected, actual = (with_gradients(call, *given) for call in (stepped, at_once))
    if name != "conv2d":  # whose images lie channels last, so that sums come in another order
        assert torch.equal(actual[0], expected[0])
    for a, b in zip(actual, expected, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()


@pytest.mark.usefixtures("parts")
def test_weights_alone_are_trained_where_images_need_no_gradient() -> None:
    x, weight = torch.randn(STEPS, BATCH, 2, 6, 6), torch.randn(3, 2, 3, 3, requires_grad=True)
    y = images.of_all_steps("conv2d", F.conv2d, x, (weight,), {})
    y.sum().backward()
    expected = torch.autograd.grad(F.conv2d(x.flatten(0, 1), weight).sum(), weight)[0]
    assert not x.requires_grad
    torch.testing.assert_close(weight.grad, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["conv1d", "conv2d"])
def test_spikes_are_walked_where_they_are_few(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("LEAST", "ROWS", "INPUTS", "OUTPUTS", "WEIGHTS"):
        monkeypatch.setattr(f"snu_plugin.neuron.convolution.{limit}", 1)
    shape, weights, settings = CONVOLUTIONS[name]
    x = (torch.rand(STEPS, BATCH, *shape) < 0.1).float()
    given = x, torch.randn(*weights), torch.randn(weights[0])
    function = getattr(F, name)

    def at_once(x: Tensor, *rest: Tensor) -> Tensor:
        found: Tensor = images.of_all_steps(name, function, x, rest, settings)
        return found

    def stepped(x: Tensor, *rest: Tensor) -> Tensor:
        return torch.stack([function(x_t, *rest, **settings) for x_t in x])

    packed: list[bool] = []
    real = convolution._pack

    def pack(*given: Any) -> Tensor | None:
        words = real(*given)
        packed.append(words is not None)
        return words

    monkeypatch.setattr(convolution, "_pack", pack)
    found, expected = (with_gradients(call, *given) for call in (at_once, stepped))
    assert packed == [True]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_images_lie_channels_last_through_convolutions_and_pools(
    channels: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LEAST", "ROWS", "INPUTS", "OUTPUTS", "WEIGHTS"):
        monkeypatch.setattr(f"snu_plugin.neuron.convolution.{name}", 1)
    torch.manual_seed(0)
    x = (torch.rand(STEPS, BATCH, channels, 8, 8) < share).double()
    weight = torch.randn(5, channels, 3, 3).double()

    def at_once(x: Tensor, weight: Tensor) -> Tensor:
        y = images.of_all_steps("conv2d", F.conv2d, x, (weight,), {"padding": 1})
        assert y.stride()[2:] == (1, 40, 5)
        y = images.of_all_steps("max_pool2d", F.max_pool2d, y, (2,), {})
        assert y.stride()[2:] == (1, 20, 5)
        found: Tensor = y
        return found

    def stepped(x: Tensor, weight: Tensor) -> Tensor:
        return torch.stack([F.max_pool2d(F.conv2d(x_t, weight, padding=1), 2) for x_t in x])

    for found, expected in zip(
        with_gradients(at_once, x, weight), with_gradients(stepped, x, weight), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("parts")
def test_autocast_is_left_to_torch() -> None:
    x, weight = torch.randn(STEPS, BATCH, 2, 6, 6), torch.randn(3, 2, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert images.of_all_steps("conv2d", F.conv2d, x, (weight,), {}).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((2,), {}),
        ((3,), {"stride": 3}),
        (((2, 3),), {"stride": (2, 3)}),
        ((3,), {"stride": 2}),
        ((2,), {"padding": 1}),
        ((2,), {"ceil_mode": True}),
        ((2, 2, 0, 2), {}),
    ],
)
def test_a_pool_is_that_of_every_step(args: Any, kwargs: Any) -> None:
    torch.manual_seed(0)
    x = (torch.rand(STEPS, BATCH, 2, 7, 8) < 0.3).float()
    expected, actual = (
        with_gradients(call, x)
        for call in (
            lambda x: torch.stack([F.max_pool2d(x_t, *args, **kwargs) for x_t in x]),
            lambda x: images.of_all_steps("max_pool2d", F.max_pool2d, x, args, kwargs),
        )
    )
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_places_of_a_pool_that_are_asked_for_come_from_torch_or_not_at_all() -> None:
    x = torch.rand(STEPS, BATCH, 2, 4, 4)
    asked = {"return_indices": True}
    found = images.of_all_steps("max_pool2d", F.max_pool2d_with_indices, x, (2,), asked)
    assert found is None, "two tensors are not one of all steps"
