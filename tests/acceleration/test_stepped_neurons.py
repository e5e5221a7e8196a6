"""Norse's neurons without a compiled loop step by their own call, and go on from states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snu_plugin as sp

norse: Any = pytest.importorskip("norse.torch")
snn: Any = pytest.importorskip("snntorch")
pytest.importorskip("snu_norse")
pytest.importorskip("snu_snntorch")

STEPS = 12
NEURONS: dict[str, Callable[[], nn.Module]] = {
    "a state within a state": norse.LIFRefracCell,
    "an exponential": norse.LIFAdExCell,
    "over time": norse.LSNN,
}


def parts_of(state: Any) -> list[Tensor]:
    """The tensors of a state, states within it too."""
    if isinstance(state, Tensor):
        return [state]
    inside = state if isinstance(state, list | tuple) else ()
    return [part for value in inside for part in parts_of(value)]


def by_steps(net: nn.Module, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    outs = []
    for x_t in x:
        y, state = net(x_t, state)
        outs.append(y)
    return torch.stack(outs), state


def outcome(run: Any, net: nn.Module, parts: list[Tensor]) -> list[Tensor]:
    """Outputs, states and gradients of a sequence that goes on where the one before it ended."""
    net.zero_grad()
    first, state = run(parts[0])
    second, last = run(parts[1], state)
    (first.sin().sum() + (second * torch.arange(second.numel()).view_as(second)).sum()).backward()
    return [
        first,
        second,
        *parts_of(last),
        *(p.grad for p in net.parameters() if p.grad is not None),
    ]


@pytest.mark.parametrize("name", NEURONS)
def test_they_give_what_the_network_gives_and_go_on_from_a_state(name: str) -> None:
    torch.manual_seed(0)
    over_time = name == "over time"
    net = norse.SequentialState(
        nn.Linear(6, 9),
        NEURONS[name](),
        nn.Linear(9, 4),
        norse.LI() if over_time else norse.LICell(),
    ).double()
    parts = [20 * torch.rand(STEPS, 3, 6).double() for _ in range(2)]
    fast = sp.accelerate(net, parts[0] if over_time else parts[0][0])
    assert fast.report["1"].startswith("no compiled loop for LIF" if name != "over time" else "no ")
    expected = outcome(net if over_time else lambda *given: by_steps(net, *given), net, parts)
    assert expected[0].abs().sum() > 1
    for found, wanted in zip(outcome(fast, net, parts), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_a_state_may_be_given_by_its_name() -> None:
    torch.manual_seed(0)
    net = norse.SequentialState(nn.Linear(6, 9), norse.LIFCell(), nn.Linear(9, 4), norse.LICell())
    x = 20 * torch.rand(STEPS, 3, 6)
    fast = sp.accelerate(net, x[0])
    with torch.no_grad():
        _, state = fast(x)
        found, expected = fast(x, state=state)[0], by_steps(net, x, state)[0]
        torch.testing.assert_close(found, expected)
        assert not torch.equal(found, fast(x)[0])


def test_a_second_input_that_is_no_state_has_steps() -> None:
    """Of a network that takes two signals, the second called something with s."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.more = nn.Linear(6, 4), nn.Linear(2, 4)
            self.neuron = snn.Leaky(beta=0.5, init_hidden=True)

        def forward(self, x: Tensor, signal: Tensor) -> Tensor:
            y: Tensor = self.neuron(3 * self.fc(x) + self.more(signal))
            return y

    torch.manual_seed(0)
    net = Two()
    with torch.no_grad():
        for weights in net.parameters():  # sums are exact in any order
            weights.copy_((8 * weights).round() / 8)
    x, signal = torch.rand(STEPS, 3, 6).round(), torch.rand(STEPS, 3, 2).round()
    expected = torch.stack([net(*both) for both in zip(x, signal, strict=True)])
    found = sp.accelerate(net, (x[0], signal[0]))(x, signal)
    assert expected.any()
    assert torch.equal(found, expected)
