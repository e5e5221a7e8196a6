"""The networks of the hosts' tutorials, with the neuron swapped by name and nothing else.

Rebuilt in few words and small sizes after snnTorch's tutorials 3, 5, 6, 7, "regression" 1 and 2 and
"population coding" (github.com/jeshraghian/snntorch, examples), Norse's notebooks intro_norse,
intro_plotting, parameter-learning and mnist_classifiers (github.com/norse/notebooks) and its task
``memory``. ``Leaky`` and so on are arguments here, the hosts' own or ours.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import norse.torch as norse
import pytest
import snntorch
import torch
import torch.nn.functional as F
from norse.torch.module.leaky_integrator import LILinearCell
from snntorch import functional, spikegen, surrogate, utils
from torch import Tensor, nn

import snu_norse as sn
import snu_snntorch as st
from few import few_of

STEPS = 6
LEAKY = pytest.mark.parametrize("Leaky", [snntorch.Leaky, st.SNU, st.sSNU])
RLEAKY = pytest.mark.parametrize("RLeaky", [snntorch.RLeaky, st.RSNU, st.RsSNU])
HARD_LEAKY = pytest.mark.parametrize("Leaky", [snntorch.Leaky, st.SNU])


def train(
    parameters: Iterator[nn.Parameter], loss: Callable[[], Tensor], *, steps: int = 8
) -> list[float]:
    """Return the losses of some steps of training on the same data."""
    optimizer, losses = torch.optim.Adam(parameters, lr=1e-2), []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(value.item())
    return losses


def images(count: int = 8, size: int = 28) -> tuple[Tensor, Tensor]:
    """Return images of four kinds that differ, and the kinds."""
    kinds = torch.arange(count) % 4
    maps = torch.rand(4, 1, size, size)
    return (maps[kinds] + 0.1 * torch.rand(count, 1, size, size)).clamp(0, 1), kinds


@LEAKY
def test_tutorial_3_layers_of_neurons_are_stepped_by_hand(Leaky: Any) -> None:
    one, mem, current = Leaky(beta=0.8), torch.zeros(1), torch.full((20,), 0.3)
    potentials = []
    for step in range(20):
        _, mem = one(current[step], mem)
        potentials.append(mem)
    assert torch.stack(potentials).max() > 0.5

    fc1, lif1, fc2, lif2 = nn.Linear(30, 20), Leaky(beta=0.99), nn.Linear(20, 10), Leaky(beta=0.99)
    mem1, mem2 = lif1.init_leaky(), lif2.init_leaky()
    spikes = []
    for x in spikegen.rate_conv(torch.rand(STEPS, 30)).unsqueeze(1):
        spk1, mem1 = lif1(fc1(x), mem1)
        spk2, mem2 = lif2(fc2(spk1), mem2)
        spikes.append(spk2)
    assert torch.stack(spikes).shape == (STEPS, 1, 10)


class FullyConnected(nn.Module):
    """Tutorial 5: a static image is shown at every step."""

    def __init__(self, Leaky: Any, **settings: Any) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(784, 40), Leaky(beta=0.95, **settings)
        self.fc2, self.lif2 = nn.Linear(40, 10), Leaky(beta=0.95, **settings)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, potentials = [], []
        for _ in range(STEPS):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            potentials.append(mem2)
        return torch.stack(spikes), torch.stack(potentials)


def loss_of_membranes(net: Callable[..., Any], x: Tensor, targets: Tensor) -> Tensor:
    potentials = net(x.flatten(1))[1]
    return torch.stack([F.cross_entropy(mem, targets) for mem in potentials]).sum()


@LEAKY
def test_tutorial_5_a_fully_connected_network_learns(Leaky: Any) -> None:
    net, (x, targets) = FullyConnected(Leaky), images()
    losses = train(net.parameters(), lambda: loss_of_membranes(net, x, targets))
    assert losses[-1] < 0.8 * losses[0]
    assert net(x[:3].flatten(1))[0].shape == (STEPS, 3, 10)  # the last batch is a smaller one


def test_tutorial_5_trains_as_leaky_that_resets_to_zero_where_its_choices_are_taken() -> None:
    x, targets = images()
    found = []
    for Leaky, settings in (
        (snntorch.Leaky, {"reset_mechanism": "zero"}),
        (st.SNU, {"spike_grad": surrogate.atan(), "detach_reset": True}),
    ):
        torch.manual_seed(1)
        net = FullyConnected(Leaky, **settings)
        found.append(train(net.parameters(), partial(loss_of_membranes, net, x, targets)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("Leaky", few_of([snntorch.Leaky, st.SNU, st.sSNU], st.SNU))
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of a state that is kept
def test_tutorial_5_in_one_compiled_graph(Leaky: Any) -> None:
    class Net(FullyConnected):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            self.lif1.reset_mem()
            self.lif2.reset_mem()
            steps = []
            for _ in range(STEPS):
                spk1, _ = self.lif1(self.fc1(x))
                steps.append(self.lif2(self.fc2(spk1)))
            spikes, potentials = zip(*steps, strict=True)
            return torch.stack(spikes), torch.stack(potentials)

    torch.compiler.reset()
    net, (x, targets) = Net(Leaky), images()
    expected = [part.detach() for part in net(x.flatten(1))]
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close([part.detach() for part in compiled(x.flatten(1))], expected)
    losses = train(net.parameters(), lambda: loss_of_membranes(compiled, x, targets))
    assert losses[-1] < losses[0]


def hidden(Leaky: Any, **settings: Any) -> Any:
    """Return a neuron as tutorials 6 and 7 build them; soft units have no surrogate to choose."""
    chosen = {} if Leaky is st.sSNU else {"spike_grad": surrogate.fast_sigmoid(slope=25)}
    return Leaky(beta=0.5, init_hidden=True, **chosen, **settings)


@LEAKY
def test_tutorial_6_a_convolutional_network_learns(Leaky: Any) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), hidden(Leaky),
        nn.Conv2d(4, 8, 5), nn.MaxPool2d(2), hidden(Leaky),
        nn.Flatten(), nn.Linear(8 * 4 * 4, 10), hidden(Leaky, output=True),
    )  # fmt: skip
    (x, targets), loss = images(), functional.ce_rate_loss()

    def forward_pass(data: Tensor) -> tuple[Tensor, Tensor]:
        utils.reset(net)
        steps = [net(data) for _ in range(STEPS)]
        spikes, potentials = zip(*steps, strict=True)
        return torch.stack(spikes), torch.stack(potentials)

    x = 5 * x  # so that so small a network is not silent
    losses = train(net.parameters(), lambda: loss(forward_pass(x)[0], targets))
    assert losses[-1] < losses[0]
    assert 0 <= functional.accuracy_rate(forward_pass(x)[0], targets) <= 1


@LEAKY
def test_tutorial_7_events_of_a_camera_are_learned(Leaky: Any) -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 5), hidden(Leaky), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 5), hidden(Leaky), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * 5 * 5, 10), hidden(Leaky, output=True),
    )  # fmt: skip
    targets = torch.arange(6) % 3
    x = 5 * (torch.rand(STEPS, 3, 2, 34, 34)[:, targets] < 0.2).float()
    loss = functional.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2)

    def forward_pass(data: Tensor) -> Tensor:
        utils.reset(net)
        return torch.stack([net(data[step])[0] for step in range(len(data))])

    losses = train(net.parameters(), lambda: loss(forward_pass(x), targets))
    assert losses[-1] < losses[0]


@HARD_LEAKY
def test_regression_1_a_number_is_read_off_the_membrane_of_a_neuron_without_reset(
    Leaky: Any,
) -> None:
    size, slope = 16, surrogate.fast_sigmoid()
    fc_in, fc_hidden, fc_out = nn.Linear(1, size), nn.Linear(size, size), nn.Linear(size, 1)
    lif_in, lif_hidden = (
        Leaky(beta=torch.rand(size), threshold=torch.rand(size), learn_beta=True, spike_grad=slope)
        for _ in range(2)
    )
    # Not swapped: it never resets, which no SNU does.
    out = snntorch.Leaky(
        beta=torch.rand(1), threshold=1.0, learn_beta=True, spike_grad=slope, reset_mechanism="none"
    )
    net = nn.ModuleList([fc_in, fc_hidden, fc_out, lif_in, lif_hidden, out])
    x = torch.linspace(0, 1, 20).reshape(20, 1, 1)

    def loss() -> Tensor:
        mem_1, mem_2, mem_3 = lif_in.init_leaky(), lif_hidden.init_leaky(), out.init_leaky()
        potentials = []
        for x_t in x:
            spk_1, mem_1 = lif_in(fc_in(x_t), mem_1)
            spk_2, mem_2 = lif_hidden(fc_hidden(spk_1), mem_2)
            _, mem_3 = out(fc_out(spk_2), mem_3)
            potentials.append(mem_3)
        return F.mse_loss(torch.stack(potentials), x)

    losses = train(net.parameters(), loss, steps=30)
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match="reset_mechanism is 'none'"):
        st.SNU(beta=0.5, reset_mechanism="none")


@RLEAKY
def test_regression_2_recurrent_neurons_are_stepped_by_hand_in_every_form(RLeaky: Any) -> None:
    one = RLeaky(beta=0.9, all_to_all=False, learn_recurrent=False)
    one.V = torch.rand(1)
    for neuron, x in (
        (RLeaky(beta=0.9, all_to_all=False), torch.rand(1)),
        (one, torch.rand(1)),
        (RLeaky(beta=0.9, linear_features=10), torch.rand(10)),
        (RLeaky(beta=0.9, conv2d_channels=3, kernel_size=(5, 5)), torch.rand(3, 12, 12)),
        (RLeaky(beta=0.9, conv2d_channels=3, kernel_size=3), torch.rand(2, 3, 12, 12)),
    ):
        spk, mem = neuron.init_rleaky()
        for _ in range(STEPS):
            spk, mem = neuron(x, spk, mem)
        assert spk.shape == mem.shape == x.shape
        spk, mem = neuron.init_rleaky()
        assert not spk.any()
        assert not mem.any()


@RLEAKY
def test_regression_2_a_recurrent_network_learns(RLeaky: Any) -> None:
    fc1, rlif1 = nn.Linear(784, 20), RLeaky(beta=0.9, linear_features=20)
    fc2, rlif2 = nn.Linear(20, 10), RLeaky(beta=0.9, linear_features=10)
    net = nn.ModuleList([fc1, rlif1, fc2, rlif2])
    loss = functional.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2)
    x, targets = images()

    def forward(x: Tensor) -> Tensor:
        (spk1, mem1), (spk2, mem2) = rlif1.init_rleaky(), rlif2.init_rleaky()
        spikes = []
        for _ in range(STEPS):
            spk1, mem1 = rlif1(fc1(x), spk1, mem1)
            spk2, mem2 = rlif2(fc2(spk1), spk2, mem2)
            spikes.append(spk2)
        return torch.stack(spikes)

    losses = train(net.parameters(), lambda: loss(forward(x.flatten(1)), targets))
    assert losses[-1] < losses[0]


@HARD_LEAKY
def test_population_coding_is_trained_by_backpropagation_through_time(Leaky: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        backprop = importlib.import_module("snntorch.backprop")
    slope = surrogate.fast_sigmoid(slope=75)
    settings: dict[str, Any] = {"beta": 0.9, "spike_grad": slope, "init_hidden": True}
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 40), Leaky(**settings),
        nn.Linear(40, 50), Leaky(**settings, output=True),
    )  # fmt: skip
    loss = functional.mse_count_loss(
        correct_rate=1.0, incorrect_rate=0.0, population_code=True, num_classes=10
    )
    x, targets = images()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    losses = [
        backprop.BPTT(
            net, [(x, targets)], num_steps=STEPS, optimizer=optimizer, criterion=loss,
            time_var=False, device="cpu",
        ).item()
        for _ in range(10)
    ]  # fmt: skip
    assert losses[-1] < losses[0]
    with torch.no_grad():
        utils.reset(net)
        spikes, _ = net(x)
    rate = functional.accuracy_rate(
        spikes.unsqueeze(0), targets, population_code=True, num_classes=10
    )
    assert 0 <= rate <= 1


CELL = pytest.mark.parametrize("Cell", [norse.LIFCell, norse.LIFBoxCell, sn.SNUCell, sn.sSNUCell])
OVER_TIME = pytest.mark.parametrize("Layer", [norse.LIF, sn.SNU, sn.sSNU])
RECURRENT = pytest.mark.parametrize(
    "Cell", [norse.LIFRecurrentCell, sn.SNURecurrentCell, sn.sSNURecurrentCell]
)


@CELL
def test_norse_intro_a_sequence_of_layers_hands_its_states_on(Cell: Any) -> None:
    model = norse.SequentialState(
        nn.Conv2d(3, 4, 5, 1), Cell(), nn.Conv2d(4, 6, 5, 1), Cell(), nn.Flatten(1),
        nn.Linear(6 * 8 * 8, 10, bias=False),
    )  # fmt: skip
    data = torch.rand(2, 3, 16, 16)
    output, state = model(data)
    for _ in range(STEPS):
        output, state = model(data, state)
    assert output.shape == (2, 10)
    assert state[1].v.shape == (2, 4, 12, 12)


@OVER_TIME
def test_norse_plotting_the_potential_of_every_step_is_recorded(Layer: Any) -> None:
    data = torch.zeros(100, 1)
    data[10] = data[30] = 0.7
    output, states = Layer(record_states=True)(data)
    assert states.v.shape == output.shape == (100, 1)
    assert states.v[10:].max() > states.v[0]


@OVER_TIME
def test_norse_parameter_learning_layers_over_time_learn(Layer: Any) -> None:
    model = norse.SequentialState(nn.Linear(20, 30), Layer(), nn.Linear(30, 5), Layer())
    x, target = 20 * torch.rand(STEPS, 4, 20), (torch.rand(STEPS, 4, 5) < 0.5).float()
    losses = train(model.parameters(), lambda: F.mse_loss(model(x)[0], target), steps=30)
    assert losses[-1] < losses[0]


@RECURRENT
def test_norse_mnist_a_recurrent_network_learns(Cell: Any) -> None:
    l1, fc_out, out = Cell(784, 30, dt=1e-3), nn.Linear(30, 10, bias=False), norse.LICell(dt=1e-3)
    net = nn.ModuleList([l1, fc_out, out])
    x, targets = images()
    spikes = norse.PoissonEncoder(STEPS)(x)
    recorded = torch.zeros(STEPS, 8, 30)

    def loss() -> Tensor:
        s1 = so = None
        voltages = []
        for step in range(STEPS):
            z, s1 = l1(spikes[step].view(-1, 784), s1)
            recorded[step, :] = s1.v.detach()
            assert torch.equal(s1.z, z)
            voltage, so = out(fc_out(z), so)
            voltages.append(voltage)
        most, _ = torch.stack(voltages).max(0)
        return F.nll_loss(F.log_softmax(most, dim=1), targets)

    losses = train(net.parameters(), loss)
    assert losses[-1] < losses[0]
    assert recorded.any()


@CELL
def test_norse_mnist_a_convolutional_network_learns(Cell: Any) -> None:
    conv, lif0, fc, lif1, out = nn.Conv2d(1, 4, 5), Cell(), nn.Linear(4 * 36, 20), Cell(), None
    out = LILinearCell(20, 10)
    net = nn.ModuleList([conv, lif0, fc, lif1, out])
    x, targets = images(size=16)
    encoded = norse.ConstantCurrentLIFEncoder(STEPS)(5 * x)

    def loss() -> Tensor:
        s0 = s1 = so = None
        voltages = torch.zeros(STEPS, len(x), 10)
        for step in range(STEPS):
            z, s0 = lif0(10 * conv(encoded[step, :]), s0)
            z = F.max_pool2d(z, 2, 2).view(-1, 4 * 36)
            z, s1 = lif1(fc(z), s1)
            voltages[step, :, :], so = out(F.relu(z), so)
        return F.nll_loss(F.log_softmax(voltages[-1], dim=1), targets)

    losses = train(net.parameters(), loss)
    assert losses[-1] <= losses[0]


@RECURRENT
def test_norse_memory_a_pattern_is_stored_and_recalled(Cell: Any) -> None:
    layer, readout = Cell(8, 8), LILinearCell(8, 3)
    net = nn.ModuleList([layer, readout])
    x, labels = (torch.rand(4, 12, 8) < 0.4).float(), torch.rand(4, 3).round()

    def loss() -> Tensor:
        sl = sr = None
        spikes, read = [], []
        for x_step in x.unbind(1):
            z, sl = layer(x_step, sl)
            voltage, sr = readout(z, sr)
            spikes.append(z)
            read.append(voltage)
        rate = torch.stack(spikes).mean(0).mean(0)
        found = torch.stack(read).mean(0)
        return F.binary_cross_entropy_with_logits(found, labels) + ((rate - 0.1) ** 2).sum()

    losses = train(net.parameters(), loss)
    assert losses[-1] < losses[0]
