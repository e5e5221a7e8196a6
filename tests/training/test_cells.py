"""What the Spiking Recurrent Cell promises: the published cell in every variant of its gate.

The numbers C16 to C19 are checks of docs/neurons.md#checks.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from snu_plugin.neuron import SRC, Gate, SRCConfig, SRCState, src_scan, src_step
from snu_plugin.training.networks import class_readout, leaky_sum, src_classifier

GATES: tuple[Gate, ...] = ("prev", "cur", "prev_hard", "cur_hard")
AT_REST = -0.902689
"""The solution of ``h = tanh((r + r_s) h + b)`` with the published values."""


def run(x: Tensor, gate: Gate = "prev", state: SRCState | None = None) -> tuple[Tensor, Tensor]:
    """Return h and h_s of every step, ``(T,)`` each, for one cell with input ``(T,)``."""
    config = SRCConfig(gate=gate)
    h, h_s = [], []
    for x_t in x:
        _, state = src_step(x_t.view(1, 1), state, config)
        h.append(state.h)
        h_s.append(state.h_s)
    return torch.cat(h).flatten(), torch.cat(h_s).flatten()


@pytest.mark.parametrize("gate", GATES)
def test_without_input_a_cell_comes_to_rest(gate: Gate) -> None:  # C16
    h, h_s = run(torch.zeros(60, dtype=torch.float64), gate)
    expected = torch.tensor(AT_REST, dtype=torch.float64)
    torch.testing.assert_close(h[-1], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(h_s[-1], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("gate", "h", "h_s"),
    [
        ("prev", (-0.4793, 0.7784, 0.9989, -1.0), (-0.9027, -0.8603, 0.6926, 0.9970, 0.7973)),
        ("prev_hard", (-0.4793, 0.7784), (-0.9027, -0.8603, 0.7784, 0.9989, 0.7990)),
        ("cur", (-0.4793, 0.7784, 0.8398), (-0.9027, -0.5014, 0.7412, 0.7510, 0.5759)),
        ("cur_hard", (-0.4793, 0.7784, 0.7877), (-0.9027, -0.4793, 0.7784, 0.7793, 0.6014)),
    ],
)
def test_a_constant_input_makes_a_resting_cell_spike_and_fall(  # C17
    gate: Gate, h: tuple[float, ...], h_s: tuple[float, ...]
) -> None:
    at_rest = torch.full((1, 1), AT_REST, dtype=torch.float64)
    state = SRCState(torch.zeros_like(at_rest), at_rest, at_rest)
    found, slow = run(torch.ones(5, dtype=torch.float64), gate, state)
    for values, expected in ((found, h), (slow, h_s)):
        wanted = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(values[: len(wanted)], wanted, atol=6e-5, rtol=0)


def test_the_first_steps_from_zero_are_the_published_ones() -> None:  # C18
    h, h_s = run(torch.ones(3, dtype=torch.float64))
    expected = torch.tensor([-0.999915, -0.999994, -0.999932], dtype=torch.float64)
    slow = torch.tensor([0.0, -0.099992, -0.189992], dtype=torch.float64)
    torch.testing.assert_close(h, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(h_s, slow, atol=1e-6, rtol=0)


def test_the_output_is_relu_with_a_gradient_everywhere() -> None:  # C19
    x = torch.linspace(-3, 9, 50, dtype=torch.float64).view(1, 50).requires_grad_()
    y, state = src_step(x, bias=torch.tensor(-1.0))
    assert torch.equal(y, state.h.clamp(min=0))
    assert (y == 0).any()
    assert (y > 0).any()
    through_y = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
    through_h = torch.autograd.grad(state.h.sum(), x)[0]
    assert torch.equal(through_y, through_h)
    assert (through_y[y == 0] > 0).all()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_no_update_lifts_a_bias_above_its_limit_and_all_find_back(  # C19
    optimizer: type[torch.optim.Optimizer],
) -> None:
    layer = SRC(4)
    steps = optimizer(layer.parameters(), lr=0.5)  # type: ignore[call-arg]
    for direction, updates in ((-1, 40), (1, 200)):
        for _ in range(updates):
            steps.zero_grad()
            (direction * layer.bias.sum()).backward()  # type: ignore[no-untyped-call]
            steps.step()
            assert (layer.bias <= -4).all()
        if direction == -1:
            assert torch.equal(layer.bias, torch.full((4,), -4.0))
    assert (layer.bias < -6).all()


@pytest.mark.parametrize("gate", GATES)
def test_two_halves_equal_the_whole(gate: Gate) -> None:
    x = torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(0)) + 1
    layer = SRC(5, SRCConfig(gate=gate))
    whole, last = layer(x)
    first, state = layer(x[:17])
    second, end = layer(x[17:], state)
    assert torch.equal(torch.cat((first, second)), whole)
    assert (whole > 0.5).any()
    for a, b in zip(end, last, strict=True):
        assert torch.equal(a, b)


def test_without_detaching_the_gradient_is_that_of_finite_differences() -> None:
    config = SRCConfig(detach=False, gate="cur")
    draw = torch.Generator().manual_seed(1)
    x = (torch.randn(6, 1, 2, generator=draw, dtype=torch.float64) + 1).requires_grad_()
    bias = torch.tensor([-6.0, -5.0], dtype=torch.float64, requires_grad=True)

    def potentials(x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        _, state = src_scan(x, config, bias=bias)
        return state.h, state.h_s

    assert torch.autograd.gradcheck(potentials, (x, bias))


def test_detached_the_gradient_runs_through_the_current_alone() -> None:
    x = torch.ones(3, 1, 1, dtype=torch.float64, requires_grad=True)
    _, state = src_scan(x, bias=torch.tensor(-1.0))
    (found,) = torch.autograd.grad(state.h.sum(), x)
    slope = (1 - state.h.detach() ** 2) * (1 - torch.tanh(state.i.detach() / 3) ** 2)
    expected = slope.flatten() * torch.tensor([0.81, 0.9, 1.0], dtype=torch.float64)
    torch.testing.assert_close(found.flatten(), expected)


def test_classifiers_shallow_and_deep_learn() -> None:
    draw = torch.Generator().manual_seed(0)
    rates = torch.rand((3, 16), generator=draw).round() * 0.5
    labels = torch.arange(15) % 3
    for sizes in ((16, 30, 3), (16, 30, 30, 30, 3)):
        net = src_classifier(sizes, generator=draw)
        learned = [p for p in net.parameters() if p.requires_grad]
        assert len(learned) == 2 * (len(sizes) - 2)
        optimizer = torch.optim.Adam(learned, lr=1e-2)
        losses = []
        for _ in range(40):
            spikes = torch.rand((30, 15, 16), generator=draw) < rates[labels]
            answer = leaky_sum(net(spikes)[0], 0.99)
            loss = torch.nn.functional.cross_entropy(answer, labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.5 * losses[0]


def test_the_read_out_starts_as_the_published_one_and_is_trained_where_asked_for() -> None:
    expected = class_readout(3, 7).weight
    assert torch.equal(expected[1], torch.tensor([-0.1, 1, -0.1, -0.1, 1, -0.1, -0.1]))
    for learn in (False, True):
        net = src_classifier((4, 7, 3), learn_readout=learn, generator=torch.Generator())
        readout = net.get_parameter("readout.weight")
        assert torch.equal(readout, expected)
        assert readout.requires_grad == learn


def test_a_layer_survives_copies_and_pickles() -> None:
    layer = SRC((2, 3), SRCConfig(gate="cur"))
    with torch.no_grad():
        layer.free_bias.uniform_(-7, -3)
    x = torch.rand(9, 2, 2, 3)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], layer(x)[0])
    fresh = SRC((2, 3), SRCConfig(gate="cur"))
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x)[0], layer(x)[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"gate": "next"},
        {"alpha": 1.1},
        {"z_hyp": -0.1},
        {"z": float("nan")},
        {"rho": 0.0},
        {"bias": -3.0},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        SRCConfig(**wrong)  # type: ignore[arg-type]


def test_wrong_shapes_and_types_are_refused() -> None:
    with pytest.raises(ValueError, match="features is"):
        SRC(0)
    with pytest.raises(ValueError, match="x has shape"):
        SRC(3)(torch.zeros(4, 2, 2))
    with pytest.raises(TypeError, match="floating point"):
        src_scan(torch.zeros(4, 2, 2, dtype=torch.int64))
    state = SRCState(*(torch.zeros(1, 2) for _ in range(3)))
    with pytest.raises(ValueError, match="state has shapes"):
        src_scan(torch.zeros(4, 2, 2), state=state)
