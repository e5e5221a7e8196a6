"""snnTorch's neurons as people build them, whatever their reset: through a file, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import pytest
import snntorch
import torch
from torch import Tensor, nn

import snu_snntorch as st
from snu_plugin.accelerator import IDEAL, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.graph import check, network, read, write

N = 6
Make = Callable[..., nn.Module]


def run(net: nn.Module, x: Tensor) -> Tensor:
    """Run a network that keeps its states over one sequence."""
    st.reset(net)
    with torch.no_grad():
        found = [net(x_t) for x_t in x]
    return torch.stack([y[0] if isinstance(y, tuple) else y for y in found])


def layer(neuron: nn.Module) -> nn.Sequential:
    """Return a layer with weights so large that neurons fire, some over twice the threshold."""
    weights = nn.Linear(5, N)
    with torch.no_grad():
        weights.weight *= 3
    return nn.Sequential(weights, neuron)


def spikes(steps: int = 40) -> Tensor:
    return (torch.rand(steps, 3, 5) < 0.5).to(torch.get_default_dtype())


def assert_leaves_exactly(net: nn.Module, x: Tensor, path: Path) -> nir.NIRGraph:
    """Compare a network with the reference of its file and with what is read from it."""
    expected = run(net, x)
    assert 0.02 < (expected != 0).double().mean() < 0.98
    write(path / "net.nir", st.to_nir(net, x[0], strict=True))
    graph = read(path / "net.nir")
    assert {verdict.verdict for verdict in check(graph)} == {"exact"}
    assert torch.equal(network(graph)(x)[0], expected)
    assert torch.equal(run(st.from_nir(graph), x), expected)
    return graph


RLEAKY = {"linear_features": N}
ONE_TO_ONE = {"all_to_all": False, "V": 0.4}
KINDS: list[tuple[str, Make]] = [
    ("Leaky", lambda **k: snntorch.Leaky(0.9, **k)),
    ("Leaky, decays of each neuron", lambda **k: snntorch.Leaky(torch.rand(N) * 1.4 - 0.2, **k)),
    ("Leaky, a learned decay above 1", lambda **k: snntorch.Leaky(1.3, learn_beta=True, **k)),
    ("Leaky, a decay below 0", lambda **k: snntorch.Leaky(-0.3, **k)),
    ("RLeaky", lambda **k: snntorch.RLeaky(0.9, **RLEAKY, **k)),
    ("RLeaky, one to one", lambda **k: snntorch.RLeaky(torch.rand(N), **ONE_TO_ONE, **k)),
    ("Synaptic", lambda **k: snntorch.Synaptic(0.7, torch.rand(N), **k)),
    ("RSynaptic", lambda **k: snntorch.RSynaptic(0.7, 0.9, **RLEAKY, **k)),
    ("RSynaptic, one to one", lambda **k: snntorch.RSynaptic(0.7, 0.9, **ONE_TO_ONE, **k)),
    ("Lapicque", lambda **k: snntorch.Lapicque(torch.tensor(0.7), **k)),
]
THRESHOLDS: dict[str, Callable[[], Any]] = {
    "1": lambda: 1.0,
    "of each neuron": lambda: 0.8 * torch.rand(N),
    "0": lambda: 0.0,
}


@pytest.mark.parametrize("delay", [True, False], ids=["delayed", "at once"])
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize(("name", "make"), KINDS, ids=[name for name, _ in KINDS])
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.covering(2)
def test_every_neuron_leaves_and_comes_back_with_every_reset(
    threshold: str, name: str, make: Make, reset: str, delay: bool, tmp_path: Path
) -> None:
    if not delay and name.startswith(("Lapicque", "RSynaptic")):
        pytest.skip("Lapicque has no reset_delay, and snnTorch's RSynaptic fails without one")
    torch.manual_seed(0)
    settings: dict[str, Any] = {"reset_mechanism": reset, "threshold": THRESHOLDS[threshold]()}
    settings |= {} if name == "Lapicque" else {"reset_delay": delay}
    assert_leaves_exactly(layer(make(init_hidden=True, **settings)), spikes(), tmp_path)


GRID: list[tuple[str, Make]] = [
    ("Leaky", lambda **k: snntorch.Leaky(0.5, **k)),
    ("RLeaky", lambda **k: snntorch.RLeaky(0.5, all_to_all=False, V=0.25, **k)),
    ("Synaptic", lambda **k: snntorch.Synaptic(0.25, 0.5, **k)),
]


@pytest.mark.parametrize("delay", [True, False], ids=["delayed", "at once"])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize(("name", "make"), GRID, ids=[name for name, _ in GRID])
def test_a_state_on_its_threshold_or_on_twice_its_threshold_fires_nowhere(
    name: str, make: Make, reset: str, delay: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)  # in which every state of this grid is exact
    try:
        settings = {"reset_mechanism": reset, "reset_delay": delay, "init_hidden": True}
        net = layer(make(threshold=0.5, **settings))
        with torch.no_grad():
            for parameter in net[0].parameters():
                parameter.copy_((4 * parameter).round() / 4)
        x = spikes(20)
        assert_leaves_exactly(net, x, tmp_path)
        tied = layer(make(threshold=0.5 - 1e-9, **settings))
        tied.load_state_dict(net[0].state_dict() | tied.state_dict(), strict=False)
        tied[0].load_state_dict(net[0].state_dict())
        assert not torch.equal(run(tied, x), run(net, x))
    finally:
        torch.set_default_dtype(torch.float32)


def test_graded_spikes_are_scaled_on_leaving_and_not_in_the_reset(tmp_path: Path) -> None:
    for settings in (
        {}, {"reset_delay": False}, {"reset_mechanism": "zero"}, {"reset_mechanism": "none"},
    ):  # fmt: skip
        torch.manual_seed(0)
        factor = torch.rand(N) + 0.5
        neuron = snntorch.Leaky(0.9, graded_spikes_factor=factor, init_hidden=True, **settings)
        graph = assert_leaves_exactly(layer(neuron), spikes(), tmp_path)
        assert type(graph.nodes["1.graded"]) is nir.Scale


@pytest.mark.parametrize("settings", [{}, {"reset_mechanism": "zero", "reset_delay": False}])
@pytest.mark.parametrize(
    "recurrence", [{"conv2d_channels": 2, "kernel_size": 3}, {"all_to_all": False, "V": 0.3}]
)
def test_layers_of_maps_that_feed_back_leave_too(
    settings: dict[str, Any], recurrence: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    neuron = snntorch.RLeaky(0.8, threshold=0.3, init_hidden=True, **recurrence, **settings)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), neuron, nn.Flatten(), nn.Linear(18, 3), leaky())
    assert_leaves_exactly(net, torch.rand(30, 2, 1, 5, 5), tmp_path)
    behind = nn.Sequential(nn.AvgPool2d(1), neuron)
    assert_leaves_exactly(behind, 0.3 * torch.rand(30, 2, 2, 3, 3), tmp_path)


def leaky(**settings: Any) -> nn.Module:
    neuron: nn.Module = snntorch.Leaky(0.9, threshold=0.3, init_hidden=True, **settings)
    return neuron


def test_the_parts_of_a_neuron_that_subtracts_have_names() -> None:
    graph = st.to_nir(nn.Sequential(nn.Linear(5, N), snntorch.Leaky(0.9, init_hidden=True)))
    kinds = {name: type(node).__name__ for name, node in graph.nodes.items()}
    assert kinds == {
        "input": "Input", "0": "Affine", "1.mem": "LI", "1.spike": "Threshold",
        "1.reset": "Scale", "output": "Output",
    }  # fmt: skip
    assert set(graph.edges) == {
        ("input", "0"), ("0", "1.mem"), ("1.mem", "1.spike"), ("1.spike", "1.reset"),
        ("1.reset", "1.mem"), ("1.spike", "output"),
    }  # fmt: skip


def test_two_neurons_in_a_row_and_a_loop_of_a_users_own_leave() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.one = nn.Linear(5, N), snntorch.Leaky(0.9, threshold=0.3)
            self.two = snntorch.Synaptic(0.5, 0.8, threshold=0.3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mem, (syn, mem_2) = self.one.reset_mem(), self.two.reset_mem()
            out, mems = [], []
            for x_t in x:
                spk, mem = self.one(self.fc(x_t), mem)
                spk, syn, mem_2 = self.two(spk, syn, mem_2)
                out.append(spk)
                mems.append(mem_2)
            return torch.stack(out), torch.stack(mems)

    torch.manual_seed(0)
    net, x = Net(), spikes()
    with torch.no_grad():
        expected, _ = net(x)
    y = network(st.to_nir(net, x))(x)[0]
    assert torch.equal(y["output"] if isinstance(y, dict) else y, expected)
    assert 0.02 < expected.mean() < 0.98
    row = nn.Sequential(nn.Linear(5, N), leaky(), leaky(reset_delay=False))
    assert torch.equal(network(st.to_nir(row))(x)[0], run(row, x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: snntorch.DeltaLeaky(0.4, beta=0.7, init_hidden=True),
        lambda: snntorch.Alpha(0.9, 0.7, threshold=0.3, reset_mechanism="none", init_hidden=True),
    ],
)
def test_neurons_that_never_reset_leave_whatever_they_threshold(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    assert_leaves_exactly(layer(make()), spikes(), tmp_path)


@pytest.mark.parametrize("steps", [None, 4])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_neuron_that_is_a_kernel_over_time_leaves_as_an_integrator(
    steps: int | None, factor: float
) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"threshold": 0.4, "graded_spikes_factor": factor}
    settings |= {"kernel_truncation_steps": steps}

    class First(nn.Module):
        """Spikes alone, as a Sequential needs them."""

        def __init__(self, neuron: nn.Module) -> None:
            super().__init__()
            self.neuron = neuron

        def forward(self, x: Tensor) -> Tensor:
            return self.neuron(x)[0]  # type: ignore[no-any-return]

    for net in (
        nn.Sequential(nn.Linear(5, N), First(snntorch.StateLeaky(torch.rand(N), N, **settings))),
        First(snntorch.LinearLeaky(torch.tensor(0.8), 5, N, **settings)),
    ):
        x = spikes()
        with torch.no_grad():
            expected = net(x)
        assert 0.02 < (expected != 0).double().mean() < 0.98
        assert torch.equal(network(st.to_nir(net, x))(x)[0], expected)


def test_graded_spikes_of_a_layer_of_their_own_are_a_scale() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(snntorch.GradedSpikes(3, None), nn.Flatten(), nn.Linear(12, 2))
    x = torch.rand(4, 2, 3, 4)
    with torch.no_grad():
        expected = torch.stack([net(x_t) for x_t in x])
    torch.testing.assert_close(network(st.to_nir(net, x[0]))(x)[0], expected)


@pytest.mark.parametrize(
    ("make", "kinds"),
    [
        (lambda: snntorch.Leaky(torch.rand(N), threshold=torch.rand(N)), ["Leaky"]),
        (lambda: snntorch.Synaptic(0.7, torch.rand(N), threshold=0.5), ["Synaptic"]),
        (lambda: snntorch.Lapicque(0.7, threshold=0.3), ["Scale", "Leaky"]),
        (lambda: snntorch.Leaky(0.9, graded_spikes_factor=2.0), ["Leaky", "Scale"]),
        (lambda: snntorch.RLeaky(0.9, linear_features=N, threshold=0.5), ["Node"]),
    ],
)
def test_a_neuron_that_subtracts_comes_back_as_the_hosts_own(
    make: Callable[[], nn.Module], kinds: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    neuron = make()
    neuron.init_hidden = True  # type: ignore[assignment]
    net, x = layer(neuron), spikes()
    graph = assert_leaves_exactly(net, x, tmp_path)
    back = st.from_nir(graph)
    assert [type(module).__name__ for module in back] == ["Linear", *kinds]
    own = [m for m in back if isinstance(m, snntorch.SpikingNeuron) and type(m).__name__ in kinds]
    assert all(
        m.reset_mechanism == "subtract" and m.init_hidden for m in own if "Node" not in kinds
    )
    again = st.to_nir(back, x[0])
    assert torch.equal(network(again)(x)[0], run(net, x))


def test_the_reference_rounds_as_the_host_does_where_that_decides() -> None:
    torch.manual_seed(0)
    weights = nn.Linear(5, N, bias=False)
    net = nn.Sequential(weights, snntorch.Leaky(1.0, init_hidden=True))
    with torch.no_grad():
        weights.weight.copy_((4 * torch.rand(N, 5)).round() / 10)  # states that nearly meet 1
    x = (torch.rand(200, 20, 5) < 0.4).float()
    expected, graph = run(net, x), st.to_nir(net)
    assert torch.equal(network(graph)(x)[0], expected)
    assert torch.equal(run(st.from_nir(graph), x), expected)
    wired = st.to_nir(net)
    wired.nodes["1.reset"] = nir.Linear(-torch.eye(N).numpy())  # the same wire, summed before
    assert 0 < (network(wired)(x)[0] != expected).double().mean() < 0.05


def test_a_chip_runs_a_neuron_that_subtracts_as_the_reference_does() -> None:
    torch.manual_seed(0)
    recurrent = snntorch.RLeaky(0.8, linear_features=3, threshold=0.3, init_hidden=True)
    net = nn.Sequential(*layer(leaky()), nn.Linear(N, 3), recurrent)
    x = spikes()
    program = compile(st.to_nir(net), IDEAL)
    assert {name for name, _ in program.products.items()} == {"0", "2", "3.w_rec"}
    chip = Accelerator(program, seed=0)
    chip.program()
    assert torch.equal(chip.run(x)[0], run(net, x))


def test_a_membrane_beside_the_spikes_leaves_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(5, N), snntorch.Leaky(0.9, threshold=0.3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mem, out, mems = self.lif.reset_mem(), [], []
            for x_t in x:
                spk, mem = self.lif(self.fc(x_t), mem)
                out.append(spk)
                mems.append(mem)
            return torch.stack(out), torch.stack(mems)

    torch.manual_seed(0)
    net, x = Net(), spikes()
    with torch.no_grad():
        expected = net(x)
        found = network(st.to_nir(net, x))(x)[0]
    assert isinstance(found, dict)
    for value, actual in zip(expected, found.values(), strict=True):
        torch.testing.assert_close(actual, value)


def test_a_leaky_with_a_number_of_its_own_called_alpha_has_no_current(tmp_path: Path) -> None:
    class Noted(snntorch.Leaky):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(0.9, init_hidden=True, reset_mechanism="zero", reset_delay=False)
            self.alpha = torch.tensor(0.5)

    torch.manual_seed(0)
    graph = assert_leaves_exactly(layer(Noted()), spikes(), tmp_path)
    assert type(graph.nodes["1"]) is nir.LIF
