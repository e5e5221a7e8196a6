"""What online learning promises: the gradient through time, and nothing kept of the past.

Equations: docs/neurons.md#online-learning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

import snu_norse as sn
import snu_plugin as sp
import snu_snntorch as st
from snu_plugin.neuron import SNUConfig, snu_step
from snu_plugin.training import OnlineState, UnitNetwork, network, online

CONFIG = SNUConfig(decay=0.7, threshold=0.5, learn_decay=True)
"""With outputs of all kinds, and with all that can be trained trained."""


def data(steps: int, batch: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    draw = Generator().manual_seed(5)
    x = (torch.rand(steps, batch, inputs, generator=draw) < 0.6).double() * 1.5
    return x, torch.rand(steps, batch, outputs, generator=draw).double()


def squares(y: Tensor, target: Tensor) -> Tensor:
    loss: Tensor = F.mse_loss(y, target, reduction="sum")
    return loss


def gradients(net: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return found


def through_time(net: Callable[[Tensor], Any], x: Tensor, target: Tensor) -> Tensor:
    found = net(x)
    y: Tensor = found[0] if isinstance(found, tuple) else found
    squares(y, target).backward()  # type: ignore[no-untyped-call]
    return y.detach()


def by_traces(
    net: Callable[[Tensor], Any], x: Tensor, target: Tensor, segment: int, **settings: Any
) -> Tensor:
    state: OnlineState | None = None
    outputs = []
    for part, wanted in zip(torch.split(x, segment), torch.split(target, segment), strict=True):
        y, state = online(net, part, state, **settings)
        squares(y, wanted).backward()  # type: ignore[no-untyped-call]
        outputs.append(y.detach())
    return torch.cat(outputs)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert value.abs().max() > 0, f"{name} has no gradient to compare"
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("segment", [1, 3, 11])
@pytest.mark.parametrize("kind", ["snu", "ssnu"])
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, g="relu"),
        replace(CONFIG, g="leaky_relu", detach_reset=True),
        replace(CONFIG, threshold=-0.2, learn_decay=False),
    ],
    ids=["identity", "relu", "leaky", "negative threshold"],
)
@pytest.mark.covering(2)
def test_one_layer_has_the_gradient_through_time(
    config: SNUConfig, kind: Any, segment: int, recurrent: bool
) -> None:
    draw = Generator().manual_seed(1)
    net = network(kind, (5, 7, 3), config, readout=True, recurrent=recurrent, generator=draw)
    net.double()
    x, target = data(11, 4, 5, 3)
    y = through_time(net, x, target)
    expected = gradients(net)
    assert torch.equal(by_traces(net, x, target, segment), y)
    assert_same(gradients(net), expected)


def test_units_that_inhibit_each_other_have_the_gradient_through_time() -> None:
    config = replace(CONFIG, lateral_inhibition="sample")
    net = network("ssnu", (5, 7, 3), config, readout=True, generator=Generator().manual_seed(1))
    net.double()
    x, target = data(11, 4, 5, 3)
    through_time(net, x, target)
    expected = gradients(net)
    by_traces(net, x, target, 2)
    assert_same(gradients(net), expected)


@pytest.mark.parametrize("segment", [1, 4])
def test_of_several_layers_only_the_residual_is_left_out(segment: int) -> None:
    """Each layer by itself: its own past, and none of what it did to the past of later ones."""
    draw = Generator().manual_seed(2)
    net = network("ssnu", (5, 7, 6, 3), CONFIG, readout=True, generator=draw).double()
    x, target = data(11, 4, 5, 3)
    expected: dict[str, Tensor] = {}
    for own in range(2):
        states: list[Any] = [None, None]
        loss = torch.zeros((), dtype=torch.float64)
        for part, wanted in zip(torch.split(x, segment), torch.split(target, segment), strict=True):
            cut = [s if n <= own or s is None else type(s)(*(v.detach() for v in s))
                   for n, s in enumerate(states)]  # fmt: skip
            y, after = net(part, cut)
            states = list(after)
            loss = loss + squares(y, wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        found = gradients(net)
        expected |= {name: g for name, g in found.items() if name.startswith(f"layers.{own}")}
        expected |= {name: g for name, g in found.items() if name.startswith("readout")}
    by_traces(net, x, target, segment)
    assert_same(gradients(net), expected)


@pytest.mark.parametrize("segment", [1, 4])
@pytest.mark.parametrize("kind", ["snu", "ssnu"])
def test_e_prop_leaves_out_what_went_through_recurrent_weights(kind: Any, segment: int) -> None:
    draw = Generator().manual_seed(3)
    net = network(kind, (5, 7, 3), CONFIG, readout=True, recurrent=True, generator=draw).double()
    x, target = data(11, 4, 5, 3)
    layer: Any = net.layers[0]
    unit = layer.unit
    readout: Any = net.readout
    for begin in range(0, len(x), segment):
        state = None
        for t, drive in enumerate(layer.weights(x[: begin + segment])):
            y = drive.new_zeros(drive.shape) if state is None else state.y
            seen = y.detach() if t <= begin else y  # the past is each unit's own
            drive = drive + F.linear(seen, unit.recurrent)
            y, state = snu_step(
                drive, state, unit.config, decay=unit.decay, threshold=unit.threshold
            )
            if t >= begin:
                squares(readout(y), target[t]).backward(retain_graph=True)  # type: ignore[no-untyped-call]
    expected = gradients(net)
    by_traces(net, x, target, segment, method="eprop")
    assert_same(gradients(net), expected)


class Summed(nn.Module):
    """A layer that two products drive, one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4, bias=False)
        self.unit = sp.SNU(4, CONFIG)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        spikes, _ = self.unit(self.a(x[..., :3]) + self.b(x[..., 3:]))
        y: Tensor = self.out(spikes)
        return y


def hosts() -> dict[str, nn.Module]:
    sequence = st.SNUSequence(beta=0.7, threshold=0.5, learn_threshold=True)
    norse = sn.SNURecurrent(5, 4, sn.SNUParameters(threshold=torch.tensor(0.5)))
    return {
        "units in a Sequential": nn.Sequential(nn.Linear(5, 4), sp.sSNU(4, CONFIG)),
        "snnTorch's": nn.Sequential(nn.Linear(5, 4), sequence, nn.Linear(4, 3)),
        "Norse's": norse,
        "a sum": Summed(),
    }


@pytest.mark.parametrize("name", hosts())
def test_layers_of_all_hosts_learn_online(name: str) -> None:
    torch.manual_seed(4)
    net = hosts()[name].double()

    def whole(x: Tensor) -> Tensor:
        for module in net if isinstance(net, nn.Sequential) else [net]:
            x = module(x)
            x = x[0] if isinstance(x, tuple) else x
        return x

    x, target = data(9, 2, 5, 3 if name in ("snnTorch's", "a sum") else 4)
    through_time(whole, x, target)
    expected = gradients(net)
    by_traces(net, x, target, 2)
    assert_same(gradients(net), expected)


def test_spikes_that_are_walked_learn_online_too() -> None:
    """Where inputs are sparse the product takes another way than torch's."""
    net = UnitNetwork([network("snu", (700, 300), generator=Generator().manual_seed(0)).layers[0]])
    x = (torch.rand(200, 8, 700, generator=Generator().manual_seed(1)) < 0.05).float()
    target = torch.zeros(200, 8, 300)
    through_time(net, x, target)
    expected = gradients(net)
    by_traces(net, x, target, 100)
    for name, value in gradients(net).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


class Between(nn.Module):
    """Units behind a trained layer that no trace follows."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.norm, self.unit = nn.Linear(5, 4), nn.LayerNorm(4), sp.SNU(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.unit(self.norm(self.weights(x)))[0]
        return y


class Foreign(nn.Module):
    """Units behind a layer that keeps a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.unit = nn.LSTM(5, 4), sp.SNU(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.unit(self.lstm(x)[0])[0]
        return y


@pytest.mark.parametrize(
    ("net", "says"),
    [
        (Between(), "comes neither from a Linear nor a sum"),
        (Foreign(), "holds torch's LSTM, whose past no trace keeps"),
        (network("src", (5, 4), generator=Generator()), "holds a layer of SRC"),
        (nn.Linear(5, 4), "ran no layer of SNU or sSNU"),
        (nn.Sequential(nn.Linear(5, 4), st.SNU(init_hidden=True)), "ran no layer of SNU or sSNU"),
    ],
)
def test_what_traces_would_miss_is_refused(net: nn.Module, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        online(net, torch.ones(3, 2, 5))


def test_the_last_segment_carries_nothing_on() -> None:
    draw = Generator().manual_seed(1)
    net = network("ssnu", (5, 7, 3), CONFIG, readout=True, recurrent=True, generator=draw).double()
    x, target = data(11, 4, 5, 3)
    through_time(net, x, target)
    expected = gradients(net)
    y, state = online(net, x[:6])
    squares(y, target[:6]).backward()  # type: ignore[no-untyped-call]
    y, end = online(net, x[6:], state, last=True)
    squares(y, target[6:]).backward()  # type: ignore[no-untyped-call]
    assert_same(gradients(net), expected)
    assert end.numbers == 0
    with pytest.raises(ValueError, match="begin with state=None"):
        online(net, x, end)


def test_a_state_of_another_sequence_is_refused() -> None:
    net = network("snu", (5, 4), generator=Generator())
    _, state = online(net, torch.ones(3, 2, 5))
    with pytest.raises(ValueError, match="begin another sequence with state=None"):
        online(net, torch.ones(3, 1, 5), state)
    with torch.no_grad(), pytest.raises(ValueError, match="gradients are switched off"):
        online(net, torch.ones(3, 2, 5), state)
    with pytest.raises(ValueError, match="method is 'rtrl'; it must be one of ostl, eprop"):
        online(net, torch.ones(3, 2, 5), method="rtrl")  # type: ignore[arg-type]


@pytest.mark.parametrize("recurrent", [False, True])
def test_memory_does_not_grow_with_the_sequence(
    recurrent: bool, peak_bytes: Callable[[Callable[[], None]], int]
) -> None:
    draw = Generator().manual_seed(6)
    net = network("snu", (9, 12, 4), readout=True, recurrent=recurrent, generator=draw)

    def learn(steps: int) -> None:
        state = None
        for _ in range(steps // 10):
            x = (torch.rand(10, 3, 9) < 0.3).float()
            y, state = online(net, x, state)
            y.square().sum().backward()
        net.zero_grad()

    assert peak_bytes(lambda: learn(160)) <= 1.2 * peak_bytes(lambda: learn(40))
