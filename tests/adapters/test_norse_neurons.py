"""SNU in Norse: the host's conventions, and the numbers of the reference."""

import copy
import inspect
import pickle
from itertools import pairwise
from pathlib import Path

import norse.torch as norse
import pytest
import torch
from norse.torch.functional.regularization import voltage_accumulator
from norse.torch.module.regularization import RegularizationCell
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import Tensor, nn

import snu_norse as sn
from snu_plugin import SNUConfig, snu_scan
from snu_plugin.neuron import tanh_derivative

CELLS = (sn.SNUCell, sn.sSNUCell)
RECURRENT = (sn.SNURecurrentCell, sn.sSNURecurrentCell)
LAYERS = (sn.SNU, sn.sSNU)
RECURRENT_LAYERS = (sn.SNURecurrent, sn.sSNURecurrent)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grid(*shape: int, seed: int = 0) -> Tensor:
    """Multiples of 1/8: sums are exact, so states land on thresholds."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 13, shape, generator=generator) / 8


def parameters(**settings: object) -> sn.SNUParameters:
    return sn.SNUParameters(decay=noise(5, seed=7).sigmoid(), threshold=0.75, **settings)


def stepped(cell: nn.Module, x: Tensor) -> tuple[Tensor, sn.SNUState]:
    state, outputs = None, []
    for x_t in x:
        y, state = cell(x_t, state)
        outputs.append(y)
    assert state is not None
    return torch.stack(outputs), state


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_stepped_through_time_equals_the_reference(kind: type[sn.SNUCell]) -> None:
    cell, x = kind(parameters(g="leaky_relu")), noise(30, 3, 5)
    y, state = stepped(cell, x)
    expected, last = snu_scan(
        x, cell.config, decay=cell.p.decay, threshold=cell.p.threshold, impl="reference"
    )
    assert cell.config.soft == (kind is sn.sSNUCell)
    assert torch.equal(y, expected)
    assert torch.equal(state.s, last.s)


def test_the_published_trace_of_one_unit() -> None:
    p = sn.SNUParameters(torch.tensor(0.8).double(), torch.tensor(1.0).double())
    y, state = sn.SNU(p, record_states=True)(torch.full((6, 1, 1), 0.6, dtype=torch.float64))
    expected = torch.tensor([0.6, 1.08] * 3, dtype=torch.float64)
    torch.testing.assert_close(state.s.flatten(), expected, atol=1e-6, rtol=0)
    assert y.flatten().tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("detach", "expected"),
    [(False, (3.276475, 0.722451)), (True, (5.547798, 1.788529))],
)
def test_gradients_reach_threshold_and_decay(detach: bool, expected: tuple[float, float]) -> None:
    p = sn.SNUParameters(
        nn.Parameter(torch.tensor(0.8).double()),
        nn.Parameter(torch.tensor(1.0).double()),
        detach_reset=detach,
    )
    y, _ = sn.SNU(p)(torch.full((6, 1, 1), 0.6, dtype=torch.float64))
    y.sum().backward()
    assert p.threshold.grad is not None
    assert p.decay.grad is not None
    found = (-float(p.threshold.grad), float(p.decay.grad))  # the paper's b is -threshold
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("cell", "layer"), list(zip(CELLS, LAYERS, strict=True)))
def test_a_layer_over_time_equals_its_cell(cell: type[sn.SNUCell], layer: type[sn.SNU]) -> None:
    p, x = parameters(), noise(20, 4, 5)
    y, last = layer(p)(x)
    expected, expected_last = stepped(cell(p), x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(last.s, expected_last.s)


@pytest.mark.parametrize(("cell", "layer"), list(zip(RECURRENT, RECURRENT_LAYERS, strict=True)))
@pytest.mark.parametrize("autapses", [False, True])
def test_a_recurrent_layer_over_time_equals_its_cell(
    cell: type[sn.SNURecurrentCell], layer: type[sn.SNURecurrent], autapses: bool
) -> None:
    weights, p, x = (grid(5, 3), grid(5, 5, seed=1)), parameters(), grid(20, 4, 3, seed=2)
    y, last = layer(3, 5, p, *weights, autapses)(x)
    expected, expected_last = stepped(cell(3, 5, p, *weights, autapses), x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(last.s, expected_last.s)
    assert 0 < float(y.detach().mean()) < 1


def test_a_recurrent_weight_leads_from_its_column_to_its_row() -> None:
    h = torch.tensor([[0.0, 0.0], [-2.0, 0.0]])
    p = sn.SNUParameters(decay=0.0, threshold=0.5)
    cell = sn.SNURecurrentCell(2, 2, p, torch.eye(2), h)
    y, _ = stepped(cell, torch.ones(2, 1, 2))
    assert y.tolist() == [[[1, 1]], [[1, 0]]]


@pytest.mark.parametrize("kind", [sn.SNURecurrentCell, sn.SNURecurrent])
def test_autapses_are_absent_unless_asked_for_and_a_given_tensor_stays(kind: type) -> None:
    given = torch.ones(2, 2)
    x = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    p = sn.SNUParameters(decay=0.0, threshold=0.5)
    outputs = {}
    for autapses in (False, True):
        module = kind(2, 2, p, torch.eye(2), given, autapses)
        run = module(x)[0] if kind is sn.SNURecurrent else stepped(module, x)[0]
        outputs[autapses] = run[1, 0].tolist()
    assert outputs == {False: [0, 1], True: [1, 1]}
    assert torch.equal(given, torch.ones(2, 2))
    assert not given.requires_grad


def test_absent_autapses_get_no_gradient() -> None:
    layer = sn.sSNURecurrent(3, 4)
    layer(noise(5, 2, 3))[0].sum().backward()
    grad = layer.recurrent_weights.grad
    assert grad is not None
    assert torch.equal(grad.diagonal(), torch.zeros(4))
    assert (grad != 0).sum() == 12


@pytest.mark.parametrize("kind", [*LAYERS, *RECURRENT_LAYERS])
def test_two_segments_equal_the_whole(kind: type) -> None:
    layer = kind(parameters()) if kind in LAYERS else kind(5, 5, parameters())
    x = noise(21, 3, 5)
    whole, expected = layer(x)
    first, state = layer(x[:8])
    second, last = layer(x[8:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(last.s, expected.s)


@pytest.mark.parametrize("kind", [*LAYERS, *RECURRENT_LAYERS])
def test_nothing_remains_in_a_module_between_sequences(kind: type) -> None:
    layer = kind(parameters()) if kind in LAYERS else kind(5, 5, parameters())
    x = noise(9, 3, 5)
    assert torch.equal(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize("kind", [*LAYERS, *RECURRENT_LAYERS])
def test_recorded_states_are_those_of_every_step(kind: type) -> None:
    arguments = (parameters(),) if kind in LAYERS else (5, 5, parameters(), *[noise(5, 5)] * 2)
    layer, recording = kind(*arguments), kind(*arguments, record_states=True)
    x = grid(7, 2, 5)
    y, states = recording(x)
    assert states._asdict().keys() == {"s", "y"}
    assert states.s.shape == (7, 2, 5)
    for t in range(1, 8):
        torch.testing.assert_close(states.s[t - 1], layer(x[:t])[1].s)
    assert torch.equal(states.y, y)


def test_norses_own_loop_and_recording_work_on_our_step() -> None:
    p, x = parameters(), noise(9, 2, 5)
    cell = sn.SNUCell(p)
    loop = SNN(sn.snu_feed_forward_step, lambda x: cell.initial_state(x[0]), p, record_states=True)
    y, states = loop(x)
    expected, recorded = sn.SNU(p, record_states=True)(x)
    assert torch.equal(y, expected)
    assert torch.equal(states.s, recorded.s)


def test_cells_work_in_sequential_state_and_lift() -> None:
    torch.manual_seed(0)
    cells = (sn.SNUCell(parameters()), sn.sSNURecurrentCell(5, 4), sn.sSNUCell())
    net = norse.SequentialState(nn.Linear(3, 5), *cells)
    x = noise(11, 2, 3)
    y, state = norse.Lift(net)(x)
    expected = x @ net[0].weight.T + net[0].bias
    for cell in cells:
        expected, _ = stepped(cell, expected)
    torch.testing.assert_close(y, expected)
    assert net.stateful_layers == [False, True, True, True]
    assert [type(s).__name__ for s in state] == ["NoneType", "State", "State", "State"]


def test_layers_over_time_work_in_sequential_state() -> None:
    net = norse.SequentialState(
        norse.Lift(nn.Conv2d(1, 2, 3)), nn.Flatten(2), sn.SNU(), sn.SNURecurrent(18, 4)
    )
    x = noise(6, 2, 1, 5, 5)
    whole, _ = net(x)
    first, state = net(x[:2])
    second, _ = net(x[2:], state)
    assert whole.shape == (6, 2, 4)
    torch.testing.assert_close(torch.cat([first, second]), whole)


def test_a_cell_in_recurrent_sequential_feeds_back_its_output() -> None:
    p = sn.SNUParameters(decay=0.5, threshold=1.0)
    loop = norse.RecurrentSequential(sn.SNUCell(p))
    y, _ = norse.Lift(loop)(torch.full((4, 1, 1), 0.625))
    expected, _ = sn.SNURecurrent(1, 1, p, torch.ones(1, 1), torch.ones(1, 1), autapses=True)(
        torch.full((4, 1, 1), 0.625)
    )
    assert torch.equal(y, expected)
    assert y.flatten().tolist() == [0, 0, 1, 1]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own
def test_a_cell_compiles() -> None:
    cell = sn.sSNUCell(parameters())
    x = noise(2, 5)
    compiled = torch.compile(cell, backend="eager")
    y, state = compiled(x)
    assert torch.equal(compiled(x, state)[0], cell(x, cell(x)[1])[0])
    assert torch.equal(y, cell(x)[0])


def test_parameters_are_the_modules_own() -> None:
    cell = sn.SNUCell(parameters(learn_decay=True))
    assert set(cell.state_dict()) == {"p.decay", "p.threshold"}
    assert dict(cell.named_parameters()).keys() == {"p.decay", "p.threshold"}
    fixed = sn.SNUCell(parameters(learn_threshold=False))
    assert set(fixed.state_dict()) == {"p.decay", "p.threshold"}
    assert not list(fixed.parameters())
    assert cell.double().p.decay.dtype == torch.float64
    assert fixed.double().p.threshold.dtype == torch.float64
    assert fixed(noise(2, 5).double())[0].dtype == torch.float64


def test_parameters_move_with_the_module() -> None:
    layer = sn.SNURecurrent(3, 5, parameters()).to("meta")
    assert all(v.is_meta for v in layer.state_dict().values())
    assert layer(torch.empty(2, 1, 3, device="meta"))[0].is_meta


@pytest.mark.parametrize("kind", [*LAYERS, *RECURRENT_LAYERS, *CELLS, *RECURRENT])
def test_modules_survive_pickle_copy_save_and_state_dict(kind: type, tmp_path: Path) -> None:
    arguments = () if kind in LAYERS + CELLS else (5, 5)
    layer = kind(*arguments, p=parameters(g="relu", learn_decay=True))
    x = noise(6, 3, 5)
    torch.save(layer, tmp_path / "layer.pt")
    fresh = kind(*arguments, p=sn.SNUParameters(torch.full((5,), 0.5), g="relu", learn_decay=True))
    fresh.load_state_dict(layer.state_dict())
    for twin in (
        pickle.loads(pickle.dumps(layer)),
        copy.deepcopy(layer),
        torch.load(tmp_path / "layer.pt", weights_only=False),
        fresh,
    ):
        assert torch.equal(twin(x)[0], layer(x)[0])
        assert twin.state_fallback.__self__ is twin
        assert twin.p.threshold is not layer.p.threshold


def test_a_tensor_given_is_copied() -> None:
    threshold, w, h = torch.ones(5), torch.ones(5, 3), torch.ones(5, 5)
    layer = sn.SNURecurrentCell(3, 5, sn.SNUParameters(threshold=threshold), w, h)
    with torch.no_grad():
        for value in layer.parameters():
            value.zero_()
    assert all(bool(v.all()) for v in (threshold, w, h))


def test_a_parameter_given_is_the_parameter_used() -> None:
    threshold, w, h = (
        nn.Parameter(torch.ones(5)),
        nn.Parameter(noise(5, 3)),
        nn.Parameter(noise(5, 5)),
    )
    layer = sn.sSNURecurrent(3, 5, sn.SNUParameters(threshold=threshold), w, h)
    assert layer.p.threshold is threshold
    assert layer.input_weights is w
    assert layer.recurrent_weights is h
    hard = sn.SNUParameters(threshold=threshold)
    assert sn.sSNUCell(hard).p.threshold is threshold
    assert not hard.config.soft


def test_a_trained_decay_is_held_below_one_and_can_come_back() -> None:
    p = sn.SNUParameters(decay=1.0, learn_decay=True)
    layer = sn.sSNU(p)
    layer(torch.ones(4, 1, 1))[0].sum().backward()
    assert layer.p.decay.grad is not None
    assert float(layer.p.decay.grad) > 0
    with torch.no_grad():
        layer.p.decay.fill_(1.5)
        held, _ = layer(torch.ones(9, 1, 1))
        frozen, _ = layer.requires_grad_(False)(torch.ones(9, 1, 1))
        layer.p.decay.fill_(1 - 2**-24)
    assert torch.equal(frozen, held)
    assert torch.equal(held, layer(torch.ones(9, 1, 1))[0])


def test_a_tuple_in_norses_style_is_accepted() -> None:
    decay = nn.Parameter(torch.tensor(0.9))
    p = sn.SNUParametersTuple(decay=decay, threshold=torch.tensor(0.5))
    x = noise(8, 2, 3)
    y, _ = sn.SNU(p)(x)
    assert torch.equal(y, sn.SNU(sn.SNUParameters(0.9, 0.5))(x)[0])
    soft, _ = sn.sSNU(p)(x)
    soft.sum().backward()
    assert decay.grad is not None
    assert p.to(torch.float64).decay.dtype == torch.float64


def test_the_config_tells_what_was_given() -> None:
    surrogates = SNUConfig(surrogate=lambda v: tanh_derivative(2 * v))
    p = sn.SNUParameters(0.25, 2.0, g="relu", surrogate=surrogates.surrogate)
    config = sn.SNU(p).config
    assert (config.decay, config.threshold, config.g) == (0.25, 2.0, "relu")
    assert config.surrogate is surrogates.surrogate


def test_a_state_is_replaced_by_norses_names_as_by_ours() -> None:
    _, state = sn.SNUCell()(noise(3, 5))
    one = torch.ones(3, 5)
    assert state._replace(v=one) == state._replace(s=one) == (one, state.y)
    assert state._replace(v=one, z=one) == (one, one)
    with pytest.raises((TypeError, ValueError), match="u"):
        state._replace(u=one)


def test_initial_states_have_the_shape_of_one_step() -> None:
    assert sn.SNUCell().state_fallback(noise(2, 5)).s.shape == (2, 5)
    assert sn.SNU().state_fallback(noise(7, 2, 5)).s.shape == (2, 5)
    assert sn.SNURecurrentCell(5, 4).state_fallback(noise(2, 5)).s.shape == (2, 4)
    assert sn.SNURecurrent(5, 4).state_fallback(noise(7, 2, 5)).y.shape == (2, 4)


def test_weights_are_drawn_as_norse_draws_them() -> None:
    torch.manual_seed(0)
    ours = sn.SNURecurrentCell(3, 5, autapses=True)
    torch.manual_seed(0)
    theirs = norse.LIFRecurrentCell(3, 5, autapses=True)
    torch.testing.assert_close(ours.input_weights, theirs.input_weights)
    torch.testing.assert_close(ours.recurrent_weights, theirs.recurrent_weights)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sn.SNUParameters(decay=1.2), ValueError, r"decay is 1\.2; it must be"),
        (
            lambda: sn.SNUParameters(decay=torch.tensor([0.5, 1.2])),
            ValueError,
            r"p\.decay is \[0\.5, 1\.2.*every decay must be in \[0, 1\]",
        ),
        (
            lambda: sn.SNUParameters(threshold=torch.tensor([0.5, torch.nan])),
            ValueError,
            "every threshold must be finite",
        ),
        (
            lambda: sn.SNUParameters(decay=torch.ones(3, dtype=torch.int64)),
            TypeError,
            "floating point",
        ),
        (lambda: sn.SNUParameters(tau=3.0), TypeError, "tau"),
        (
            lambda: sn.SNUParameters(threshold=nn.Parameter(torch.ones(2)) * 2),
            ValueError,
            "threshold is computed from other tensors.*give an nn.Parameter",
        ),
        (
            lambda: sn.SNUCell(norse.LIFBoxParameters()),
            TypeError,
            "p is LIFBoxParameters; it must be SNUParameters",
        ),
        (lambda: sn.SNU(sn.SNUParameters(soft=True)), ValueError, "use sSNU"),
        (lambda: sn.SNURecurrentCell(0, 3), ValueError, "input_size is 0"),
        (
            lambda: sn.SNURecurrentCell(2, 3, input_weights=torch.ones(2, 3)),
            ValueError,
            r"input_weights has shape \(2, 3\); it must be \(3, 2\)",
        ),
        (
            lambda: sn.SNUFeedbackCell(sn.SNUParameters(), torch.ones(2, 3)),
            ValueError,
            r"recurrent_weights has shape \(2, 3\); it must be \(2, 2\)",
        ),
        (lambda: sn.SNU(impl="numbr")(noise(3, 2, 5)), LookupError, "impl is 'numbr'"),
    ],
)
def test_what_cannot_be_is_refused(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]


def test_segments_of_any_length_compose() -> None:
    layer, x = sn.SNURecurrent(5, 5, parameters()), noise(16, 2, 5)
    whole, _ = layer(x)
    state, parts = None, []
    for start, end in pairwise((0, 1, 1, 6, 16)):
        y, state = layer(x[start:end], state)
        parts.append(y)
    assert torch.equal(torch.cat(parts), whole)


def test_norses_tools_find_the_potential_as_v() -> None:
    x = grid(20, 3, 5)
    cell, counter = sn.SNUCell(parameters()), RegularizationCell(voltage_accumulator)
    state, seen = None, []
    for x_t in x:
        z, state = cell(x_t, state)
        _, total = counter(z, state)
        seen.append(state.v)
        assert state.v is state.s
        assert state._fields == ("s", "y")
    torch.testing.assert_close(total, torch.stack(seen).sum(0))
    _, recorded = sn.SNU(parameters(), record_states=True)(x)
    assert torch.equal(recorded.v, torch.stack(seen))
    _, cells = sn.SRC(record_states=True)(x)
    assert cells.v is cells.h


@pytest.mark.parametrize(
    ("own", "host"),
    [
        (sn.SNUCell, norse.LIFBoxCell),
        (sn.SNURecurrentCell, norse.LIFRecurrentCell),
        (sn.SNU, norse.LIF),
        (sn.SNURecurrent, norse.LIFRecurrent),
        (sn.SNUCell, SNNCell),
        (sn.SNURecurrentCell, SNNRecurrentCell),
        (sn.SNU, SNN),
        (sn.SNURecurrent, SNNRecurrent),
    ],
)
def test_the_arguments_are_norses_in_its_order(own: type, host: type) -> None:
    chosen = {"activation", "state_fallback", "activation_sparse"}  # what makes a neuron a SNU
    names = [
        name
        for name, parameter in inspect.signature(host).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD and name not in chosen
    ]
    assert list(inspect.signature(own).parameters)[: len(names)] == names
