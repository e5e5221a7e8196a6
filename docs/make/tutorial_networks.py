"""Networks of the hosts' tutorials at their own sizes, as they are written there."""

from __future__ import annotations

from typing import Any

import norse.torch as norse
import snntorch
import torch
import torch.nn.functional as F
from norse.torch.module.leaky_integrator import LILinearCell
from snntorch import surrogate
from torch import Tensor, nn


class Dense(nn.Module):
    """Tutorials 3 (a sequence) and 5 (a static image)."""

    def __init__(self, steps: int | None, Leaky: Any = snntorch.Leaky) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 1000), nn.Linear(1000, 10)
        self.lif1, self.lif2 = Leaky(beta=0.95), Leaky(beta=0.95)
        self.steps = steps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk2_rec, mem2_rec = [], []
        for step in range(self.steps or len(x)):
            cur1 = self.fc1(x if self.steps else x[step])
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = self.fc2(spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


class Convolutional(nn.Module):
    """Tutorial 6, as a class."""

    def __init__(self, steps: int, Leaky: Any = snntorch.Leaky) -> None:
        super().__init__()
        slope = surrogate.fast_sigmoid(slope=25)
        self.conv1, self.lif1 = nn.Conv2d(1, 12, 5), Leaky(beta=0.5, spike_grad=slope)
        self.conv2, self.lif2 = nn.Conv2d(12, 64, 5), Leaky(beta=0.5, spike_grad=slope)
        self.fc1, self.lif3 = nn.Linear(64 * 4 * 4, 10), Leaky(beta=0.5, spike_grad=slope)
        self.steps = steps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        mem3 = self.lif3.init_leaky()
        spk3_rec, mem3_rec = [], []
        batch_size = x.size(0)
        for _ in range(self.steps):
            cur1 = F.max_pool2d(self.conv1(x), 2)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = F.max_pool2d(self.conv2(spk1), 2)
            spk2, mem2 = self.lif2(cur2, mem2)
            cur3 = self.fc1(spk2.view(batch_size, -1))
            spk3, mem3 = self.lif3(cur3, mem3)
            spk3_rec.append(spk3)
            mem3_rec.append(mem3)
        return torch.stack(spk3_rec), torch.stack(mem3_rec)


def events(Leaky: Any = snntorch.Leaky) -> nn.Module:
    """Return the network of tutorial 7, which makes one step a call."""
    leaky = {"beta": 0.5, "spike_grad": surrogate.atan(), "init_hidden": True}
    return nn.Sequential(
        nn.Conv2d(2, 12, 5), Leaky(**leaky), nn.MaxPool2d(2),
        nn.Conv2d(12, 32, 5), Leaky(**leaky), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 5 * 5, 10), Leaky(**leaky, output=True),
    )  # fmt: skip


class Regression(nn.Module):
    """Regression 1: the potential of a neuron that never resets is read."""

    def __init__(self, Leaky: Any = snntorch.Leaky, hidden: int = 128) -> None:
        super().__init__()
        slope = surrogate.fast_sigmoid()

        def leaky(kind: Any, n: int, **settings: Any) -> Any:
            return kind(beta=torch.rand(n), learn_beta=True, spike_grad=slope, **settings)

        self.fc_in, self.fc_hidden = nn.Linear(1, hidden), nn.Linear(hidden, hidden)
        self.lif_in = leaky(Leaky, hidden, threshold=torch.rand(hidden))
        self.lif_hidden = leaky(Leaky, hidden, threshold=torch.rand(hidden))
        self.fc_out = nn.Linear(hidden, 1)
        self.out = leaky(snntorch.Leaky, 1, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        mem_1, mem_2 = self.lif_in.init_leaky(), self.lif_hidden.init_leaky()
        mem_3, recorded = self.out.init_leaky(), []
        for step in range(x.shape[0]):
            spk_1, mem_1 = self.lif_in(self.fc_in(x[step]), mem_1)
            spk_2, mem_2 = self.lif_hidden(self.fc_hidden(spk_1), mem_2)
            _, mem_3 = self.out(self.fc_out(spk_2), mem_3)
            recorded.append(mem_3)
        return torch.stack(recorded)


class Recurrent(nn.Module):
    """Regression 2: classification with recurrent neurons."""

    def __init__(self, steps: int, hidden: int = 1000, RLeaky: Any = snntorch.RLeaky) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, hidden), nn.Linear(hidden, 10)
        self.rlif1 = RLeaky(beta=0.9, linear_features=hidden)
        self.rlif2 = RLeaky(beta=0.9, linear_features=10)
        self.steps = steps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        (spk1, mem1), (spk2, mem2) = self.rlif1.init_rleaky(), self.rlif2.init_rleaky()
        spk2_rec, mem2_rec = [], []
        for _ in range(self.steps):
            spk1, mem1 = self.rlif1(self.fc1(x), spk1, mem1)
            spk2, mem2 = self.rlif2(self.fc2(spk1), spk2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec), torch.stack(mem2_rec)


def population(Leaky: Any = snntorch.Leaky) -> nn.Module:
    """Return the network of population coding, which makes one step a call."""
    leaky = {"beta": 0.9, "spike_grad": surrogate.fast_sigmoid(slope=75), "init_hidden": True}
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), Leaky(**leaky),
        nn.Linear(128, 500), Leaky(**leaky, output=True),
    )  # fmt: skip


class Synaptic(nn.Module):
    """Two layers with synapses, batch normalisation and dropout, a skip connection around one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(700, 256), nn.Linear(256, 256), nn.Linear(256, 20)
        self.norm, self.drop = nn.BatchNorm1d(256), nn.Dropout(0.2)
        self.one, self.two = (snntorch.Synaptic(0.9, 0.8, reset_mechanism="zero") for _ in "12")
        self.out = snntorch.Leaky(0.9, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        (syn1, mem1), (syn2, mem2) = self.one.reset_mem(), self.two.reset_mem()
        mem3, recorded = self.out.reset_mem(), []
        for x_t in x:
            spk1, syn1, mem1 = self.one(self.norm(self.fc1(x_t)), syn1, mem1)
            spk2, syn2, mem2 = self.two(self.drop(self.fc2(spk1)) + spk1, syn2, mem2)
            _, mem3 = self.out(self.fc3(spk2), mem3)
            recorded.append(mem3)
        return torch.stack(recorded).mean(0)


class NorseRecurrent(nn.Module):
    """Norse's MNIST task with recurrent cells."""

    def __init__(self, Cell: Any = norse.LIFRecurrentCell, hidden: int = 100) -> None:
        super().__init__()
        self.l1 = Cell(784, hidden, dt=1e-3)
        self.fc_out, self.out = nn.Linear(hidden, 10, bias=False), norse.LICell(dt=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        s1 = so = None
        voltages = []
        for step in range(x.shape[0]):
            z, s1 = self.l1(x[step].view(-1, 784), s1)
            voltage, so = self.out(self.fc_out(z), so)
            voltages.append(voltage)
        return torch.stack(voltages).max(0)[0]


class NorseConvolutional(nn.Module):
    """Norse's convolutional MNIST classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(4 * 4 * 50, 500)
        self.lif0, self.lif1, self.lif2 = (norse.LIFCell(dt=1e-3) for _ in "123")
        self.out = LILinearCell(500, 10, dt=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        s0 = s1 = s2 = so = None
        voltages = torch.zeros(x.shape[0], x.shape[1], 10)
        for step in range(x.shape[0]):
            z, s0 = self.lif0(self.conv1(x[step, :]), s0)
            z = F.max_pool2d(z, 2, 2)
            z, s1 = self.lif1(10 * self.conv2(z), s1)
            z = F.max_pool2d(z, 2, 2).view(-1, 4 * 4 * 50)
            z, s2 = self.lif2(self.fc1(z), s2)
            v, so = self.out(F.relu(z), so)
            voltages[step, :, :] = v
        return voltages[-1]


class NorseMemory(nn.Module):
    """Norse's memory task."""

    def __init__(self, hidden: int = 80) -> None:
        super().__init__()
        self.layer, self.readout = norse.LIFRecurrentCell(8, hidden), LILinearCell(hidden, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sl = sr = None
        spikes, read = [], []
        for x_step in x.unbind(1):
            z, sl = self.layer(x_step, sl)
            voltage, sr = self.readout(z, sr)
            spikes.append(z)
            read.append(voltage)
        return torch.stack(spikes), torch.stack(read).mean(0)


def norse_intro() -> nn.Module:
    """Return the network of Norse's introduction, which makes one step a call."""
    net: nn.Module = norse.SequentialState(
        nn.Conv2d(1, 20, 5, 1), norse.LIFCell(), nn.MaxPool2d(2, 2), nn.Conv2d(20, 50, 5, 1),
        norse.LIFCell(), nn.MaxPool2d(2, 2), nn.Flatten(1), nn.Linear(800, 10), norse.LICell(),
    )  # fmt: skip
    return net


def norse_over_time() -> nn.Module:
    """Return a network of Norse's layers over time, as its notebook on parameters has it."""
    layers = nn.Linear(200, 300), norse.LIF(), nn.Linear(300, 50), norse.LIF()
    net: nn.Module = norse.SequentialState(*layers)
    return net
