"""Networks as people publish them, in our own words: accelerated exactly, or refused truly.

After public code that uses snnTorch and Norse for speech, heartbeats, gestures, control and
equalisers; none of it was looked at while ``accelerate`` was written.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import norse.torch as norse
import pytest
import snntorch
import torch
import torch.nn.functional as F
from snntorch import spikegen, surrogate, utils
from torch import Tensor, nn

import snu_plugin as sp

SLOPE = surrogate.fast_sigmoid(slope=25)


def leaky(beta: float = 0.9, threshold: float = 0.2, **settings: Any) -> Any:
    return snntorch.Leaky(beta, threshold, spike_grad=SLOPE, **settings)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif value is not None:
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


class Policy(nn.Module):
    """Control: recurrent units on a batch of histories, several heads on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(6, 16)
        self.lif = snntorch.RLeaky(0.95, linear_features=16, threshold=0.4)
        self.action, self.size = nn.Linear(16, 3), nn.Linear(16, 2)
        self.value: Any = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        batch, seq, _ = x.shape
        spk = torch.zeros((batch, self.action.in_features), device=x.device)
        mem = torch.zeros((batch, self.action.in_features), device=x.device)
        out = []
        for t in range(seq):
            spk, mem = self.lif(torch.relu(self.enc(x[:, t, :])), spk, mem)
            out.append(spk)
        tail = torch.stack(out, dim=1)[:, -1, :]
        found = {"action": self.action(tail), "size": self.size(tail)}
        if self.value is not None:
            found["value"] = self.value(tail).squeeze(-1)
        return found


class Actor(nn.Module):
    """Control: a static observation, normalised layers, a population's potentials decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.ln1, self.lif1 = nn.Linear(6, 24), nn.LayerNorm(24), leaky()
        self.fc2, self.ln2, self.lif2 = nn.Linear(24, 24), nn.LayerNorm(24), leaky()
        self.fc_pop, self.ln_pop, self.lif_out = nn.Linear(24, 10), nn.LayerNorm(10), leaky()
        self.decoder = nn.Linear(5, 1, bias=False)
        self.register_buffer("scale", torch.tensor([2.0, 0.5]))

    def forward(self, obs: Tensor) -> Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        mem3 = self.lif_out.init_leaky()
        for _ in range(8):
            spk1, mem1 = self.lif1(self.ln1(self.fc1(obs)), mem1)
            spk2, mem2 = self.lif2(self.ln2(self.fc2(spk1)), mem2)
            _, mem3 = self.lif_out(self.ln_pop(self.fc_pop(spk2)), mem3)
        decoded = self.decoder(mem3.view(-1, 2, 5)).squeeze(-1)
        scale: Any = self.scale
        action: Tensor = torch.tanh(decoded) * scale
        return action


class Electromyography(nn.Module):
    """Gestures: what is static is normalised and dropped once, units learn all they have."""

    def __init__(self) -> None:
        super().__init__()
        learn = {"learn_beta": True, "learn_threshold": True, "threshold": 0.3}
        self.bn, self.fc1, self.drop1 = nn.BatchNorm1d(6), nn.Linear(6, 16), nn.Dropout(0.0)
        self.rlif1 = snntorch.RLeaky(0.9, linear_features=16, **learn)
        self.fc2, self.drop2 = nn.Linear(16, 8), nn.Dropout(0.0)
        self.rlif2 = snntorch.RLeaky(0.9, linear_features=8, **learn)
        self.fc3, self.out = nn.Linear(8, 5), leaky(learn_beta=True, learn_threshold=True)

    def forward(self, x: Tensor, num_steps: int) -> tuple[Tensor, Tensor, Tensor]:
        s1, m1 = self.rlif1.init_rleaky()
        s2, m2 = self.rlif2.init_rleaky()
        mo = self.out.init_leaky()
        spikes, potentials, first = [], [], []
        cur = self.drop1(self.fc1(self.bn(x)))
        for _ in range(num_steps):
            s1, m1 = self.rlif1(cur, s1, m1)
            first.append(s1)
            s2, m2 = self.rlif2(self.drop2(self.fc2(s1)), s2, m2)
            so, mo = self.out(self.fc3(s2), mo)
            spikes.append(so)
            potentials.append(mo)
        rate = torch.stack(first).mean()
        return torch.stack(spikes).sum(0), torch.stack(potentials).mean(0), rate


class Two(nn.Module):
    """Two layers, to be run in whatever way."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(6, 16), leaky()
        self.fc2, self.lif2 = nn.Linear(16, 2), leaky()


class Direction(Two):
    """Images scroll by; spikes are counted as they come."""

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        counts = torch.zeros(x.shape[0], 2, device=x.device)
        for t in range(x.shape[1]):
            spk1, mem1 = self.lif1(self.fc1(x[:, t, :]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            counts = counts + spk2
        return counts


class Delta(nn.Module):
    """Audio in delta coding: time is the last axis, and a second loop runs once."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(6, 16), leaky(learn_threshold=True)
        self.fc2, self.lif2 = nn.Linear(16, 12), leaky(learn_threshold=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        spikes, potentials = [], []
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        for t in range(x.shape[-1]):
            spike_out, mem_out = [], []
            for step in range(x.shape[1]):
                spike1, mem1 = self.lif1(self.fc1(x[:, step, 0, :, t]), mem1)
                spike2, mem2 = self.lif2(self.fc2(spike1), mem2)
                spike_out.append(spike2)
                mem_out.append(mem2)
            spikes.append(torch.stack(spike_out, dim=1))
            potentials.append(torch.stack(mem_out, dim=1))
        both = torch.stack(spikes, dim=0), torch.stack(potentials, dim=0)
        one, two = (torch.moveaxis(part, 0, -1).unsqueeze(2) for part in both)
        return torch.moveaxis(one, 0, 1), torch.moveaxis(two, 0, 1)


class Rows(nn.Module):
    """An image is read row by row, the last steps are what counts."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(6, 16), leaky(reset_mechanism="subtract")
        self.fc2, self.lif_out = nn.Linear(16, 4), leaky(reset_mechanism="zero")

    def forward(self, images: Tensor) -> Tensor:
        sequence = images.squeeze(1).permute(1, 0, 2).contiguous()
        mem1, mem2 = self.lif1.init_leaky(), self.lif_out.init_leaky()
        recorded = []
        for t in range(sequence.shape[0]):
            spk1, mem1 = self.lif1(self.fc1(sequence[t]), mem1)
            spk2, mem2 = self.lif_out(self.fc2(spk1), mem2)
            recorded.append(spk2)
        spikes = torch.stack(recorded)
        return spikes[-4:].sum(dim=0) / 4


class Named(nn.Module):
    """A convolutional network in two named halves that hold their states."""

    def __init__(self) -> None:
        super().__init__()
        held = {"init_hidden": True}
        self.features = nn.Sequential(OrderedDict([
            ("conv0", nn.Conv2d(2, 4, 3, padding=1)), ("norm0", nn.BatchNorm2d(4)),
            ("pool0", nn.MaxPool2d(2, 2)), ("spiking0", leaky(**held)),
            ("conv1", nn.Conv2d(4, 6, 3)), ("pool1", nn.AvgPool2d(2)), ("spiking1", leaky(**held)),
            ("flatten", nn.Flatten()),
        ]))  # fmt: skip
        self.classifier = nn.Sequential(
            OrderedDict([("linear", nn.Linear(6, 5)), ("out", leaky(**held, output=True))])
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        utils.reset(self.features)
        utils.reset(self.classifier)
        spikes, potentials = [], []
        for _ in range(5):
            spk, mem = self.classifier(self.features(x))
            spikes.append(spk)
            potentials.append(mem)
        return torch.stack(spikes), torch.stack(potentials)


class Deep(nn.Module):
    """Dropout made in forward, two convolutions before a neuron, potentials kept in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv1_1 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.lif1, self.pool1, self.lif1_1 = leaky(), nn.AvgPool2d(2), leaky(threshold=0.1)
        self.fc1, self.lif2 = nn.Linear(64, 10), leaky()

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        mem1, mem1_1 = self.lif1.init_leaky(), self.lif1_1.init_leaky()
        mem2, voltage, spikes = self.lif2.init_leaky(), [], []
        drops = [nn.Dropout(0.0) for _ in range(2)]
        for t in range(5):
            spk1, mem1 = self.lif1(self.conv1_1(self.conv1(x[t])), mem1)
            spk1_1, mem1_1 = self.lif1_1(self.pool1(spk1), mem1_1)
            dropped = drops[0](spk1_1) if self.training else spk1_1
            spk2, mem2 = self.lif2(self.fc1(dropped.view(x.shape[1], -1)), mem2)
            voltage.append(mem2)
            spikes.append(spk2)
        return voltage, torch.mean(torch.stack(spikes), dim=0)


class Residual(nn.Module):
    """Blocks in a list, each with a way around it, and a gate from the sum of both."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(6, 16)
        self.blocks: Any = nn.ModuleList(
            nn.ModuleList([nn.Linear(16, 16), leaky()]) for _ in range(3)
        )
        self.gate, self.out = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        mems = [neuron.reset_mem() for _, neuron in self.blocks]
        logits: Any = 0
        for x_t in x:
            h = self.inputs(x_t)
            for n, (linear, neuron) in enumerate(self.blocks):
                spk, mems[n] = neuron(linear(h), mems[n])
                h = h + spk * torch.sigmoid(self.gate(h))
            logits = logits + self.out(h)
        return F.log_softmax(logits / len(x), dim=-1)


class Equaliser(nn.Module):
    """Signals in a table of learned codes, a recurrent cell with constants for each unit."""

    def __init__(self) -> None:
        super().__init__()
        p = norse.LIFParameters(
            v_th=torch.full((12,), 0.5), v_leak=torch.tensor(0.0),
            v_reset=torch.full((12,), 0.0), tau_mem_inv=torch.full((12,), 100.0),
            tau_syn_inv=torch.full((12,), 200.0),
        )  # fmt: skip
        self.encoding = nn.Embedding(8, 3 * 9)
        self.input_layer = nn.Linear(5 * 3, 12, bias=False)
        self.cell = norse.LIFRecurrentCell(12, 12, p=p, dt=1e-3, autapses=False)
        self.output_layer = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        codes = self.encoding(x)
        seq = codes.view((x.shape[0], 9, 15)).permute(1, 0, 2)
        state, out = None, torch.zeros(seq.shape[0], seq.shape[1], 2, device=seq.device)
        for t in range(seq.shape[0]):
            z, state = self.cell(self.input_layer(20 * seq[t, :, :]), state)
            out[t, :, :] = self.output_layer(z)
        return torch.sum(out, 0)


class Streams(nn.Module):
    """Cameras: one convolution feeds two recurrent streams of different kinds."""

    def __init__(self) -> None:
        super().__init__()
        p = norse.LIFParameters(alpha=torch.tensor(10.0), v_th=torch.tensor(0.4))
        self.conv1, self.lif0 = nn.Conv2d(2, 4, 3), norse.LIFCell()
        self.l1, self.fc1, self.out1 = norse.LIFRecurrentCell(144, 8, p=p), None, norse.LICell()
        self.fc1 = nn.Linear(8, 4, bias=False)
        self.l2, self.out2 = norse.LIFRecurrentCell(144, 6, p=p), norse.LICell()
        self.fc2 = nn.Linear(6, 3, bias=False)

    def stream(self, kind: str, z: Tensor, state: Any, out: Any) -> tuple[Tensor, Any, Any]:
        z, state = getattr(self, "l" + kind)(z, state)
        v, out = getattr(self, "out" + kind)(getattr(self, "fc" + kind)(z), out)
        return v, state, out

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s0 = s1 = s2 = so1 = so2 = None
        boxes, classes = [], []
        for frame in x:
            z, s0 = self.lif0(30 * self.conv1(frame), s0)
            flat = torch.flatten(z, 1)
            box, s1, so1 = self.stream("1", flat, s1, so1)
            kind, s2, so2 = self.stream("2", flat, s2, so2)
            boxes += [box]
            classes += [kind]
        return torch.stack(boxes), torch.amax(torch.stack(classes), 0)


class Voxels(nn.Module):
    """Events: frames along the third axis are flattened, an encoder before a recurrent cell."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(18, 10), nn.Linear(10, 3)
        self.cell = norse.LIFRecurrentCell(input_size=10, hidden_size=10)

    def forward(self, voxel: Tensor) -> Tensor:
        batch, _, steps, _, _ = voxel.shape
        state, outputs = None, []
        for t in range(steps):
            z, state = self.cell(F.relu(self.encoder(voxel[:, :, t].reshape(batch, -1))), state)
            outputs.append(self.decoder(z))
        return torch.stack(outputs)


SEEN: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "policy": (Policy, lambda: (3 * torch.rand(4, 9, 6),)),
    "actor": (Actor, lambda: (torch.randn(4, 6),)),
    "electromyography": (Electromyography, lambda: (3 * torch.rand(8, 6), 9)),
    "direction": (Direction, lambda: (3 * torch.rand(4, 9, 6),)),
    "delta": (Delta, lambda: (3 * torch.rand(4, 1, 1, 6, 9),)),
    "rows": (Rows, lambda: (3 * torch.rand(4, 1, 9, 6),)),
    "named": (Named, lambda: (2 * torch.rand(4, 2, 8, 8),)),
    "deep": (Deep, lambda: (3 * torch.rand(5, 4, 2, 8, 8),)),
    "residual": (Residual, lambda: (3 * torch.rand(9, 4, 6),)),
    "equaliser": (Equaliser, lambda: (torch.randint(8, (4, 5)),)),
    "streams": (Streams, lambda: (torch.rand(7, 3, 2, 8, 8),)),
    "voxels": (Voxels, lambda: (30 * torch.rand(4, 2, 7, 3, 3),)),
}


def learned(run: Callable[..., Any], net: nn.Module, given: tuple[Any, ...]) -> list[Tensor]:
    """Return outputs, and gradients of a loss of all of them by all parameters."""
    net.zero_grad()
    outs = list(tensors(run(*given)))
    weights = torch.linspace(0.5, 1.5, sum(out.numel() for out in outs))
    torch.autograd.backward((torch.cat([out.flatten() for out in outs]) * weights).sum())
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    return [*(out.detach() for out in outs), torch.cat([g.flatten() for g in grads])]


@pytest.mark.parametrize("name", SEEN)
def test_a_published_network_runs_fused_with_its_outputs_and_gradients(name: str) -> None:
    make, sample = SEEN[name]
    torch.manual_seed(0)
    net, given = make(), sample()
    fast = sp.accelerate(net, given)
    assert set(fast.report.values()) == {"fused"}
    *expected, gradients = learned(net, net, given)
    *found, fast_gradients = learned(fast, net, given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert gradients.any()
    assert (fast_gradients - gradients).norm() <= 1e-5 * gradients.norm()


class Masked(Direction):
    """Prunes its weights whenever it is called."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.fc1.weight.mul_((self.fc1.weight.abs() > 0.1).float())
        return super().forward(x)


class Memory(Two):
    """Keeps spikes and states in the network from call to call."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "mem1"):
            self.mem1, self.mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        self.spk1, self.mem1 = self.lif1(self.fc1(x), self.mem1)
        self.spk2, self.mem2 = self.lif2(self.fc2(self.spk1), self.mem2)
        out: Tensor = self.spk2
        return out


class Shared(Two):
    """Takes the neuron of one layer for another, too."""

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif1.init_leaky()
        for t in range(x.shape[1]):
            spk1, mem1 = self.lif1(self.fc1(x[:, t]), mem1)
            spk2, mem2 = self.lif1(self.fc2(spk1), mem2)
        out: Tensor = spk2
        return out


class Detached(Two):
    """Hands its states back without their gradients: truncated after every step."""

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mem1, mem2 = state or (self.lif1.init_leaky(), self.lif2.init_leaky())
        spk1, mem1 = self.lif1(self.fc1(x), mem1)
        spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
        return spk2, (mem1.detach(), mem2.detach())


class Gated(nn.Module):
    """Spiking gates of a convolutional LSTM: a way back through layers."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.norm = nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.lif = snntorch.Synaptic(0.9, 0.8, spike_grad=SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        h, c = torch.zeros(x.shape[1], 3, 8, 8), torch.zeros(x.shape[1], 3, 8, 8)
        syn, mem = self.lif.reset_mem()
        for x_t in x:
            i, g = self.norm(self.gates(torch.cat([x_t, h], dim=1))).chunk(2, dim=1)
            spk, syn, mem = self.lif(i, syn, mem)
            c = c * 0.9 + spk * torch.tanh(g)
            h = torch.tanh(c)
        return h


class Poisson(nn.Module):
    """Draws its input, holds its states and returns the last spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = norse.PoissonEncoder(10, f_max=1000)
        self.l0, self.l1 = norse.LIFRecurrentCell(6, 6), norse.LIFRecurrentCell(6, 1)
        self.s0 = self.s1 = None

    def forward(self, x: Tensor) -> Any:
        spikes = None
        for spikes in self.encoder(x):
            spikes, self.s0 = self.l0(spikes, self.s0)
            spikes, self.s1 = self.l1(spikes, self.s1)
        return spikes


REFUSED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], str]] = {
    "masked": (Masked, lambda: torch.rand(4, 9, 6), r"writes into a tensor that it did not make"),
    "memory": (Memory, lambda: torch.rand(4, 6), "forward goes on from '(spk1|mem1)', which it"),
    "shared": (Shared, lambda: torch.rand(4, 9, 6), r"'lif1' \(Leaky\) is given a step of shape"),
    "gated": (Gated, lambda: torch.rand(6, 2, 2, 8, 8), r"'lif' \(Synaptic\) is given .* way back"),
    "poisson": (Poisson, lambda: torch.rand(4, 6), r"forward goes on from 's0', which it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_published_network_does_besides_is_named(name: str) -> None:
    make, sample, why = REFUSED[name]
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=why):
        sp.accelerate(make(), sample())


def test_a_network_truncated_after_every_step_learns_as_it_does() -> None:
    torch.manual_seed(0)
    net, x = Detached(), 3 * torch.rand(9, 4, 6)
    fast = sp.accelerate(net, x[0])

    def stepped(x: Tensor) -> tuple[Tensor, Any]:
        state, out = None, []
        for x_t in x:
            spk, state = net(x_t, state)
            out.append(spk)
        return torch.stack(out), state

    def outcome(run: Any) -> list[Tensor]:
        net.zero_grad()
        spikes, state = run(x)
        (spikes * torch.linspace(0.5, 1.5, 9)[:, None, None]).sum().backward()
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        return [spikes.detach(), *state, *grads]

    assert fast.stepped
    expected = outcome(stepped)
    assert expected[0].any()
    torch.testing.assert_close(outcome(fast), expected)


def test_drawn_spikes_keep_their_distribution() -> None:
    class Net(Two):
        def forward(self, x: Tensor, num_steps: int) -> Tensor:
            drawn = spikegen.rate(x, num_steps=num_steps)
            mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
            outputs = []
            for t in range(num_steps):
                spk1, mem1 = self.lif1(self.fc1(drawn[t].view(drawn[t].size(0), -1)), mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                outputs.append(spk2)
            return torch.stack(outputs)

    torch.manual_seed(0)
    net, x = Net(), torch.rand(1, 2, 3)
    many = x.expand(400, 2, 3)
    fast = sp.accelerate(net, (many, 20))
    with torch.no_grad():
        own, other = net(many, 20).mean((0, 1)), fast(many, 20).mean((0, 1))
    torch.testing.assert_close(other, own, rtol=0.05, atol=0.02)
