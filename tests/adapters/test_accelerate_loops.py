"""Steps that are not all alike: silence, skipped and turned steps, truncated gradients, checks."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import norse.torch as norse
import pytest
import snntorch
import torch
from snntorch import surrogate
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

import snu_plugin as sp

STEPS = 8


class Net(nn.Module):
    """Two layers, called as ``body`` says."""

    def __init__(self, body: Callable[..., Any], **settings: Any) -> None:
        super().__init__()
        settings = {"spike_grad": surrogate.fast_sigmoid(), "threshold": 0.3} | settings
        self.fc1, self.lif1 = nn.Linear(6, 12), snntorch.Leaky(0.9, **settings)
        self.fc2, self.lif2 = nn.Linear(12, 4), snntorch.Leaky(0.8, **settings)
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)

    def reset(self) -> tuple[Tensor, Tensor]:
        return self.lif1.reset_mem(), self.lif2.reset_mem()


def silence_after(net: Any, x: Tensor) -> Tensor:
    mem1, mem2 = net.reset()
    out = []
    for t in range(STEPS + 3):
        now = net.fc1(x[t]) if t < STEPS else torch.zeros(x.shape[1], 12)
        spk, mem1 = net.lif1(now, mem1)
        spk, mem2 = net.lif2(net.fc2(spk), mem2)
        out.append(spk)
    return torch.stack(out)


def silence_ahead(net: Any, x: Tensor) -> Tensor:
    mem1, mem2 = net.reset()
    out = []
    for t in range(STEPS):
        spk, mem1 = net.lif1(net.fc1(x[0] if 2 <= t < 5 else torch.zeros_like(x[0])), mem1)
        spk, mem2 = net.lif2(net.fc2(spk), mem2)
        out.append(mem2)
    return torch.stack(out)


def turned(net: Any, x: Tensor) -> Tensor:
    mem1, mem2 = net.reset()
    there, back = [], []
    for t in range(STEPS):
        spk, mem1 = net.lif1(net.fc1(x[t]), mem1)
        there.append(net.fc2(spk))
        spk, mem2 = net.lif2(net.fc1(x[-1 - t])[:, :4], mem2)
        back.append(spk)
    return torch.cat([torch.stack(there), torch.stack(back).flip(0)], -1)


def within_steps(net: Any, x: Tensor) -> Tensor:
    mem1, mem2 = net.reset()
    out = []
    for x_t in x:
        now = net.fc1(x_t)
        for _ in range(3):
            spk, mem1 = net.lif1(now, mem1)
        spk, mem2 = net.lif2(net.fc2(spk), mem2)
        out.append(spk)
    return torch.stack(out)


def every_second(net: Any, x: Tensor) -> Tensor:
    mem1, mem2 = net.reset()
    out = []
    for t, x_t in enumerate(x):
        spk, mem1 = net.lif1(net.fc1(x_t), mem1)
        if t % 2:
            late, mem2 = net.lif2(net.fc2(spk), mem2)
            out.append(late)
    return torch.stack(out)


def windows(net: Any, x: Any) -> Tensor:
    mem1, mem2 = net.reset()
    out = []
    flat = x.permute(1, 0, 2).flatten(1)
    parts = zip(torch.chunk(flat, STEPS, 1), flat.split(6, dim=1), strict=True)
    for t, (chunk, part) in enumerate(parts):
        now = chunk + part + flat[:, 6 * t : 6 * t + 6] + x[t : t + 1].squeeze(0)
        spk, mem1 = net.lif1(net.fc1(now / 4), mem1)
        spk, mem2 = net.lif2(net.fc2(spk), mem2)
        out.append(spk)
    return torch.stack(out)


def by_hand(net: Any, x: Tensor) -> Tensor:
    _, mem2 = net.reset()
    v: Any = torch.zeros(x.shape[1], 12)
    out = []
    for t, x_t in enumerate(x):
        v = 0.9 * v + net.fc1(x_t) * (t + 1)
        spk, mem2 = net.lif2(net.fc2(torch.relu(v - 1)), mem2)
        out.append(spk)
    return torch.stack(out)


def truncated(net: Any, x: Tensor) -> Tensor:
    mem1, mem2 = net.reset()
    out = []
    for t, x_t in enumerate(x):
        if t and t % 3 == 0:
            mem1, mem2 = mem1.detach(), mem2.detach()
        spk, mem1 = net.lif1(net.fc1(x_t), mem1)
        spk, mem2 = net.lif2(net.fc2(spk), mem2)
        out.append(mem2)
    return torch.stack(out)


def checked(net: Any, x: Tensor) -> Tensor:
    assert (x != 99).all()
    if not x.isfinite().all():
        which = "NaN" if x.isnan().any() else "infinite"
        raise FloatingPointError(f"no number: {which}")
    out = every_second(net, x)
    if out.min() < 0 or out.max() > 1:
        raise ValueError("no spikes")
    return out


def is_finite(x: Tensor) -> bool:
    return bool(x.isfinite().all())


def checked_elsewhere(net: Any, x: Tensor) -> Tensor:
    if not is_finite(x):
        raise FloatingPointError("no number")
    return every_second(net, x)


def caught(net: Any, x: Tensor) -> Tensor:
    try:
        assert x.max() < 0.5
    except AssertionError:
        return every_second(net, x)
    return every_second(net, -x)


def likely(net: Any, x: Tensor) -> Any:
    mem1, mem2 = net.reset()
    for x_t in x:
        spk, mem1 = net.lif1(net.fc1(x_t), mem1)
        _, mem2 = net.lif2(net.fc2(spk), mem2)
    chosen: Any = Categorical(logits=mem2, validate_args=True)  # torch's compiler turns it off
    around: Any = Normal(mem2, torch.ones_like(mem2))
    return chosen.entropy(), chosen.probs, around.log_prob(torch.zeros(4)).sum(-1)


def warmed_up(net: Any, x: Tensor) -> Tensor:
    """Some steps without gradients ahead of the others, and two between them."""
    mem1, mem2 = net.reset()
    out = []
    for t in range(-3, STEPS):
        with torch.set_grad_enabled(t >= 0 and t not in (4, 5)):
            spk, mem1 = net.lif1(net.fc1(x[max(t, 0)]), mem1)
            spk, mem2 = net.lif2(net.fc2(spk), mem2)
        out.append(mem2)
    return torch.stack(out)


@dataclasses.dataclass(frozen=True)
class Out:
    spikes: Tensor
    of: str


def in_records(net: Any, x: Tensor) -> Any:
    return OrderedDict(late=Out(every_second(net, x), "two"))


def values(out: Any) -> list[Tensor]:
    if isinstance(out, OrderedDict):
        assert out["late"].of == "two"
        return [out["late"].spikes]
    return [out] if isinstance(out, Tensor) else list(out)


def outcome(run: Any, net: nn.Module, x: Tensor) -> list[Tensor]:
    net.zero_grad()
    x = x.clone().requires_grad_()
    outs = values(run(x))
    weights = torch.linspace(0.5, 1.5, sum(out.numel() for out in outs))
    torch.autograd.backward((torch.cat([out.flatten() for out in outs]) * weights).sum())
    learned = [p.grad.flatten() for p in (*net.parameters(), x) if p.grad is not None]
    return [*(out.detach() for out in outs), torch.cat(learned)]


BODIES = (
    silence_after, silence_ahead, turned, within_steps, every_second, windows, by_hand, truncated,
    checked, likely, in_records, warmed_up,
)  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_steps_need_not_be_alike(body: Any) -> None:
    torch.manual_seed(0)
    net = Net(body)
    fast = sp.accelerate(net, 3 * torch.rand(STEPS, 5, 6))
    assert set(fast.report.values()) == {"fused"}
    for batch in (5, 2):
        x = 3 * torch.rand(STEPS, batch, 6)
        *expected, gradients = outcome(net, net, x)
        *found, fast_gradients = outcome(fast, net, x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert expected[0].any()
        assert (fast_gradients - gradients).norm() <= 2e-6 * gradients.norm()


def test_states_that_neurons_hold_lose_their_gradients_where_the_network_says_so() -> None:
    def body(net: Any, x: Tensor) -> Tensor:
        net.lif1.reset_mem()
        net.lif2.reset_mem()
        out = []
        for t, x_t in enumerate(x):
            if t == 5:  # each of snnTorch's calls reaches all neurons of the class
                net.lif1.detach_hidden()
                net.lif2.detach_hidden()
            out.append(net.lif2(net.fc2(net.lif1(net.fc1(x_t)))))
        return torch.stack(out)

    torch.manual_seed(0)
    net, x = Net(body, init_hidden=True), 3 * torch.rand(STEPS, 5, 6)
    fast = sp.accelerate(net, x)
    *expected, gradients = outcome(net, net, x)
    *found, fast_gradients = outcome(fast, net, x)
    torch.testing.assert_close(found, expected)
    assert (fast_gradients - gradients).norm() <= 2e-6 * gradients.norm()


def test_a_recurrent_cell_of_norse_may_be_truncated_too() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = norse.LIFRecurrentCell(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            state: Any = None
            out = []
            for t, x_t in enumerate(x):
                z, state = self.cell(x_t, state)
                out.append(z + state.v)
                if t == 3:
                    state = type(state)(*(part.detach() for part in state))
            return torch.stack(out)

    torch.manual_seed(0)
    net, x = Cell(), 20 * torch.rand(STEPS, 5, 6)
    fast = sp.accelerate(net, x)
    *expected, gradients = outcome(net, net, x)
    *found, fast_gradients = outcome(fast, net, x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (fast_gradients - gradients).norm() <= 2e-6 * gradients.norm()


def test_a_check_that_fails_raises_the_error_of_the_network() -> None:
    torch.manual_seed(0)
    x = torch.rand(STEPS, 5, 6)
    fast = sp.accelerate(Net(checked), x)
    elsewhere = sp.accelerate(Net(checked_elsewhere), x)
    for one in (fast, elsewhere):
        with pytest.raises(FloatingPointError, match="no number"):
            one(x.masked_fill(x > 0.9, torch.nan))
        one(x)
    net = Net(likely)
    fast = sp.accelerate(net, x)
    fast(x)
    with torch.no_grad():
        net.fc2.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        fast(x)


def test_numbers_that_are_drawn_in_place_keep_their_distribution() -> None:
    def body(net: Any, x: Tensor) -> Any:
        mem1, _ = net.reset()
        for x_t in x:
            spk, mem1 = net.lif1(net.fc1(x_t), mem1)
        return Normal(net.fc2(spk), torch.ones(4)).rsample(), net.fc2(spk)

    torch.manual_seed(0)
    net, x = Net(body), 3 * torch.rand(STEPS, 500, 6)
    fast = sp.accelerate(net, x)
    with torch.no_grad():
        drawn, mean = fast(x)
        again, _ = fast(x)
    assert not torch.equal(drawn, again)
    assert abs(float((drawn - mean).mean())) < 0.1
    assert abs(float((drawn - mean).std()) - 1) < 0.1


def test_a_loop_is_known_by_a_sample_of_one_step() -> None:
    torch.manual_seed(0)
    net, x = Net(layer), 3 * torch.rand(STEPS, 5, 6)
    fast = sp.accelerate(net, x[:1])
    assert not fast.stepped
    assert torch.equal(fast(x), net(x))


def layer(net: Any, x: Tensor) -> Tensor:
    mem, _ = net.reset()
    out = []
    for x_t in x:
        spk, mem = net.lif1(net.fc1(x_t), mem)
        out.append(spk)
    return torch.stack(out)


def test_a_neuron_derived_from_the_hosts_is_stepped_by_its_own_call() -> None:
    class Louder(snntorch.Leaky):  # type: ignore[misc]
        def forward(self, x: Tensor, mem: Any = None) -> Any:
            return super().forward(2 * x, mem)

    torch.manual_seed(0)
    net, x = Net(every_second), torch.rand(STEPS, 5, 6)
    net.lif1 = Louder(0.9, threshold=0.3)
    fast = sp.accelerate(net, x)
    assert fast.report["lif1"] == "no compiled loop for Louder"
    torch.testing.assert_close(outcome(fast, net, x), outcome(net, net, x))


def test_what_is_done_to_the_same_step_again_counts_and_is_drawn_again() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.lif = nn.BatchNorm1d(6), snntorch.Leaky(0.9, threshold=0.3)
            self.drop, self.shared = nn.Dropout(0.0), False

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mem, kept = self.lif.reset_mem(), []
            for x_t in x:
                for _ in range(3):
                    spk, mem = self.lif(self.norm(x_t), mem)
                    kept.append(self.drop(x_t))
                    if self.shared:
                        self.norm(x_t + 1)
            return spk, torch.stack(kept)

    torch.manual_seed(0)
    net, x = Again(), torch.randn(STEPS, 6, 6)
    fast, twin = sp.accelerate(net, x), Again()
    twin.load_state_dict(net.state_dict())
    torch.testing.assert_close(fast(x), twin(x))
    assert net.norm.num_batches_tracked == 3 * STEPS
    torch.testing.assert_close(net.norm.running_mean, twin.norm.running_mean)
    torch.testing.assert_close(net.norm.running_var, twin.norm.running_var)
    net.drop.p = 0.5
    _, kept = fast(x)
    assert not torch.equal(kept[0], kept[1])
    net.shared = True
    with pytest.raises(ValueError, match=r"'norm' .* normalises several inputs by turns"):
        sp.accelerate(net, x)


def feeding_back(net: Any, x: Tensor) -> Tensor:
    mem1, mem2 = net.reset()
    spk = torch.zeros(x.shape[1], 4)
    for x_t in x:
        now, mem1 = net.lif1(net.fc1(x_t) + spk.sum(-1, keepdim=True), mem1)
        spk, mem2 = net.lif2(net.fc2(now), mem2)
    return spk


def leaving_early(net: Any, x: Tensor) -> Any:
    mem1, mem2 = net.reset()
    for x_t in x:
        spk, mem1 = net.lif1(net.fc1(x_t), mem1)
        spk, mem2 = net.lif2(net.fc2(spk), mem2)
        if spk.sum() > 1000:
            break
    return spk


def as_distribution(net: Any, x: Tensor) -> Any:
    return Categorical(logits=every_second(net, x)[-1])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            feeding_back,
            r"'lif1' \(Leaky\) is given .* at its call 2, which is made of what it gave",
        ),
        (caught, r"looks at the values of a tensor \(bool\(\)"),
        (leaving_early, r"values of a tensor \(bool\(\) in test_accelerate_loops.py, line \d+\)"),
        (as_distribution, "forward returns a Categorical, in which accelerate sees no tensors"),
    ],
)
def test_what_stays_out_of_reach_is_named(body: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        sp.accelerate(Net(body), torch.rand(STEPS, 5, 6))
