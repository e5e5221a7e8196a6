"""What happens to a network after it was accelerated is followed, or named."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import snntorch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import snu_plugin as sp
import snu_snntorch as st

STEPS = 6

l1_unstructured: Any = prune.l1_unstructured


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(6, 12), snntorch.Leaky(0.9, threshold=0.3)
        self.drop: Any = nn.Dropout(0.0)
        self.fc2, self.lif2 = nn.Linear(12, 4), snntorch.Leaky(0.8, threshold=0.3)
        self.steps, self.gains, self.act = STEPS, [1.0, 2.0], torch.relu

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        out = []
        for t in range(self.steps):
            spk, mem1 = self.lif1(self.act(self.fc1(self.gains[-1] * x[t])), mem1)
            spk, mem2 = self.lif2(self.fc2(self.drop(spk)), mem2)
            out.append(mem2)
        return torch.stack(out)


@pytest.fixture
def accelerated() -> tuple[Net, Any, Tensor]:
    torch.manual_seed(0)
    net, x = Net(), torch.rand(STEPS, 5, 6)
    fast = sp.accelerate(net, x)
    fast(x)
    return net, fast, x


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


CHANGES: dict[str, Any] = {
    "another layer": lambda net: setattr(net, "fc1", nn.Linear(6, 12)),
    "another neuron": lambda net: setattr(net, "lif1", snntorch.Leaky(0.5, threshold=0.2)),
    "no dropout": lambda net: setattr(net, "drop", nn.Identity()),
    "fewer steps": lambda net: setattr(net, "steps", 4),
    "another gain": lambda net: net.gains.append(0.5),
    "another function": lambda net: setattr(net, "act", torch.tanh),
    "a parametrisation": lambda net: parametrize.register_parametrization(
        net.fc2, "weight", Doubled()
    ),
    "pruning": lambda net: l1_unstructured(net.fc1, "weight", 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_network_is_made_of_may_change(change: str, accelerated: Any) -> None:
    net, fast, x = accelerated
    before = net(x)
    CHANGES[change](net)
    expected = net(x)
    assert before.shape != expected.shape or not torch.equal(before, expected) or "no" in change
    torch.testing.assert_close(fast(x), expected, rtol=1e-5, atol=1e-5)


def test_a_share_of_dropout_may_change(accelerated: Any) -> None:
    net, fast, x = accelerated
    net.drop.p = 0.5
    assert not torch.equal(fast(x), fast(x))
    net.drop.p = 0.0
    torch.testing.assert_close(fast(x), net(x), rtol=1e-5, atol=1e-5)


def test_what_a_network_held_long_ago_is_not_held_for_ever(
    accelerated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, fast, x = accelerated
    monkeypatch.setattr("snu_plugin.acceleration.network.PROGRAMS", 3)
    held = []
    for gain in range(1, 6):
        net.act = Doubled().requires_grad_(False) if gain % 2 else nn.ReLU()
        held.append(weakref.ref(net.act))
        torch.testing.assert_close(fast(x), net(x), rtol=1e-5, atol=1e-5)
    gc.collect()
    assert held[0]() is None
    assert held[-1]() is not None


def test_a_hook_that_comes_later_is_named(accelerated: Any) -> None:
    net, fast, x = accelerated
    hook = net.fc1.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"fc1 \(Linear\) has a hook"):
        fast(x)
    hook.remove()
    fast(x)
    everywhere = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(ValueError, match="a hook for all modules"):
            sp.accelerate(net, x)
    finally:
        everywhere.remove()


def test_a_copy_runs_its_own_network(accelerated: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), st.SNU(0.8, 0.3, init_hidden=True))
    x = 3 * torch.rand(STEPS, 5, 6)
    fast = sp.accelerate(net, x[0])
    other: Any
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert other.network is not net
        assert other.report == fast.report
        torch.testing.assert_close(other(x), fast(x))
        with torch.no_grad():
            other.network[0].weight.mul_(2)
        assert not torch.equal(other(x), fast(x))
    net, fast, x = accelerated
    with torch.no_grad():  # states that hang on gradients are not copied, here as in snnTorch
        fast(x)
    other = copy.deepcopy(fast)
    with torch.no_grad():
        other.network.fc1.weight.mul_(3)
    torch.testing.assert_close(other(x), other.network(x))
    torch.testing.assert_close(fast(x), net(x))


def test_threads_may_call_it_at_once_with_shapes_that_are_new(
    accelerated: tuple[Net, Any, Tensor],
) -> None:
    net, fast, _ = accelerated
    samples = [torch.rand(STEPS, batch, 6) for batch in (2, 3, 4, 7, 8, 9) * 3]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(fast, samples))
    for x, y in zip(samples, found, strict=True):
        torch.testing.assert_close(y, net(x), rtol=1e-5, atol=1e-5)


def test_inference_mode_may_be_on_at_any_time() -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.rand(STEPS, 5, 6)
    with torch.inference_mode():
        fast = sp.accelerate(net, x.clone())
        torch.testing.assert_close(fast(x), net(x))
    fast(x).sum().backward()
    assert net.fc1.weight.grad is not None
    with torch.inference_mode():
        torch.testing.assert_close(fast(x[:, :3]), net(x[:, :3]))


def test_casts_of_its_own_are_named_and_those_around_the_call_followed() -> None:
    class Cast(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    torch.manual_seed(0)
    net, x = Net(), torch.rand(STEPS, 5, 6)
    with pytest.raises(ValueError, match="by itself; have it around the call"):
        sp.accelerate(Cast(), x)
    fast = sp.accelerate(net, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = net(x), fast(x)
    assert found.dtype == expected.dtype
    assert not torch.equal(expected, net(x))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


class Leaving(Net):
    """Leaves in itself what others read after a call."""

    def forward(self, x: Tensor) -> Any:
        self.size, self.spikes, self._potentials = x.shape[1], [], {}
        mem = self.lif1.reset_mem()
        for t in range(self.steps):
            spk, mem = self.lif1(self.fc1(x[t]), mem)
            self.spikes.append(spk)
        self.rate = torch.stack(self.spikes).mean()
        self._potentials["last"] = mem
        return self.fc2(spk)


def test_what_a_network_leaves_in_itself_is_left_there() -> None:
    torch.manual_seed(0)
    net, fast_net = Leaving(), Leaving()
    fast_net.load_state_dict(net.state_dict())
    fast = sp.accelerate(fast_net, torch.rand(STEPS, 5, 6))
    for batch in (5, 3):
        x = 2 * torch.rand(STEPS, batch, 6)
        for run, owner in ((net, net), (fast, fast_net)):
            owner.zero_grad()
            (run(x).sum() + owner.rate + owner._potentials["last"].sum()).backward()
        assert fast_net.size == batch
        torch.testing.assert_close(fast_net.spikes, net.spikes)
        torch.testing.assert_close(fast_net._potentials, net._potentials)
        assert isinstance(net.fc1.weight.grad, Tensor)
        torch.testing.assert_close(fast_net.fc1.weight.grad, net.fc1.weight.grad)


def counting(net: Any, x: Tensor) -> Any:
    net.calls = net.calls + 1
    return x


def going_on(net: Any, x: Tensor) -> Any:
    before = getattr(net, "_before", None)
    net._before = x
    return x if before is None else 0.5 * (x + before)


@pytest.mark.parametrize(
    ("change", "why"),
    [(counting, "forward changes 'calls' from call to call, 1 to 2"),
     (going_on, "forward goes on from '_before', which it left at the call before")],
)  # fmt: skip
def test_what_would_change_the_next_call_is_named(change: Any, why: str) -> None:
    class Changing(Net):
        calls = 0

        def forward(self, x: Tensor) -> Any:
            return super().forward(change(self, 2 * x))

    with pytest.raises(ValueError, match=why):
        sp.accelerate(Changing(), torch.rand(STEPS, 5, 6))
