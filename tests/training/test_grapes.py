"""What GRAPES promises: the published factors on the published gradient, on any network.

C20 to C22 are checks of docs/neurons.md#checks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Generator, Tensor, nn

from snu_plugin.neuron import SNUConfig
from snu_plugin.training.grapes import attach_grapes, importance, modulation
from snu_plugin.training.networks import network

W = torch.tensor(
    [[0.1, -0.2, 0.3], [0.4, 0.0, -0.2], [-0.9, 0.5, 0.6], [0.05, 0.05, 0.0]], dtype=torch.float64
)
W_NEXT = torch.tensor([[0.3, -0.1, 0.2, 0.4], [-0.2, 0.6, 0.1, -0.3]], dtype=torch.float64)
A = torch.tensor([0.5, -0.1, 0.7, 0.2], dtype=torch.float64)
DELTA = torch.tensor([0.2, -0.5], dtype=torch.float64)


def close(found: Tensor, expected: object) -> None:
    wanted = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def grad(net: nn.Module, name: str) -> Tensor:
    found = net.get_parameter(name).grad
    assert found is not None
    return found


def example() -> nn.Sequential:
    """Return a network whose hidden layer receives A from an input of zeros."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for layer, weight, bias in ((net[0], W, A), (net[2], W_NEXT, torch.zeros(2))):
            layer.get_parameter("weight").copy_(weight)
            layer.get_parameter("bias").copy_(bias)
    return net


def deep(seed: int = 0) -> nn.Sequential:
    draw = Generator().manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(),
        nn.Linear(5, 3),
    ).double()  # fmt: skip
    for p in net.parameters():
        nn.init.normal_(p, generator=draw)
    return net


def convolutional() -> nn.Sequential:
    draw = Generator().manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.Tanh(), nn.Conv2d(4, 3, 3, dilation=1),
        nn.Tanh(), nn.Flatten(), nn.Linear(12, 3),
    ).double()  # fmt: skip
    for p in net.parameters():
        nn.init.normal_(p, generator=draw)
    return net


def inputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(9), dtype=torch.float64)


def gradients(net: nn.Module, x: Tensor) -> list[Tensor]:
    net.zero_grad()
    net(x).pow(2).sum().backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def test_the_factors_are_the_published_ones() -> None:  # C20
    close(importance(W), [0.6, 0.6, 2.0, 0.1])
    close(modulation(W), [1.0, 1.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("modulate", "expected"),
    [(False, [0.16, 0.0, -0.01, 0.23]), (True, [0.16, 0.0, -0.02, 0.23])],
)
def test_the_error_of_a_hidden_layer_is_the_published_one(  # C21
    modulate: bool, expected: list[float]
) -> None:
    net = example()
    with attach_grapes(net) if modulate else nullcontext():
        (net(torch.zeros(1, 3, dtype=torch.float64)) @ DELTA).sum().backward()
    close(grad(net, "0.bias"), expected)
    close(grad(net, "2.bias"), DELTA)


@pytest.mark.parametrize("seed", range(5))
def test_factors_lie_between_one_and_two_and_ignore_the_scale(seed: int) -> None:  # C22
    weight = torch.randn(9, 5, 3, generator=Generator().manual_seed(seed), dtype=torch.float64)
    m = modulation(weight)
    assert m.shape == (9,)
    assert float(m.min()) >= 1
    assert float(m.max()) == 2
    close(modulation(7.5 * weight), m)


def test_equal_nodes_all_get_two_and_a_layer_of_zeros_its_plain_gradient() -> None:  # C22
    assert torch.equal(modulation(torch.full((4, 3), -0.3)), torch.full((4,), 2.0))
    assert torch.equal(modulation(torch.zeros(4, 3)), torch.ones(4))


def test_every_hidden_layer_has_factors_and_the_output_none() -> None:  # C22
    net = deep()
    attached = attach_grapes(net)
    net(inputs(2, 6))
    assert list(attached.factors) == ["0", "2", "4"]
    for name, m in attached.factors.items():
        assert torch.equal(m, modulation(net.get_parameter(f"{name}.weight")))


def test_modulated_errors_travel_on_to_the_layers_before() -> None:
    net, x = deep(), inputs(5, 6)
    expected_net = deep()
    m = [modulation(expected_net.get_parameter(f"{k}.weight")) for k in (0, 2, 4)]
    h, outs, pre = x, [x], []
    for k in (0, 2, 4):
        pre.append(expected_net[k](h))
        h = pre[-1].tanh()
        outs.append(h)
    delta = 2 * expected_net[6](h)
    expected = [(delta.t() @ outs[3], delta.sum(0))]
    for place, k in ((2, 6), (1, 4), (0, 2)):
        delta = m[place] * (delta @ expected_net[k].weight) * (1 - pre[place].tanh() ** 2)
        expected.insert(0, (delta.t() @ outs[place], delta.sum(0)))
    with attach_grapes(net):
        found = gradients(net, x)
    for got, wanted in zip(found, [t for pair in expected for t in pair], strict=True):
        torch.testing.assert_close(got, wanted.detach())


@pytest.mark.parametrize(("make", "shape"), [(deep, (5, 6)), (convolutional, (2, 2, 7, 7))])
def test_outputs_stay_and_removal_gives_the_plain_gradient_back(
    make: Callable[[], nn.Sequential], shape: tuple[int, ...]
) -> None:
    net, x = make(), inputs(*shape)
    plain, y = gradients(net, x), net(x)
    with attach_grapes(net):
        assert torch.equal(net(x), y)
        changed = gradients(net, x)
    assert any(not torch.equal(a, b) for a, b in zip(changed, plain, strict=True))
    # Both parameters of the output layer learn as ever.
    for a, b in zip(changed[-2:], plain[-2:], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(gradients(net, x), plain, strict=True):
        assert torch.equal(a, b)


def test_factors_hold_for_a_batch_and_follow_the_weights() -> None:
    net, x = deep(), inputs(5, 6)
    attached = attach_grapes(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        net(x).pow(2).sum().backward()
        seen.append(attached.factors["2"])
        optimizer.step()
    assert not torch.equal(seen[0], seen[1])
    net(x)
    assert torch.equal(attached.factors["2"], modulation(net.get_parameter("2.weight")))


def test_in_a_network_of_snu_the_error_of_every_output_is_weighed() -> None:
    config = SNUConfig(decay=0.8)
    x = (torch.rand(12, 2, 5, generator=Generator().manual_seed(1)) < 0.5).float()

    def thresholds_and_weights(modulate: bool) -> tuple[Tensor, Tensor, Tensor]:
        net = network("snu", (5, 6, 3), config, readout=True, generator=Generator().manual_seed(2))
        m = modulation(net.get_parameter("layers.0.weights.weight"))
        with attach_grapes(net) if modulate else nullcontext():
            net(x)[0].pow(2).sum().backward()
        hidden = "layers.0."
        return m, grad(net, hidden + "unit.threshold"), grad(net, hidden + "weights.weight")

    m, plain_b, plain_w = thresholds_and_weights(False)
    _, found_b, found_w = thresholds_and_weights(True)
    assert plain_b.any()
    # Without recurrence a unit's gradient is linear in its own error at all times.
    torch.testing.assert_close(found_b, m * plain_b)
    torch.testing.assert_close(found_w, m[:, None] * plain_w)


def test_networks_of_snu_learn() -> None:
    draw = Generator().manual_seed(0)
    x = (torch.rand(10, 64, 8, generator=draw) < 0.4).float()
    target = x[..., :1]
    net = network("ssnu", (8, 20, 1), readout=True, generator=draw)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    with attach_grapes(net):
        for _ in range(150):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(x)[0], target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[10]


def chain(kind: str) -> nn.Module:
    """Return 6-5-4-3: two recurrent layers of torch's and a linear one."""
    return network(kind, (6, 5, 4, 3), readout=True, generator=Generator().manual_seed(4)).double()  # type: ignore[arg-type]


def weighed(m: Tensor) -> Callable[..., object]:
    """Return a hook that multiplies the error at a layer's outputs."""

    def hook(_: nn.Module, __: object, out: tuple[Tensor, object]) -> tuple[Tensor, object]:
        y = out[0].clone()
        y.register_hook(lambda g: g * m)  # type: ignore[no-untyped-call]
        return y, out[1]

    return hook


def of(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    net(x)[0].pow(2).sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_recurrent_layers_meet_weighed_errors_at_every_step(kind: str, recurrent: bool) -> None:
    net, x = chain(kind), inputs(7, 2, 6)
    with attach_grapes(net, recurrent=recurrent) as attached:
        found = of(net, x)
    for name, size in (("layers.0", 5), ("layers.1", 4)):
        weights = [net.get_parameter(f"{name}.weight_ih_l0")]
        weights += [net.get_parameter(f"{name}.weight_hh_l0")] if recurrent else []
        gates = [w.detach().abs().sum(1).view(-1, size).sum(0) for w in weights]
        imp = torch.stack(gates).sum(0)
        close(attached.factors[name], (2 * imp / imp.max()).clamp(1, 2))
    for name in ("layers.0", "layers.1"):
        net.get_submodule(name).register_forward_hook(weighed(attached.factors[name]))
    for name, expected in of(net, x).items():
        torch.testing.assert_close(found[name], expected)


def test_weights_from_units_to_themselves_count_where_asked_for() -> None:
    net = network("snu", (5, 6, 3), recurrent=True, generator=Generator().manual_seed(2))
    w, h = (net.get_parameter(f"layers.0.{n}") for n in ("weights.weight", "unit.recurrent"))
    x = (torch.rand(12, 2, 5, generator=Generator().manual_seed(1)) < 0.5).float()
    for recurrent, expected in ((False, modulation(w)), (True, modulation(torch.cat((w, h), 1)))):
        with attach_grapes(net, recurrent=recurrent) as attached:
            net(x)
        close(attached.factors["layers.0.weights"], expected)


def test_every_channel_of_a_convolution_has_a_factor_of_its_own() -> None:
    net, x = convolutional(), inputs(2, 2, 7, 7)
    with attach_grapes(net) as attached:
        found = gradients(net, x)
    y = x
    for k, each in enumerate(net):
        y = each(y)
        if k in (0, 2):
            m = modulation(net.get_parameter(f"{k}.weight")).view(-1, 1, 1)
            y.register_hook(lambda g, m=m: g * m)
    net.zero_grad()
    y.pow(2).sum().backward()  # type: ignore[no-untyped-call]
    expected = [p.grad for p in net.parameters()]
    assert [len(m) for m in attached.factors.values()] == [4, 3]
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad],
)
def test_any_optimiser_takes_the_gradients_it_is_given(
    optimizer: type[torch.optim.Optimizer],
) -> None:
    net, x = deep(), inputs(5, 6)
    twin = deep()
    steps = optimizer(net.parameters(), lr=0.05)  # type: ignore[call-arg]
    expected = optimizer(twin.parameters(), lr=0.05)  # type: ignore[call-arg]
    with attach_grapes(net):
        for _ in range(3):
            for p, g in zip(twin.parameters(), gradients(net, x), strict=True):
                p.grad = g
            steps.step()
            expected.step()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_cannot_be_attached_is_refused() -> None:
    with pytest.raises(ValueError, match="1 Linear, Conv or recurrent layers"):
        attach_grapes(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="'0' is several in one"):
        attach_grapes(nn.Sequential(nn.LSTM(3, 3, num_layers=2), nn.Linear(3, 3)))
