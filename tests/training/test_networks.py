"""What the networks of the published tasks promise: one way to call them, seeded weights."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from snu_plugin.neuron import SNUConfig
from snu_plugin.training.cells import SRCConfig
from snu_plugin.training.networks import Kind, class_readout, leaky_sum, network

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
