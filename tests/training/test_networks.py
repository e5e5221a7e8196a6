"""What the networks of the published tasks promise: one way to call them, seeded weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from snu_plugin import graph, simulators
from snu_plugin.accelerator import IDEAL, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.neuron import SNUConfig, SRCConfig
from snu_plugin.training.networks import (
    ConvLayer,
    Dropout,
    Kind,
    class_readout,
    convolutional,
    leaky_sum,
    network,
    skipping,
    spread_decays,
)

KINDS: tuple[Kind, ...] = ("snu", "ssnu", "src", "rnn", "lstm", "gru")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("readout", [True, False])
def test_every_unit_makes_networks_whose_halves_equal_the_whole(kind: Kind, readout: bool) -> None:
    net = network(kind, (5, 8, 6, 3), readout=readout, generator=Generator().manual_seed(0))
    x = torch.randn(20, 2, 5, generator=Generator().manual_seed(1)) + 1
    whole, last = net(x)
    assert whole.shape == (20, 2, 3)
    assert len(last) == (2 if readout else 3)
    first, state = net(x[:9])
    second, _ = net(x[9:], state)
    torch.testing.assert_close(torch.cat((first, second)), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_the_weights(kind: Kind) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        net = network(kind, (5, 8, 3), readout=True, generator=Generator().manual_seed(seed))
        return [p.detach() for p in net.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(0), weights(0), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights(0), weights(1), strict=True))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("snu", 26_638), ("ssnu", 26_638), ("rnn", 49_288), ("lstm", 157_288), ("gru", 121_288)],
)
def test_parameters_are_counted_as_published_for_snu(kind: Kind, expected: int) -> None:  # C14
    net = network(kind, (88, 150, 88), readout=True, generator=Generator())
    assert sum(p.numel() for p in net.parameters()) == expected


def test_recurrent_units_see_the_last_step() -> None:
    net = network("snu", (4, 6), recurrent=True, generator=Generator().manual_seed(0))
    assert {n: tuple(p.shape) for n, p in net.named_parameters()} == {
        "layers.0.weights.weight": (6, 4),
        "layers.0.unit.threshold": (6,),
        "layers.0.unit.recurrent": (6, 6),
    }


def test_recurrent_weights_of_gates_are_orthogonal() -> None:
    net = network("gru", (3, 5), generator=Generator().manual_seed(0))
    for gate in torch.split(net.layers[0].get_parameter("weight_hh_l0").detach(), 5):
        torch.testing.assert_close(gate @ gate.t(), torch.eye(5))


def test_settings_that_a_unit_does_not_take_are_refused() -> None:
    draw = Generator()
    with pytest.raises(ValueError, match="unit is 'lif'"):
        network("lif", (3, 4), generator=draw)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="recurrent=True"):
        network("gru", (3, 4), recurrent=True, generator=draw)
    for kind, config in (("lstm", SNUConfig()), ("src", SNUConfig()), ("snu", SRCConfig())):
        with pytest.raises(ValueError, match="does not take"):
            network(kind, (3, 4), config, generator=draw)  # type: ignore[arg-type]
    for sizes, readout in (((3,), False), ((3, 4), True), ((3, 0), False)):
        with pytest.raises(ValueError, match="sizes are"):
            network("snu", sizes, readout=readout, generator=draw)


@pytest.mark.parametrize("kind", ["snu", "ssnu"])
@torch.no_grad()
def test_convolutional_units_equal_a_loop_of_single_steps(kind: Kind) -> None:
    shape, maps = (2, 11), [ConvLayer(3, 4, 2), ConvLayer(5, 3)]
    config = SNUConfig(decay=0.7, g="leaky_relu")
    net = convolutional(kind, shape, maps, (6, 4), config, generator=Generator().manual_seed(0))
    x = 2 * torch.rand(7, 3, 2, 11, 11, generator=Generator().manual_seed(1))
    whole, last = net(x)
    assert [tuple(s.s.shape) for s in last] == [(3, 3, 4, 4), (3, 5, 2, 2), (3, 6), (3, 4)]
    layers = [
        (each.get_parameter("weights.weight"), each.get_parameter("unit.threshold"))
        for each in net.layers
    ]
    s = [torch.zeros_like(state.s) for state in last]
    y = [torch.zeros_like(state.s) for state in last]
    for x_t, expected in zip(x, whole, strict=True):
        given = x_t
        for i, (weight, threshold) in enumerate(layers):
            stride = maps[i].stride if i < 2 else 1
            drive = (
                F.conv2d(given, weight, stride=stride)
                if i < 2
                else F.linear(given.flatten(1), weight)
            )
            s[i] = F.leaky_relu(drive + 0.7 * s[i] * (1 - y[i]), 0.1)
            y[i] = torch.sigmoid(s[i] - threshold) if kind == "ssnu" else (s[i] > threshold).float()
            given = y[i]
        torch.testing.assert_close(given, expected)
    assert any(0 < float(state.detach().mean()) < 1 for state in y)


def test_convolutions_that_leave_nothing_or_have_no_units_are_refused() -> None:
    draw = Generator()
    with pytest.raises(ValueError, match="leaves nothing of a square of 3"):
        convolutional("snu", (1, 7), [ConvLayer(2, 5), ConvLayer(2, 4)], (3,), generator=draw)
    with pytest.raises(ValueError, match="convolutions are for snu and ssnu"):
        convolutional("lstm", (1, 7), [ConvLayer(2, 5)], (3,), generator=draw)
    with pytest.raises(ValueError, match="sizes are empty"):
        convolutional("snu", (1, 7), [ConvLayer(2, 5)], (), generator=draw)


@torch.no_grad()
def test_a_convolutional_network_leaves_through_nir_and_is_the_same() -> None:
    maps = [ConvLayer(2, 3, 2)]
    net = convolutional("snu", (1, 7), maps, (4,), generator=Generator().manual_seed(0))
    x = 8 * torch.rand(6, 2, 1, 7, 7, generator=Generator().manual_seed(1)) - 2
    g = graph.to_nir(net, sample=x, dt=2.0**-10)
    y, _ = graph.network(g)(x)
    assert 0 < float(y.mean()) < 1
    assert torch.equal(y, net(x)[0])


def test_the_class_readout_sums_each_class_and_takes_from_the_others() -> None:
    fixed = class_readout(3, 7)
    own = [[k % 3 == c for k in range(7)] for c in range(3)]
    expected = torch.tensor(own).float() * 1.1 - 0.1
    torch.testing.assert_close(fixed.weight, expected)
    assert not fixed.weight.requires_grad


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_the_leaky_sum_is_the_recursion(decay: float) -> None:
    y = torch.randn(30, 2, 3, generator=Generator().manual_seed(0), dtype=torch.float64)
    r = torch.zeros(2, 3, dtype=torch.float64)
    for y_t in y:
        r = decay * r + y_t
    torch.testing.assert_close(leaky_sum(y, decay), r)
    with pytest.raises(ValueError, match="decay is 2"):
        leaky_sum(y, 2)


def test_a_skipping_network_shows_input_and_layers_to_the_readout() -> None:
    net = skipping("ssnu", (5, 4, 3, 2), generator=Generator().manual_seed(0)).eval()
    x = torch.randn(6, 2, 5, generator=Generator().manual_seed(1))
    first, _ = net.layers[0](x)
    second, _ = net.layers[1](torch.cat([first, x], -1))
    y, state = net(x)
    assert torch.equal(y, net.gathered(torch.cat([first, second, x], -1)))
    begun, middle = net(x[:2])
    rest, last = net(x[2:], middle)
    torch.testing.assert_close(torch.cat([begun, rest]), y)
    torch.testing.assert_close(last[1].s, state[1].s)


@pytest.mark.parametrize("kind", ["snu", "ssnu"])
@torch.no_grad()
def test_a_skipping_network_leaves_through_nir_and_is_the_same_everywhere(kind: Kind) -> None:
    config = SNUConfig(g="relu", soft=kind == "ssnu", threshold=0.5)
    draw = Generator().manual_seed(0)
    net = skipping(kind, (5, 8, 7, 2), config, dropout=0.3, generator=draw).eval()
    spread_decays(net, 1.26, 50.0)
    x = torch.bernoulli(torch.full((25, 3, 5), 0.4), generator=draw)
    g = graph.to_nir(net)
    y, _ = graph.network(g)(x)
    expected, _ = net(x)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)  # sums in another order
    for name in ("snntorch", "norse"):
        seen = torch.from_numpy(simulators.adapter(name).simulate(g, x.numpy()))
        # A sigmoid of one step may round otherwise than that of a sequence.
        torch.testing.assert_close(seen, y, atol=1e-6 if kind == "ssnu" else 0, rtol=0)
    chip = Accelerator(compile(g, IDEAL), seed=0)
    chip.program()
    assert torch.equal(chip.run(x)[0], y)


def test_dropout_keeps_the_mean_and_rests_in_evaluation() -> None:
    drop = Dropout(0.3, Generator().manual_seed(0))
    x = torch.ones(100_000)
    kept = drop(x)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.7])
    sigma = (0.3 / 0.7 / len(x)) ** 0.5
    assert abs(float(kept.mean()) - 1) < 5 * sigma
    assert torch.equal(drop.eval()(x), x)


def test_decays_spread_over_time_constants_evenly_on_a_logarithmic_scale() -> None:
    net = network("ssnu", (2, 3, 1), readout=True, generator=Generator())
    spread_decays(net, 2.0, 32.0)
    unit = net.layers[0].get_submodule("unit")
    torch.testing.assert_close(unit.get_buffer("decay"), torch.tensor([0.5, 1 - 1 / 8, 1 - 1 / 32]))


@pytest.mark.parametrize(("ends", "told"), [((0.5, 2.0), "0.5"), ((3.0, 2.0), "order")])
def test_time_constants_out_of_range_are_refused(ends: tuple[float, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        spread_decays(network("ssnu", (2, 3), generator=Generator()), *ends)
