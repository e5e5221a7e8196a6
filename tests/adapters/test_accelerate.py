"""Networks of the hosts on the fused path: the same outputs, states and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import norse.torch as norse
import pytest
import snntorch
import torch
import torch.nn.functional as F
from norse.torch.functional.lif import LIFState
from snntorch import functional, spikegen, surrogate, utils
from torch import Tensor, nn

import snu_plugin as sp
from tutorial_networks import NorseMemory

STEPS = 7


class Loop(nn.Module):
    """Two layers as tutorial 5 writes them: the loop inside, the states handed on."""

    def __init__(self, neuron: Callable[[int], nn.Module], static: bool = False) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 16), nn.Linear(16, 5)
        self.lif1: Any = neuron(16)
        self.lif2: Any = neuron(5)
        self.static = static

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        states1 = self.lif1.reset_mem()
        states2 = self.lif2.reset_mem()
        states1 = states1 if isinstance(states1, tuple) else (states1,)
        states2 = states2 if isinstance(states2, tuple) else (states2,)
        recorded = []
        for step in range(STEPS):
            spk, *states1 = self.lif1(self.fc1(x if self.static else x[step]), *states1)
            out = spk, *states2 = self.lif2(self.fc2(spk), *states2)
            recorded.append(out)
        return tuple(torch.stack(parts) for parts in zip(*recorded, strict=True))


def same_gradients(
    net: nn.Module, fast: Any, *inputs: Tensor, expected: Any = None, within: float = 2e-6
) -> None:
    """Run both, hold spikes to the last bit and gradients to 1e-6 of their length."""
    found = []
    for run in (net if expected is None else expected, fast):
        net.zero_grad()
        given = [x.clone().requires_grad_() for x in inputs]
        out = run(*given)
        outs = [part for part in (out if isinstance(out, tuple) else (out,)) if part.requires_grad]
        generator = torch.Generator().manual_seed(2)
        loss: Any = sum((o * torch.rand(o.shape, generator=generator)).sum() for o in outs)
        loss.backward()
        learned = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
        grads = [torch.cat(learned), *(x.grad for x in given)]
        found.append((outs, grads))
    (outs, grads), (fast_outs, fast_grads) = found
    for a, b in zip(outs, fast_outs, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
        if set(a.detach().unique().tolist()) <= {0.0, 1.0}:
            assert torch.equal(a, b)
            assert a.any()
    for a, b in zip(grads, fast_grads, strict=True):
        assert a is not None
        assert b is not None
        assert (a - b).norm() <= within * a.norm()


RESETS = [
    {"reset_mechanism": how, "reset_delay": late}
    for how in ("subtract", "zero", "none")
    for late in (True, False)
]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("settings", RESETS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.covering(1)
def test_leaky_runs_fused_with_every_reset(settings: Any, static: bool) -> None:
    torch.manual_seed(0)
    net = Loop(lambda n: snntorch.Leaky(beta=0.8, threshold=0.3, **settings), static)
    x = torch.rand(*([] if static else [STEPS]), 4, 12)
    fast = sp.accelerate(net, x)
    assert fast.report == {"lif1": "fused", "lif2": "fused"}
    same_gradients(net, fast, x)


@pytest.mark.parametrize("settings", RESETS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize(
    "neuron",
    [
        lambda n, **s: snntorch.Leaky(
            torch.rand(n), torch.rand(n) / 4 + 0.05, learn_beta=True, learn_threshold=True, **s
        ),
        lambda n, **s: snntorch.Synaptic(
            torch.tensor(0.6), torch.rand(n), 0.2,
            learn_alpha=True, learn_beta=True, learn_threshold=True, **s,
        ),
        lambda n, reset_delay, **s: snntorch.Lapicque(
            beta=0.7, threshold=0.05, learn_threshold=True, **s
        ),
    ],
    ids=["leaky", "synaptic", "lapicque"],
)  # fmt: skip
@pytest.mark.covering(1)
def test_constants_of_neurons_are_trained(neuron: Any, settings: Any) -> None:
    torch.manual_seed(1)
    net = Loop(lambda n: neuron(n, **settings))
    x = torch.rand(STEPS, 4, 12)
    fast = sp.accelerate(net, x)
    assert fast.report == {"lif1": "fused", "lif2": "fused"}
    same_gradients(net, fast, x)


def cubic(input_: Tensor, grad_input: Tensor, spikes: Tensor) -> Tensor:
    return grad_input / (1 + input_.abs() ** 3)


@pytest.mark.parametrize(
    "spike_grad",
    [
        surrogate.atan(alpha=1.3), surrogate.fast_sigmoid(slope=7), surrogate.sigmoid(slope=3),
        surrogate.triangular(0.4), surrogate.straight_through_estimator(),
        surrogate.spike_rate_escape(), surrogate.SFS(slope=3, B=0.1),
        surrogate.custom_surrogate(cubic),
    ],
    ids=lambda s: s.__qualname__.split(".")[0],
)  # fmt: skip
def test_the_hosts_surrogate_is_kept(spike_grad: Any) -> None:
    torch.manual_seed(0)
    net = Loop(lambda n: snntorch.Leaky(0.8, 0.3, spike_grad=spike_grad))
    x = torch.rand(STEPS, 4, 12)
    same_gradients(net, sp.accelerate(net, x), x)


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable")
def test_unusual_neurons_run_and_are_said_to_be_stepped() -> None:
    torch.manual_seed(0)
    x = torch.rand(STEPS, 4, 12)
    for neuron, why in (
        (lambda n: snntorch.Leaky(0.8, 0.3, inhibition=True), "inhibition=True"),
        (lambda n: snntorch.SLSTM(n, n, threshold=0.1), "no compiled loop"),
        (lambda n: snntorch.Alpha(0.8, 0.6, 0.02), "no compiled loop for Alpha"),
    ):
        net = Loop(neuron)
        fast = sp.accelerate(net, x)
        assert why in fast.report["lif1"]
        same_gradients(net, fast, x)


class Gated(nn.Module):
    """Gates that are images, of another number of channels than what they are fed, and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm: Any = snntorch.SConv2dLSTM(2, 3, 3, threshold=0.05, max_pool=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        syn, mem = self.lstm.reset_mem()
        spikes = []
        for x_t in x:
            spk, syn, mem = self.lstm(x_t, syn, mem)
            spikes.append(spk)
        return torch.stack(spikes), mem


def test_states_of_another_shape_than_the_input_are_followed() -> None:
    torch.manual_seed(0)
    net, x = Gated(), torch.rand(STEPS, 4, 2, 6, 6)
    same_gradients(net, sp.accelerate(net, x), x)
    net.lstm, x = snntorch.SLSTM(2, 3, threshold=0.05), torch.rand(STEPS, 4, 2)
    same_gradients(net, sp.accelerate(net, x), x)  # the host begins anew at every step


class Recurrent(nn.Module):
    """As regression 2 writes it, with neurons of any size."""

    def __init__(self, neuron: Callable[[int], nn.Module], static: bool = False) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 16), nn.Linear(16, 5)
        self.lif1: Any = neuron(16)
        self.lif2: Any = neuron(5)
        self.static = static

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        one, two, recorded = self.lif1.reset_mem(), self.lif2.reset_mem(), []
        for x_t in [x] * STEPS if self.static else x:
            one = self.lif1(self.fc1(x_t), *one)
            two = self.lif2(self.fc2(one[0]), *two)
            recorded.append(two)
        return tuple(torch.stack(parts) for parts in zip(*recorded, strict=True))


RECURRENT = {
    "linear": lambda n, **s: snntorch.RLeaky(0.8, linear_features=n, threshold=0.3, **s),
    "one to one": lambda n, **s: snntorch.RLeaky(0.8, 0.4, all_to_all=False, threshold=0.3, **s),
    "each its own": lambda n, **s: snntorch.RLeaky(
        0.8, torch.rand(n), all_to_all=False, threshold=0.3, **s
    ),
    "trained": lambda n, **s: snntorch.RLeaky(
        torch.rand(n), linear_features=n, threshold=torch.rand(n) / 2,
        learn_beta=True, learn_threshold=True, **s,
    ),
    "synaptic": lambda n, **s: snntorch.RSynaptic(
        torch.tensor(0.5), torch.rand(n), linear_features=n, threshold=0.3,
        learn_alpha=True, learn_beta=True, **s,
    ),
}  # fmt: skip


@pytest.mark.parametrize("settings", RESETS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.covering(1)
def test_recurrent_neurons_of_snntorch_run_fused(kind: str, settings: Any) -> None:
    if kind == "synaptic" and not settings["reset_delay"]:
        pytest.skip("snnTorch's RSynaptic crashes so")
    torch.manual_seed(0)
    net = Recurrent(lambda n: RECURRENT[kind](n, **settings))
    x = torch.rand(STEPS, 4, 12)
    fast = sp.accelerate(net, x)
    assert fast.report == {"lif1": "fused", "lif2": "fused"}
    same_gradients(net, fast, x)


def test_recurrent_neurons_take_a_static_input() -> None:
    torch.manual_seed(0)
    net, x = Recurrent(RECURRENT["linear"], static=True), torch.rand(4, 12)
    same_gradients(net, sp.accelerate(net, x), x)


def test_the_surrogate_of_recurrent_neurons_may_be_any() -> None:
    torch.manual_seed(0)
    slope = surrogate.custom_surrogate(cubic)
    net = Recurrent(lambda n: RECURRENT["linear"](n, spike_grad=slope))
    x = torch.rand(STEPS, 4, 12)
    same_gradients(net, sp.accelerate(net, x), x)


def test_recurrent_layers_of_convolutions_are_stepped_and_said_to_be() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lif = snntorch.RLeaky(0.8, conv2d_channels=2, kernel_size=3, threshold=0.3)

        def forward(self, x: Tensor) -> Tensor:
            (spk, mem), recorded = self.lif.reset_mem(), []
            for x_t in x:
                spk, mem = self.lif(x_t, spk, mem)
                recorded.append(spk)
            return torch.stack(recorded)

    net, x = Net(), torch.rand(STEPS, 3, 2, 6, 6)
    fast = sp.accelerate(net, x)
    assert fast.report == {"lif": "its recurrent layer is Conv2d"}
    same_gradients(net, fast, x)


def sequential(**settings: Any) -> nn.Sequential:
    """Return a network as tutorials 6 and 7 write it."""
    slope = {"spike_grad": surrogate.fast_sigmoid(slope=5), "beta": 0.5, "init_hidden": True}
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), snntorch.Leaky(threshold=0.2, **slope), nn.MaxPool2d(2),
        nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), snntorch.Leaky(threshold=0.2, **slope),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6 * 2 * 2, 5),
        snntorch.Leaky(threshold=0.2, **slope, output=True),
    )  # fmt: skip


def stepped(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    neuron: Any
    for neuron in net.modules():  # utils.reset reaches no copy
        if isinstance(neuron, snntorch.SpikingNeuron):
            neuron.reset_mem()
    spikes, potentials = zip(*(net(x_t) for x_t in x), strict=True)
    return torch.stack(spikes), torch.stack(potentials)


@pytest.mark.parametrize("training", [True, False])
def test_a_network_that_makes_one_step_a_call_takes_the_sequence(training: bool) -> None:
    torch.manual_seed(0)
    net = sequential().train(training)
    x = torch.rand(STEPS, 3, 2, 14, 14)
    fast = sp.accelerate(net, x[0])
    assert net.training is training
    norm: Any = net[3]
    assert not norm.running_mean.any(), "looking at a network moved its statistics"
    same_gradients(net, fast, x, expected=lambda x: stepped(net, x))


def test_batch_normalisation_normalises_each_step_and_counts_them() -> None:
    torch.manual_seed(0)
    net = sequential()
    twin, x = copy.deepcopy(net), torch.rand(STEPS, 3, 2, 14, 14)
    fast = sp.accelerate(net, x[0])
    out, expected = fast(x), stepped(twin, x)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert net[3].num_batches_tracked == STEPS
    torch.testing.assert_close(net[3].running_var, twin[3].running_var)
    net.eval(), twin.eval()
    torch.testing.assert_close(fast(x), stepped(twin, x), rtol=1e-5, atol=1e-5)
    assert net[3].num_batches_tracked == STEPS


def test_parameters_are_shared_and_training_goes_on_as_with_the_network() -> None:
    losses = []
    for accelerated in (False, True):
        torch.manual_seed(0)
        net = Loop(lambda n: snntorch.Leaky(0.8, 0.3))
        x, targets = torch.rand(STEPS, 8, 12), torch.arange(8) % 5
        run = sp.accelerate(net, x) if accelerated else net
        optimizer, loss = torch.optim.Adam(net.parameters(), 1e-2), functional.ce_rate_loss()
        found = []
        for _ in range(10):
            value = loss(run(x)[0], targets)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            found.append(value.item())
        losses.append(found)
    assert losses[0][-1] < losses[0][0]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)


def test_other_batches_modes_and_loaded_values_are_followed() -> None:
    torch.manual_seed(0)
    net = Loop(lambda n: snntorch.Leaky(0.8, 0.3))
    fast = sp.accelerate(net, torch.rand(STEPS, 4, 12))
    for batch in (4, 3, 9):
        x = torch.rand(STEPS, batch, 12)
        torch.testing.assert_close(fast(x), net(x))
    net.load_state_dict(Loop(lambda n: snntorch.Leaky(0.8, 0.3)).state_dict())
    torch.testing.assert_close(fast(x), net(x))
    net.double()
    net.lif2.threshold = torch.tensor(0.1)
    net.float()
    torch.testing.assert_close(fast(x), net(x))


class Written(nn.Module):
    """Things that people write in a loop."""

    def __init__(self, body: Callable[..., Any]) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(12, 12), snntorch.Leaky(0.8, 0.3)
        self.out, self.body = nn.Linear(12, 4), body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def skip(net: Any, x: Tensor) -> Any:
    mem, recorded = net.lif.reset_mem(), []
    for step in range(x.size(0)):
        spk, mem = net.lif(net.fc(x[step]) + x[step], mem)
        both = torch.cat((spk, x[step]), dim=1) if spk.sum is None else spk + x[step]
        recorded.append(net.out(F.relu(both)).unsqueeze(0))
    return torch.cat(recorded, 0)


def summed(net: Any, x: Tensor) -> Any:
    mem, total = net.lif.reset_mem(), torch.zeros(x.shape[1], 4)
    for x_t in x:
        spk, mem = net.lif(net.fc(x_t), mem)
        total += net.out(spk)
    return total / len(x)


def batch_first(net: Any, x: Tensor) -> Any:
    mem, recorded = net.lif.reset_mem(), []
    for step in range(x.shape[0]):
        spk, mem = net.lif(net.fc(x.permute(1, 0, 2)[:, step]), mem)
        recorded.append(net.out(spk.view(spk.size(0), -1)))
    return torch.stack(recorded, dim=1).mean(1)


def filled(net: Any, x: Tensor) -> Any:
    mem, recorded = net.lif.reset_mem(), torch.zeros(x.shape[0], x.shape[1], 4)
    for step in range(x.shape[0]):
        spk, mem = net.lif(net.fc(x[step]), mem)
        recorded[step] = net.out(spk)
    return recorded


def last(net: Any, x: Tensor) -> Any:
    mem = net.lif.reset_mem()
    for x_t in x:
        spk, mem = net.lif(net.fc(x_t), mem)
    return net.out(spk) + mem[:, :4]


def differences(net: Any, x: Tensor) -> Any:
    mem, recorded = net.lif.reset_mem(), []
    for step in range(x.shape[0]):
        spk, mem = net.lif(net.fc(x[step] * 2 - 0.1), mem)
        recorded.append(spk)
    spikes = torch.stack(recorded)
    return (spikes[1:] - spikes[:-1]).abs().sum(0) @ net.out.weight.T


class Straight(torch.autograd.Function):
    """An own spike whose gradient goes through unchanged, as binary layers have it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Steeper(Straight):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * gradient


straight, steeper = Straight.apply, Steeper.apply


def own_function(net: Any, x: Tensor) -> Any:
    """By its class, by a name for what it applies, and one that inherits what it does forward."""
    mem, recorded = net.lif.reset_mem(), []
    for x_t in x:
        with torch.no_grad():
            level = straight(net.fc.bias)
        _, mem = net.lif(Straight.apply(net.fc(x_t)) + level, mem)
        recorded.append(net.out(straight(mem - 0.5) + steeper(mem - 0.6)))
    return torch.stack(recorded)


def encoded(net: Any, x: Tensor) -> Any:
    """Norse's encoder inside of the network, one image for all steps."""
    spikes = norse.ConstantCurrentLIFEncoder(seq_length=STEPS)(4 * x[0])
    mem, recorded = net.lif.reset_mem(), []
    for step in range(STEPS):
        spk, mem = net.lif(net.fc(spikes[step]), mem)
        recorded.append(spk)
    return torch.stack(recorded)


def changing(net: Any, x: Tensor) -> Any:
    mem = net.lif.reset_mem()
    for step, x_t in enumerate(x):
        spk, mem = net.lif(net.fc(x_t) * step, mem)
    return spk


BODIES = skip, summed, batch_first, filled, last, differences, own_function, encoded, changing


@pytest.mark.parametrize("body", BODIES)
def test_loops_are_written_in_many_ways(body: Any) -> None:
    torch.manual_seed(0)
    net, x = Written(body), torch.rand(STEPS, 4, 12)
    same_gradients(net, sp.accelerate(net, x), x)


class Hidden(nn.Module):
    """A loop around neurons that hold their state, which is reset before it or goes on."""

    def __init__(self, reset: bool) -> None:
        super().__init__()
        leaky = {"beta": 0.8, "threshold": 0.3, "init_hidden": True}
        self.net = nn.Sequential(
            nn.Linear(12, 16), snntorch.Leaky(**leaky),
            nn.Linear(16, 5), snntorch.Leaky(**leaky, output=True),
        )  # fmt: skip
        self.reset = reset

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.reset:
            utils.reset(self.net)
        spikes, potentials = zip(*(self.net(x_t) for x_t in x), strict=True)
        return torch.stack(spikes), torch.stack(potentials)


def test_neurons_that_hold_their_state_begin_as_the_network_has_it() -> None:
    torch.manual_seed(0)
    x = torch.rand(STEPS, 4, 12)
    net = Hidden(reset=True)
    fast = sp.accelerate(net, x)
    net(x)
    same_gradients(net, fast, x)
    net = Hidden(reset=False)
    twin, fast = copy.deepcopy(net), sp.accelerate(net, x)
    with torch.no_grad():
        first = fast(x)[1]
        torch.testing.assert_close(first, twin(x)[1])
        second = fast(x)[1]
        torch.testing.assert_close(second, twin(x)[1])
    assert not torch.equal(first, second)


def feedback(net: Any, x: Tensor) -> Any:
    mem, spk = net.lif.reset_mem(), torch.zeros(x.shape[1], 12)
    for x_t in x:
        spk, mem = net.lif(net.fc(x_t + spk), mem)
    return spk


def looking(net: Any, x: Tensor) -> Any:
    mem = net.lif.reset_mem()
    for x_t in x:
        spk, mem = net.lif(net.fc(x_t), mem)
        if spk.sum() > 1000:
            break
    return spk


def rising(net: Any, x: Tensor) -> Any:
    mem = net.lif.reset_mem()
    for t, x_t in enumerate(x):
        net.lif.threshold = torch.tensor(1 + 0.1 * t)
        spk, mem = net.lif(net.fc(x_t), mem)
    return spk


def halved(net: Any, x: Tensor) -> Any:
    mem = net.lif.reset_mem()
    for x_t in x:
        spk, mem = net.lif(net.fc(x_t), mem / 2)
    return spk


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (feedback, r"'lif' \(Leaky\) is given .* at its call 2.*a way back through layers"),
        (looking, r"looks at the values of a tensor \(bool\(\) in "),
        (rising, r"forward sets 'threshold' of 'lif' \(Leaky\), which the callable would not"),
        (halved, r"not given at its call 2 the state 'mem' that it returned"),
    ],
)
def test_what_cannot_be_seen_through_is_refused_with_the_place(body: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        sp.accelerate(Written(body), torch.rand(STEPS, 4, 12))


def test_hooks_that_would_not_run_are_named() -> None:
    net = Written(last)
    net.fc.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"fc \(Linear\) has a hook"):
        sp.accelerate(net, torch.rand(STEPS, 4, 12))


def noting(net: Any, x: Tensor) -> Any:
    mem = net.lif.reset_mem()
    for x_t in x:
        spk, mem = net.lif(net.fc(x_t), mem)
        net.noted.append(spk)
    return mem


def test_what_forward_leaves_in_the_network_is_named() -> None:
    net = Written(noting)
    net.noted = []  # type: ignore[assignment]
    with pytest.raises(ValueError, match="forward writes 'noted' of the network"):
        sp.accelerate(net, torch.rand(STEPS, 4, 12))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of a state that is kept
def test_the_rest_of_a_training_step_may_be_compiled() -> None:
    torch.manual_seed(0)
    net, x = Loop(lambda n: snntorch.Leaky(0.8, 0.3)), torch.rand(STEPS, 4, 12)
    fast = sp.accelerate(net, x)

    def loss(run: Any, x: Tensor) -> Tensor:
        value: Tensor = (run(2 * x)[1] ** 2).mean()
        return value

    found = []
    for call in (loss, torch.compile(loss, backend="eager")):
        net.zero_grad()
        value = call(fast, x)
        value.backward()  # type: ignore[no-untyped-call]
        found.append((value.detach(), net.fc1.weight.grad))
    torch.testing.assert_close(found[1], found[0])


def test_a_bias_whose_gradient_is_but_rounding_does_not_fail_the_proof() -> None:
    class Net(Written):
        def __init__(self) -> None:
            super().__init__(last)
            self.norm = nn.BatchNorm1d(12)

        def forward(self, x: Tensor) -> Tensor:
            mem, recorded = self.lif.reset_mem(), []
            for x_t in x:
                spk, mem = self.lif(self.norm(self.fc(x_t)), mem)
                recorded.append(self.out(spk))
            return torch.stack(recorded)

    torch.manual_seed(0)
    net, x = Net(), torch.rand(STEPS, 16, 12)
    same_gradients(net, sp.accelerate(net, x), x)


def test_a_network_whose_own_gradient_is_not_finite_is_told_so() -> None:
    # snnTorch's sigmoid: exp(25 * 5) is infinite in float32.
    leaky = {"spike_grad": surrogate.sigmoid(), "init_hidden": True}
    net = nn.Sequential(nn.Linear(4, 3), snntorch.Leaky(0.5, **leaky, output=True))
    with torch.no_grad():
        net[0].bias.fill_(-5.0)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"own gradient of '0.weight' is not finite on the sample"):
        sp.accelerate(net, torch.rand(3, 4))


def test_a_network_without_neurons_is_refused() -> None:
    with pytest.raises(ValueError, match="finds no neuron in Linear"):
        sp.accelerate(nn.Linear(3, 2), torch.rand(2, 3))


def test_parametrised_weights_are_computed_once_and_trained() -> None:
    torch.manual_seed(0)
    net, x = Written(last), torch.rand(STEPS, 4, 12)
    nn.utils.parametrizations.weight_norm(net.fc)
    same_gradients(net, sp.accelerate(net, x), x)


def test_dropout_draws_anew_in_every_step_and_keeps_its_share() -> None:
    class Net(Written):
        def forward(self, x: Tensor) -> Tensor:
            mem, recorded = self.lif.reset_mem(), []
            for _ in range(40):
                dropped = F.dropout(x, 0.25, self.training)
                _spk, mem = self.lif(dropped, mem)
                recorded.append(mem)
            return torch.stack(recorded)

    torch.manual_seed(0)
    net, x = Net(last), torch.full((8, 100), 1e-3)
    fast = sp.accelerate(net, x)
    mem = fast(x)
    drive = mem[1:] - 0.8 * mem[:-1]
    kept = (drive > 5e-4).float()
    assert abs(kept.mean() - 0.75) < 0.01
    assert kept.std(0).min() > 0.1
    net.eval()
    torch.testing.assert_close(fast(x), net(x))


def test_rate_coded_inputs_are_drawn_at_every_call() -> None:
    class Net(Written):
        def forward(self, x: Tensor) -> Tensor:
            mem, recorded = self.lif.reset_mem(), []
            for x_t in spikegen.rate(x, num_steps=200):
                _spk, mem = self.lif(x_t, mem)
                recorded.append(mem)
            return torch.stack(recorded)

    torch.manual_seed(0)
    net = Net(last)
    fast = sp.accelerate(net, torch.rand(6, 12))
    mem = fast(torch.full((6, 12), 0.3))
    assert not torch.equal(fast(torch.full((6, 12), 0.3)), mem)


NORSE = {
    "cells": lambda: norse.SequentialState(
        nn.Conv2d(1, 4, 5), norse.LIFCell(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 5),
        norse.LIFBoxCell(), nn.Flatten(1), nn.Linear(6 * 4 * 4, 10), norse.LICell(),
    ),
    "integrators": lambda: norse.SequentialState(
        nn.Flatten(1), nn.Linear(400, 30), norse.IAFCell(), nn.Linear(30, 10), norse.LIBoxCell(),
    ),
    "surrogates": lambda: norse.SequentialState(
        nn.Flatten(1), nn.Linear(400, 30), norse.LIFCell(norse.LIFParameters(method="tanh")),
        nn.Linear(30, 10), norse.LIFCell(norse.LIFParameters(method="triangle", alpha=0.5)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NORSE)
def test_a_sequence_of_norse_cells_hands_its_states_on(name: str) -> None:
    torch.manual_seed(0)
    # In double precision, which Norse runs: rounding grows through resets that pass gradients.
    net, x = NORSE[name]().double(), 20 * torch.rand(STEPS, 3, 1, 20, 20).double()

    def loop(x: Tensor) -> tuple[Tensor, Tensor]:
        outs: list[Tensor] = []
        state: Any = None
        for x_t in x:
            out, state = net(x_t, state)
            outs.append(out)
        return torch.stack(outs), state[-1].v

    fast = sp.accelerate(net, x[0])
    assert set(fast.report.values()) == {"fused"}

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        out, state = fast(x)
        return out, state[-1].v

    same_gradients(net, run, x, expected=loop, within=1e-12)


def test_norse_layers_over_time_and_lifted_ones_run_fused() -> None:
    torch.manual_seed(0)
    net = norse.SequentialState(
        norse.Lift(nn.Conv2d(1, 4, 5)), norse.LIF(), nn.Flatten(2), nn.Linear(4 * 8 * 8, 10),
        norse.IAF(), nn.Linear(10, 10),
        norse.LIF(record_states=True), norse.LI(),
    )  # fmt: skip
    net[5].weight.data *= 20  # not to be silent
    x = 20 * torch.rand(STEPS, 2, 1, 12, 12)
    fast = sp.accelerate(net, x)
    assert set(fast.report.values()) == {"fused"}

    def some(run: Any) -> Callable[[Tensor], tuple[Tensor, ...]]:
        def call(x: Tensor) -> tuple[Tensor, ...]:
            out, states = run(x)
            return out, states[6].v, states[1].i

        return call

    same_gradients(net, some(fast), x, expected=some(net))


def test_norse_memory_task_with_recurrent_cells() -> None:
    torch.manual_seed(0)
    net, x = NorseMemory(hidden=8), 5 * torch.rand(4, 12, 8)
    fast = sp.accelerate(net, x)
    assert fast.report == {"layer": "fused", "readout": "fused"}
    same_gradients(net, fast, x)
    assert not net.layer.recurrent_weights.grad.diagonal().any(), "an autapse was trained"


def test_norse_recurrent_layers_over_time_run_fused_and_hand_their_state_on() -> None:
    torch.manual_seed(0)
    settings = norse.LIFParameters(v_leak=torch.tensor(0.1), v_reset=torch.tensor(-0.2))
    net = norse.SequentialState(norse.LIFRecurrent(8, 10, settings), norse.LIFRecurrent(10, 4))
    net.double()
    x = 5 * torch.rand(STEPS, 3, 8).double()

    def some(run: Any) -> Callable[[Tensor], tuple[Tensor, ...]]:
        def call(x: Tensor) -> tuple[Tensor, ...]:
            out, states = run(x)
            return out, states[0].v, states[1].i, states[1].z

        return call

    fast = sp.accelerate(net, x)
    assert set(fast.report.values()) == {"fused"}
    same_gradients(net, some(fast), x, expected=some(net), within=1e-12)


def test_a_recurrent_cell_goes_on_from_a_given_state() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = norse.LIFRecurrentCell(8, 6)

        def forward(self, x: Tensor, z: Tensor, v: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
            state, outs = LIFState(z, v, i), []
            for x_t in x:
                out, state = self.cell(x_t, state)
                outs.append(out)
            return torch.stack(outs), state.v

    torch.manual_seed(0)
    net, x = Net(), 5 * torch.rand(STEPS, 4, 8)
    begin = (torch.rand(4, 6) > 0.5).float(), torch.rand(4, 6), torch.rand(4, 6)
    same_gradients(net, sp.accelerate(net, (x, *begin)), x, *begin)


def test_a_sequence_given_for_a_step_is_answered_by_what_a_sample_is() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), snntorch.Leaky(beta=0.9, init_hidden=True))
    with pytest.raises(
        ValueError, match=r"shape \(7, 3, 12\): mat1 and mat2.*one step a call"
    ) as told:
        sp.accelerate(net, torch.rand(7, 3, 12))
    assert "\n" not in str(told.value)


class Images(nn.Module):
    """A layer of images, flattened by ``view`` as tutorial 6 does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lif = nn.Conv2d(2, 4, 3), snntorch.Leaky(beta=0.9, threshold=0.2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mem = self.lif.init_leaky()
        recorded, flat = [], []
        for step in range(len(x)):
            spk, mem = self.lif(self.conv(x[step]), mem)
            recorded.append(spk)
            flat.append(spk.view(len(spk), -1))
        return torch.stack(recorded), torch.stack(flat), mem


def test_images_come_back_in_memory_as_the_network_itself_gives_them_and_finds_them() -> None:
    net, x = Images(), torch.rand(STEPS, 3, 2, 8, 8)
    fast = sp.accelerate(net, x)
    expected = net(x)
    for found, wanted in zip(fast(x), expected, strict=True):
        assert found.stride() == wanted.stride()
        assert torch.equal(found, wanted)
    assert torch.equal(net(x)[1], expected[1])  # begins from what the fast run left
