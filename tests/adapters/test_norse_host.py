"""Norse's own neurons through NIR: what they do at every step, or a reason why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import norse.torch as norse
import numpy as np
import pytest
import torch
from norse.torch.functional.reset import reset_subtract
from torch import Tensor, nn

import snu_norse as sn
from snu_plugin import graph


def spikes(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.bernoulli(torch.full(shape, 0.4), generator=generator)


def some(low: float, high: float, size: int = 6) -> Tensor:
    return torch.rand(size) * (high - low) + low


def lif_parameters() -> norse.LIFParameters:
    return norse.LIFParameters(
        some(80, 400), some(50, 300), some(-0.1, 0.1), some(0.05, 0.3), some(-0.3, 0)
    )


def box() -> nn.Module:
    p = norse.LIFBoxParameters(some(50, 900), some(-0.1, 0.1), some(0.1, 0.3), some(-0.3, 0))
    return stacked(norse.LIFBoxCell(p))


def box_with_plain_numbers() -> nn.Module:
    p = norse.LIFBoxParameters(v_th=torch.tensor(0.1))
    return stacked(norse.LIFBoxCell(p, dt=2**-9))


def lif() -> nn.Module:
    return stacked(norse.LIFCell(lif_parameters()))


def recurrent() -> nn.Module:
    p = lif_parameters()._replace(v_leak=torch.tensor(0.05))
    return stacked(norse.LIFRecurrentCell(6, 6, p))


def recurrent_with_autapses() -> nn.Module:
    p = norse.LIFParameters(v_th=torch.tensor(0.2))
    return stacked(norse.LIFRecurrentCell(6, 6, p, autapses=True))


def iaf() -> nn.Module:
    return stacked(norse.IAFCell(norse.IAFParameters(some(0.5, 1), some(-0.5, 0))), 1.0)


def around() -> nn.Module:
    p = norse.LIFParameters(v_th=torch.tensor(0.3))
    loop = norse.RecurrentSequential(norse.LIFCell(p), nn.Linear(6, 6), norse.LIFCell(p))
    net = stacked(loop, 0.6)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.endswith("weight"):
                weight.abs_()
    return net


def pictures() -> nn.Module:
    net: nn.Module = norse.SequentialState(
        nn.Conv2d(1, 2, 3),
        norse.LIFBoxCell(norse.LIFBoxParameters(v_th=torch.tensor(0.1))),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
        norse.IAFCell(norse.IAFParameters(v_th=torch.tensor(0.3))),
    )
    return net


def stacked(neuron: nn.Module, threshold: float = 0.1) -> nn.Module:
    readout = sn.SNUCell(sn.SNUParameters(threshold=threshold))
    net: nn.Module = norse.SequentialState(nn.Linear(5, 6), neuron, nn.Linear(6, 4), readout)
    return net


SPIKING: list[tuple[Callable[[], nn.Module], str]] = [
    (box, "LIF"),
    (box_with_plain_numbers, "LIF"),
    (lif, "CubaLIF"),
    (recurrent, "CubaLIF"),
    (recurrent_with_autapses, "CubaLIF"),
    (iaf, "IF"),
    (around, "CubaLIF"),
    (pictures, "IF"),
]


@pytest.mark.parametrize("dt", [None, 2.0**-12])
@pytest.mark.parametrize(("make", "kind"), SPIKING)
def test_norses_own_neurons_leave_as_what_they_do_at_every_step(
    make: Callable[[], nn.Module], kind: str, dt: float | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = make().eval()
    x = spikes(60, 3, *((1, 6, 6) if make is pictures else (5,)))
    expected, _ = norse.Lift(net)(x)
    assert 0.02 < expected.mean() < 0.98
    graph.write(tmp_path / "net.nir", sn.to_nir(net, x[0], dt=dt, strict=True))
    again = graph.read(tmp_path / "net.nir")
    assert kind in {type(node).__name__ for node in again.nodes.values()}
    assert torch.equal(graph.network(again)(x)[0], expected)
    assert torch.equal(norse.Lift(sn.from_nir(tmp_path / "net.nir"))(x)[0], expected)


def test_layers_over_time_leave_as_their_cells_do() -> None:
    torch.manual_seed(1)
    p = norse.LIFParameters(v_th=torch.tensor(0.1))
    net = norse.SequentialState(
        norse.Lift(nn.Linear(5, 6)),
        norse.LIF(p),
        norse.LIFRecurrent(6, 6, p),
        norse.Lift(nn.Linear(6, 4)),
        norse.IAF(norse.IAFParameters(v_th=torch.tensor(0.2))),
    )
    x = spikes(50, 3, 5)
    expected, _ = net(x)
    assert 0.02 < expected.mean() < 0.98
    exported = sn.to_nir(net, x)
    assert {"2.w_in", "2.cell.lif", "2.cell.w_rec"} <= exported.nodes.keys()
    assert torch.equal(graph.network(exported)(x)[0], expected)


@pytest.mark.parametrize(
    ("neuron", "kind"),
    [
        (norse.LICell(norse.LIParameters(some(50, 200, 4), some(50, 200, 4))), nir.CubaLI),
        (norse.LIBoxCell(norse.LIBoxParameters(torch.tensor(70.0))), nir.LI),
    ],
)
def test_readouts_that_leak_leave_too(neuron: nn.Module, kind: type) -> None:
    torch.manual_seed(2)
    net = norse.SequentialState(nn.Linear(5, 4), neuron)
    x = spikes(50, 3, 5)
    expected, _ = norse.Lift(net)(x)
    exported = sn.to_nir(net)
    assert isinstance(exported.nodes["1"], kind)
    torch.testing.assert_close(graph.network(exported)(x)[0], expected)


def test_time_constants_are_those_of_norse_in_its_own_dt() -> None:
    p = norse.LIFParameters(torch.tensor(200.0), torch.tensor(50.0))
    exported = sn.to_nir(norse.SequentialState(nn.Linear(5, 4), norse.LIFCell(p)))
    assert graph.declared(exported)["dt"] == 0.001
    np.testing.assert_array_equal(exported.nodes["1"].tau_syn, np.full(4, 1 / 200))
    np.testing.assert_array_equal(exported.nodes["1"].tau_mem, np.full(4, 1 / 50))
    np.testing.assert_array_equal(exported.nodes["1"].w_in, exported.nodes["1"].tau_syn / 0.001)


def half(z: Tensor, v: Tensor, reset: Tensor, threshold: Tensor) -> Tensor:
    """A reset of a user's own."""
    return v - z * threshold / 2


class Named(norse.LIFCell):  # type: ignore[misc]
    """Norse's neuron by another name."""


class NamedLoop(norse.LIFRecurrentCell):  # type: ignore[misc]
    """Norse's recurrent neuron by another name."""


class Doubling(norse.LIFCell):  # type: ignore[misc]
    """A neuron of a user's own that only looks like Norse's."""

    def forward(self, x: Tensor, state: Any = None) -> Any:
        return super().forward(2 * x, state)


class DoublingLoop(norse.LIFRecurrentCell):  # type: ignore[misc]
    """The same of a recurrent one."""

    def forward(self, x: Tensor, state: Any = None) -> Any:
        return super().forward(2 * x, state)


class Charged(norse.LIFBoxCell):  # type: ignore[misc]
    """A neuron that begins with a potential of its own."""

    def initial_state(self, x: Tensor) -> Any:
        return super().initial_state(x)._replace(v=torch.full_like(x, 0.2))


class Stepped(norse.LIFCell):  # type: ignore[misc]
    """A neuron that another function steps."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = lambda *args: norse.functional.lif.lif_feed_forward_step(*args)


@pytest.mark.parametrize("sizes", [(), (4, 4)], ids=["feed-forward", "recurrent"])
def test_a_derived_neuron_that_replaces_nothing_leaves_as_what_it_is(
    sizes: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    neuron = NamedLoop(*sizes) if sizes else Named()
    net, x = norse.SequentialState(nn.Linear(5, 4), neuron), 9 * spikes(40, 3, 5)
    expected, _ = norse.Lift(net)(x)
    assert expected.any()
    assert torch.equal(graph.network(sn.to_nir(net, x[0]))(x)[0], expected)


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (
            norse.LIFBoxCell(norse.LIFBoxParameters(reset_method=half)),
            "1: it resets by half, a function of your own",
        ),
        (
            norse.LIFCell(norse.LIFParameters(tau_mem_inv=torch.tensor(1500.0))),
            r"1: p\.tau_mem_inv is 1500 at dt = 0\.001; .*\(0, 1\]",
        ),
        (Doubling(), "1: Doubling has a forward of its own"),
        (DoublingLoop(4, 4), "DoublingLoop has a forward of its own"),
        (Charged(), "1: Charged has initial_state.*of its own"),
        (Stepped(), "1: its activation is <lambda>"),
        (norse.LIFAdExCell(), "1: no NIR rule for LIFAdExCell; its potential grows by an exp"),
        (norse.PoissonEncoder(5), "1: no NIR rule for PoissonEncoder; it makes a sequence of its"),
    ],
)
def test_what_nir_cannot_say_is_refused_with_the_reason(neuron: nn.Module, message: str) -> None:
    net = norse.SequentialState(nn.Linear(5, 4), neuron)
    with pytest.raises((ValueError, TypeError), match=message):
        sn.to_nir(net, spikes(2, 5))


def test_neurons_with_several_time_steps_need_one_to_leave_in() -> None:
    p = norse.LIFBoxParameters(v_th=torch.tensor(0.1))
    net = norse.SequentialState(
        nn.Linear(5, 4), norse.LIFBoxCell(p, dt=1e-3), nn.Linear(4, 4), norse.LIFBoxCell(p, dt=2e-3)
    )
    with pytest.raises(ValueError, match=r"time steps 0\.001, 0\.002; .*give dt"):
        sn.to_nir(net)
    x = spikes(50, 3, 5)
    expected, _ = norse.Lift(net)(x)
    assert torch.equal(graph.network(sn.to_nir(net, dt=1e-3))(x)[0], expected)


def test_a_reset_of_ones_own_leaves_on_demand_with_its_measured_cost(tmp_path: Path) -> None:
    torch.manual_seed(3)
    p = norse.LIFBoxParameters(torch.tensor(300.0), v_th=torch.tensor(0.2), reset_method=half)
    x = 5 * spikes(60, 3, 5)
    for net in (
        norse.SequentialState(nn.Linear(5, 4, bias=False), norse.LIFBoxCell(p)),
        norse.SequentialState(
            norse.Lift(nn.Linear(5, 4, bias=False)), norse.Lift(norse.LIFBoxCell(p))
        ),
    ):
        graph.write(tmp_path / "net.nir", sn.to_nir(net, x, approximate=True))
        again = graph.read(tmp_path / "net.nir")
        y = net(x)[0][0] if isinstance(net[0], norse.Lift) else norse.Lift(net)(x)[0]
        share = (graph.network(again)(x)[0] != y).double().mean().item()
        assert y.mean() > 0.02
        assert share > 0.005
        (said,) = [v for v in graph.check(again) if v.verdict == "approximate"]
        assert said.kind == "LIF"
        assert f"{share:.2%} of the graph's outputs differed, over 60 steps of 3" in said.reason
        assert "it resets by half" in said.reason


def test_what_is_exact_stays_exact_where_an_approximation_is_allowed() -> None:
    torch.manual_seed(0)
    exported = sn.to_nir(box(), spikes(20, 3, 5), approximate=True)
    assert {v.verdict for v in graph.check(exported)} == {"exact"}
    with pytest.raises(ValueError, match=r"sample is None; approximate=True measures"):
        sn.to_nir(box(), approximate=True)


@pytest.mark.parametrize("v_leak", [0.0, 0.05])
def test_a_subtractive_reset_leaves_exactly(v_leak: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    thresholds = torch.tensor([0.2, 0.1, 0.3, 0.05])
    p = norse.LIFBoxParameters(
        some(50, 900, 4), torch.tensor(v_leak), thresholds, reset_method=reset_subtract
    )
    net = norse.SequentialState(nn.Linear(5, 4), norse.LIFBoxCell(p))
    x = 5 * spikes(60, 3, 5)
    with torch.no_grad():
        expected, _ = norse.Lift(net)(x)
        graph.write(tmp_path / "net.nir", sn.to_nir(net, x[0]))
        again = graph.read(tmp_path / "net.nir")
        assert {v.verdict for v in graph.check(again)} == {"exact"}
        assert torch.equal(graph.network(again)(x)[0], expected)
        assert torch.equal(norse.Lift(sn.from_nir(again))(x)[0], expected)
    assert 0.02 < expected.mean() < 0.98


@pytest.mark.parametrize("rho", [0.0, 1.0, 2.5, 5.0])
@pytest.mark.parametrize("recurrent", ["", "cell", "sequence"])
def test_a_refractory_period_leaves_exactly(rho: float, recurrent: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    p = norse.LIFRefracParameters(
        norse.LIFParameters(v_th=torch.tensor(0.3), v_leak=torch.tensor(0.05)), torch.tensor(rho)
    )
    x = 5 * spikes(60, 3, 5)
    net: nn.Module
    if recurrent == "sequence":
        net = norse.SequentialState(norse.LIFRefracRecurrent(5, 4, p))
    elif recurrent:
        net = norse.SequentialState(norse.LIFRefracRecurrentCell(5, 4, p, autapses=True))
    else:
        net = norse.SequentialState(nn.Linear(5, 4), norse.LIFRefracCell(p))
    with torch.no_grad():
        expected = net(x)[0] if recurrent == "sequence" else norse.Lift(net)(x)[0]
        graph.write(tmp_path / "net.nir", sn.to_nir(net, x if recurrent == "sequence" else x[0]))
        again = graph.read(tmp_path / "net.nir")
        assert {v.verdict for v in graph.check(again)} == {"exact"}
        assert torch.equal(graph.network(again)(x)[0], expected)
        assert torch.equal(norse.Lift(sn.from_nir(again))(x)[0], expected)
    assert 0.02 < expected.mean() < 0.98


def test_weights_with_an_integrator_behind_them_leave_as_both() -> None:
    torch.manual_seed(0)
    net = norse.SequentialState(nn.Linear(5, 4), norse.LIFCell(), norse.LILinearCell(4, 3))
    x = 5 * spikes(40, 3, 5)
    with torch.no_grad():
        expected, _ = norse.Lift(net)(x)
        torch.testing.assert_close(graph.network(sn.to_nir(net, x[0]))(x)[0], expected)
    assert expected.any()


def test_convolutions_of_norses_own_leave() -> None:
    torch.manual_seed(0)
    fields = norse.SampledSpatialReceptiveField2d(
        1, 3, *(torch.tensor([v]) for v in (1.0, 0.5, 1.0)), 1, padding=1
    )
    x = torch.rand(9, 2, 1, 5, 5)
    with torch.no_grad():
        for net, sample in ((fields, x[0]), (norse.LConv2d(1, 2, 3), x)):
            expected = torch.stack([net(x_t) for x_t in x]) if sample.dim() == 4 else net(x)
            actual = graph.network(sn.to_nir(net, sample))(x)[0]
            torch.testing.assert_close(actual, expected)


def test_a_decay_that_training_moved_out_of_its_range_leaves_as_it_is_held() -> None:
    torch.manual_seed(0)
    p = sn.SNUParameters(decay=0.95, learn_decay=True)
    x = 2 * torch.rand(20, 2, 4)
    for net in (
        norse.SequentialState(sn.SNURecurrent(4, 3, p)),
        norse.Lift(norse.SequentialState(sn.SNURecurrentCell(4, 3, p))),
        norse.Lift(norse.SequentialState(nn.Linear(4, 3), sn.SNUCell(p))),
    ):
        for decay in (1.05, -0.2):
            with torch.no_grad():
                p.decay.fill_(decay)
                expected = net(x)[0]
                assert torch.equal(graph.network(sn.to_nir(net, x))(x)[0], expected)
            p.decay.data.fill_(0.95)


def test_an_integrator_that_rests_at_a_potential_of_its_own_leaves() -> None:
    torch.manual_seed(0)
    leak = some(-0.3, 0.3, 4)
    for cell in (
        norse.LICell(norse.LIParameters(v_leak=leak)),
        norse.LIBoxCell(norse.LIBoxParameters(v_leak=leak)),
        norse.LILinearCell(4, 4, norse.LIParameters(v_leak=leak)),
    ):
        net = norse.SequentialState(nn.Linear(5, 4), cell)
        x = spikes(30, 3, 5)
        with torch.no_grad():
            expected, _ = norse.Lift(net)(x)
            exported = sn.to_nir(net, x[0])
            torch.testing.assert_close(graph.network(exported)(x)[0], expected)
            torch.testing.assert_close(norse.Lift(sn.from_nir(exported))(x)[0], expected)
