"""SNU and sSNU as snnTorch neurons: the equations, and the host's conventions."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import snntorch
import torch
from torch import Tensor, nn

import snu_snntorch as st
from few import few_of
from snu_plugin import SNUConfig, snu_scan, snu_step

INPUT = torch.full((6, 1, 1), 0.6, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _instances_as_before() -> Iterator[None]:
    """Keep snnTorch's list of all neurons ever made from growing with the tests."""
    count = len(snntorch.SpikingNeuron.instances)
    yield
    del snntorch.SpikingNeuron.instances[count:]


def run(neuron: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Step a neuron that is handed its states; returns all outputs and potentials."""
    outputs, potentials = [], []
    states: tuple[Tensor, ...] = ()
    for x_t in x:
        spk, mem = neuron(x_t, *states)
        states = (spk, mem) if isinstance(neuron, (st.RSNU, st.RsSNU, snntorch.RLeaky)) else (mem,)
        outputs.append(spk)
        potentials.append(mem)
    return torch.stack(outputs), torch.stack(potentials)


def gradients(neuron: nn.Module, weight: Tensor) -> list[float]:
    """Gradients of the summed output by weight, b = -threshold, and decay."""
    outputs = run(neuron.double(), INPUT * weight)[0]
    torch.autograd.backward(outputs.sum())
    beta, threshold = neuron.get_parameter("beta"), neuron.get_parameter("threshold")
    assert weight.grad is not None
    assert threshold.grad is not None
    assert beta.grad is not None
    return [weight.grad.item(), -threshold.grad.item(), beta.grad.item()]


def one() -> Tensor:
    return torch.ones((), dtype=torch.float64, requires_grad=True)


def exact(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_an_snu_has_the_published_states_and_outputs() -> None:
    spk, mem = run(st.SNU(beta=exact(0.8)), INPUT)
    assert spk.flatten().tolist() == [0, 1, 0, 1, 0, 1]
    expected = torch.tensor([0.6, 1.08] * 3, dtype=torch.float64)
    torch.testing.assert_close(mem.flatten(), expected)


def test_an_ssnu_has_the_published_states_and_outputs() -> None:
    spk, mem = run(st.sSNU(beta=exact(0.8)), INPUT)
    s = [0.6, 0.887370, 0.974916, 0.994857, 0.998966, 0.999793]
    y = [0.401312, 0.471872, 0.493729, 0.498714, 0.499742, 0.499948]
    for actual, expected in ((mem, s), (spk, y)):
        wanted = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(actual.flatten(), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("kind", "detach_reset", "expected"),
    [
        (st.SNU, False, [2.543846, 3.276475, 0.722451]),
        (st.SNU, True, [4.759502, 5.547798, 1.788529]),
        (st.sSNU, False, [1.116963, 1.225776, 0.692971]),
    ],
)
def test_gradients_run_through_the_reset_unless_it_is_detached(
    kind: Any, detach_reset: bool, expected: list[float]
) -> None:
    learned = {"learn_beta": True, "learn_threshold": True}
    neuron = kind(beta=exact(0.8), threshold=exact(1.0), detach_reset=detach_reset, **learned)
    assert gradients(neuron, one()) == pytest.approx(expected, abs=1e-6)


def test_the_step_is_strict_and_its_slope_is_the_published_one() -> None:
    distance = torch.tensor([0.0, 0.5, 1.0, 2.0, -0.5, -1.0, -2.0], dtype=torch.float64)
    x = (1 + distance)[None].requires_grad_()
    spk, _ = st.SNU()(x)
    spk.sum().backward()
    assert spk.tolist() == [[0, 1, 1, 1, 0, 0, 0]]
    slopes = [1, 0.786448, 0.419974, 0.070651, 0.786448, 0.419974, 0.070651]
    assert x.grad is not None
    assert x.grad.flatten().tolist() == pytest.approx(slopes, abs=1e-6)


@pytest.mark.parametrize(
    ("g", "states"),
    [("leaky_relu", [-0.1, 0.42, 1.336, 1.0]), ("relu", [0.0, 0.5, 1.4, 1.0])],
)
def test_the_state_activation_acts_on_the_potential(g: str, states: list[float]) -> None:
    x = torch.tensor([-1.0, 0.5, 1.0, 1.0], dtype=torch.float64).reshape(4, 1, 1)
    spk, mem = run(st.SNU(beta=exact(0.8), g=g, slope=0.1), x)
    assert mem.flatten().tolist() == pytest.approx(states, abs=1e-6)
    assert spk.flatten().tolist() == [0, 0, 1, 0]


def two_units() -> list[list[list[float]]]:
    neuron = st.RSNU(linear_features=2, beta=exact(0.8)).double()
    row_is_receiver = torch.tensor([[0.5, 0.25], [-1.0, 0.0]], dtype=torch.float64)
    neuron.recurrent.weight.data.copy_(row_is_receiver)
    x = (1.2 * torch.tensor([1.0, 0.4], dtype=torch.float64)).expand(5, 1, 2)
    return [part[:, 0].T.tolist() for part in run(neuron, x)]


def test_recurrent_weights_act_on_the_last_outputs() -> None:
    spk, mem = two_units()
    assert mem[0] == pytest.approx([1.2, 1.7, 1.7, 1.7, 1.7], abs=1e-6)
    assert mem[1] == pytest.approx([0.48, -0.136, -0.6288, -1.02304, -1.338432], abs=1e-6)
    assert spk == [[1.0] * 5, [0.0] * 5]


def test_lateral_inhibition_resets_every_unit_of_a_sample_and_of_no_other() -> None:
    x = (1.2 * torch.tensor([1.0, 0.4], dtype=torch.float64)).expand(5, 1, 2)
    _, mem = run(st.SNU(beta=exact(0.8)), x)
    assert mem[:, 0, 1].tolist() == pytest.approx([0.48, 0.864, 1.1712, 0.48, 0.864], abs=1e-6)
    inhibited = st.SNU(beta=exact(0.8), lateral_inhibition="sample")
    assert run(inhibited, x)[1][:, 0, 1].tolist() == pytest.approx([0.48] * 5, abs=1e-6)
    torch.manual_seed(0)
    both = 2 * torch.rand(20, 2, 5)
    together = run(st.SNU(lateral_inhibition="sample"), both)
    apart = [run(st.SNU(lateral_inhibition="sample"), part) for part in (both[:, :1], both[:, 1:])]
    for all_at_once, parts in zip(together, zip(*apart, strict=True), strict=True):
        assert torch.equal(all_at_once, torch.cat(parts, dim=1))


def test_spikes_and_states_are_those_of_leaky_that_resets_to_zero() -> None:
    torch.manual_seed(0)
    x = torch.rand(200, 4, 30)
    for beta in (0.0, 0.37, 0.9, 1.0):
        leaky = snntorch.Leaky(beta=beta, reset_mechanism="zero")
        for actual, expected in zip(run(st.SNU(beta=beta), x), run(leaky, x), strict=True):
            assert torch.equal(actual, expected)


def test_leaky_with_the_papers_surrogate_has_the_gradients_of_a_detached_reset() -> None:
    learned: dict[str, Any] = {"learn_beta": True, "learn_threshold": True}
    leaky = snntorch.Leaky(
        beta=exact(0.8), threshold=exact(1.0), spike_grad=st.SNU().spike_grad,
        reset_mechanism="zero", **learned,
    )  # fmt: skip
    snu = st.SNU(beta=exact(0.8), threshold=exact(1.0), detach_reset=True, **learned)
    expected = [4.759502, 5.547798, 1.788529]
    assert gradients(leaky, one()) == pytest.approx(expected, abs=1e-6)
    assert gradients(snu, one()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", [st.SNU, st.sSNU])
@pytest.mark.parametrize("g", ["identity", "relu", "leaky_relu"])
def test_a_neuron_stepped_by_hand_equals_the_reference(kind: Any, g: str) -> None:
    torch.manual_seed(0)
    beta, threshold = torch.rand(5), torch.rand(5)
    x = 2 * torch.randn(30, 3, 5)
    neuron = kind(beta=beta, threshold=threshold, g=g)
    config = SNUConfig(g=g, soft=kind is st.sSNU)  # type: ignore[arg-type]
    expected, last = snu_scan(x, config, decay=beta, threshold=threshold, impl="reference")
    spk, mem = run(neuron, x)
    assert torch.equal(spk, expected)
    assert torch.equal(mem[-1], last.s)


@pytest.mark.parametrize("kind", [st.RSNU, st.RsSNU])
def test_a_recurrent_neuron_equals_the_reference(kind: Any) -> None:
    torch.manual_seed(0)
    x = 2 * torch.rand(30, 3, 5)
    neuron = kind(linear_features=5)
    weight = neuron.recurrent.weight.detach()
    state, expected = None, []
    for x_t in x:
        y, state = snu_step(x_t, state, neuron.config, decay=neuron.beta, recurrent=weight)
        expected.append(y)
    assert torch.equal(run(neuron, x)[0], torch.stack(expected))


def test_one_to_one_recurrence_is_a_diagonal() -> None:
    torch.manual_seed(0)
    x, v = torch.rand(30, 3, 4), torch.randn(4)
    diagonal = st.RSNU(linear_features=4)
    diagonal.recurrent.weight.data.copy_(torch.diag(v))
    expected = run(diagonal, x)[0]
    assert torch.equal(run(st.RSNU(V=v, all_to_all=False), x)[0], expected)
    assert not st.RSNU(V=v, all_to_all=False, learn_recurrent=False).V.requires_grad
    assert not st.RSNU(linear_features=4, learn_recurrent=False).recurrent.weight.requires_grad


def test_a_potential_that_was_changed_decides_the_reset_anew() -> None:
    x = torch.full((1, 1), 0.6)
    for change in (lambda mem: mem.fill_(0.5), lambda mem: torch.full_like(mem, 0.5)):
        neuron = st.SNU()
        mem = change(neuron(2 * x)[1])
        assert neuron(x, mem)[1].item() == pytest.approx(0.6 + 0.8 * 0.5)


def test_states_cut_from_their_gradients_in_place_stay_cut() -> None:
    neuron = st.SNU(init_hidden=True, learn_threshold=True)
    for _ in range(3):
        x = torch.rand(2, 3, requires_grad=True)
        neuron(x).sum().backward()
        neuron.mem.detach_()
    with torch.inference_mode():
        for _ in range(3):
            neuron(torch.rand(2, 3))


def test_the_call_conventions_are_those_of_leaky() -> None:
    x = torch.ones(2, 3)
    for kind in (st.SNU, st.sSNU):
        spk, mem = kind()(x)
        assert kind(init_hidden=True)(x).equal(spk)
        both = kind(init_hidden=True, output=True)(x)
        assert both[0].equal(spk)
        assert both[1].equal(mem)
        with pytest.raises(TypeError, match="init_hidden=True"):
            kind(init_hidden=True)(x, mem)
    recurrent = st.RSNU(linear_features=3, init_hidden=True)
    assert recurrent(x).shape == (2, 3)
    with pytest.raises(TypeError, match="init_hidden=True"):
        recurrent(x, x, x)


def test_states_and_checkpoints_have_the_names_of_leaky() -> None:
    names = set(snntorch.Leaky(beta=0.9).state_dict())
    assert set(st.SNU().state_dict()) == names
    assert set(st.sSNUSequence().state_dict()) == names
    recurrent = set(snntorch.RLeaky(beta=0.9, linear_features=2).state_dict())
    assert set(st.RSNU(linear_features=2).state_dict()) == recurrent - {"recurrent.bias"}
    assert dict(st.SNU().named_buffers()).keys() >= {"mem"}
    assert dict(st.RSNU(linear_features=2).named_buffers()).keys() >= {"mem", "spk"}


def test_a_checkpoint_of_leaky_is_taken_over_only_if_it_resets_to_zero() -> None:
    beta = torch.rand(4)
    snu = st.SNU(beta=torch.zeros(4))
    snu.load_state_dict(snntorch.Leaky(beta=beta, reset_mechanism="zero").state_dict())
    assert torch.equal(snu.beta, beta)
    with pytest.raises(ValueError, match="reset_mechanism is 'subtract'"):
        snu.load_state_dict(snntorch.Leaky(beta=beta / 2).state_dict())
    weights = snntorch.Leaky(beta=beta / 2).state_dict()
    del weights["reset_mechanism_val"]  # as the error says
    snu.load_state_dict(weights, strict=False)
    assert torch.equal(snu.beta, beta / 2)
    with pytest.raises(ValueError, match="reset_mechanism is 'none'"):
        snu.reset_mechanism = "none"


@pytest.mark.parametrize(
    ("host", "own", "reason"),
    [
        (snntorch.RLeaky(0.9, linear_features=3, reset_mechanism="zero"),
         st.RSNU(linear_features=3), "recurrent.bias is an RLeaky's, .* bias of the layer before"),
        (snntorch.RLeaky(0.9, all_to_all=False, reset_mechanism="zero"),
         st.RSNU(all_to_all=False), "recurrent.V is an RLeaky's, .* reset_delay=False"),
        (snntorch.RLeaky(0.9, linear_features=3), st.RSNU(linear_features=3), "is 'subtract'"),
        (snntorch.Synaptic(0.9, 0.8, reset_mechanism="zero"), st.SNU(), "alpha is .* synaptic"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("strict", [True, False])
def test_checkpoints_of_neurons_that_compute_something_else_are_refused_with_the_reason(
    host: nn.Module, own: nn.Module, reason: str, strict: bool
) -> None:
    with pytest.raises(ValueError, match=reason):
        own.load_state_dict(host.state_dict(), strict=strict)
    with pytest.raises(ValueError, match=f"0.{reason}" if "is '" not in reason else reason):
        nn.Sequential(own).load_state_dict(nn.Sequential(host).state_dict(), strict=strict)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"linear_features": 4}, (3, 4)),
        ({"conv2d_channels": 2, "kernel_size": (3, 5)}, (3, 2, 6, 6)),
        ({"all_to_all": False, "V": 0.5}, (3, 4)),
    ],
)
def test_a_recurrent_snu_fires_as_rleaky_that_resets_at_once_where_its_checkpoint_is_taken_over(
    settings: dict[str, Any], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    host = snntorch.RLeaky(
        beta=0.9, reset_mechanism="zero", reset_delay=False, init_hidden=True, **settings
    )
    state = host.state_dict()
    bias = state.pop("recurrent.bias", torch.zeros(1))
    state.pop("recurrent.V", None)
    neuron = st.RSNU(init_hidden=True, **settings)
    neuron.load_state_dict(state)
    spikes = []
    for x in torch.rand(30, *shape):
        drive = x + (bias[:, None, None] if len(shape) == 4 else bias)  # the layer before adds it
        spikes.append(neuron(drive))
        assert torch.equal(spikes[-1], host(x))
    assert 0.1 < torch.stack(spikes).mean() < 0.9


@pytest.mark.parametrize(
    ("own", "host"), [(st.SNU, snntorch.Leaky), (st.sSNU, snntorch.Leaky),
                      (st.RSNU, snntorch.RLeaky), (st.RsSNU, snntorch.RLeaky)],
)  # fmt: skip
def test_every_method_of_the_hosts_neuron_is_there_and_takes_the_same_arguments(
    own: type, host: type
) -> None:
    for name in dir(host):
        if not name.startswith("_") and callable(getattr(host, name)):
            expected = list(inspect.signature(getattr(host, name)).parameters)
            assert list(inspect.signature(getattr(own, name)).parameters) == expected, name


def hidden(kind: Callable[..., nn.Module]) -> nn.Module:
    recurrent = {"linear_features": 3} if kind in (st.RSNU, st.RsSNU) else {}
    return kind(init_hidden=True, learn_beta=True, learn_threshold=True, **recurrent)


@pytest.mark.parametrize("kind", [st.SNU, st.sSNU, st.RSNU, st.RsSNU])
def test_copies_pickles_and_casts_keep_parameters_and_states(kind: Any) -> None:
    neuron = hidden(kind)
    x = torch.rand(2, 3, requires_grad=True)
    neuron(x)
    file = io.BytesIO()
    torch.save(neuron, file)
    file.seek(0)
    copies = [
        copy.deepcopy(neuron),
        pickle.loads(pickle.dumps(neuron)),
        torch.load(file, weights_only=False),
    ]
    expected = neuron(x)
    for same in copies:
        assert not same.mem.requires_grad
        assert torch.equal(same(x), expected)
    fresh = hidden(kind)
    fresh.load_state_dict(neuron.state_dict())
    assert all(map(torch.equal, fresh.parameters(), neuron.parameters()))
    double = hidden(kind).double()
    assert double(x.double()).dtype == torch.float64


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("kind", few_of([st.SNU, st.sSNU, st.RSNU], st.SNU))
def test_a_compiled_neuron_computes_the_same(kind: Any) -> None:
    torch.manual_seed(0)
    neuron = hidden(kind)
    x = torch.rand(5, 2, 3)
    expected = [neuron(x_t).detach() for x_t in x]
    neuron.reset_mem()  # type: ignore[operator]
    compiled = torch.compile(neuron, backend="eager")
    for x_t, y in zip(x, expected, strict=True):
        assert torch.equal(compiled(x_t), y)
    torch.compiler.reset()


def test_a_trained_beta_stays_below_one_and_finds_back() -> None:
    neuron = st.SNU(beta=torch.tensor([0.5, 1.0]), learn_beta=True)
    with torch.no_grad():
        neuron.beta.copy_(torch.tensor([-0.5, 1.5]))
    assert neuron.decay[0] == 0
    assert neuron.decay[1] < 1
    torch.autograd.backward(neuron.decay.sum())
    assert neuron.beta.grad is not None
    assert neuron.beta.grad.tolist() == [0.0, 1.0]


def test_the_surrogates_of_snntorch_work_and_show_up_in_the_config() -> None:
    torch.manual_seed(0)
    x = 2 * torch.rand(10, 2, 3)
    surrogate = snntorch.surrogate.fast_sigmoid(slope=5)
    grads = []
    for neuron in (st.SNU(spike_grad=surrogate), st.SNUSequence(spike_grad=surrogate)):
        inputs = x.clone().requires_grad_()
        y = neuron(inputs) if isinstance(neuron, st.SNUSequence) else run(neuron, inputs)[0]
        y.square().sum().backward()
        grads.append(inputs.grad)
    torch.testing.assert_close(*grads)
    v = torch.randn(5, requires_grad=True)
    torch.autograd.backward(surrogate(v).sum())
    assert v.grad is not None
    assert torch.equal(st.SNU(spike_grad=surrogate).config.surrogate(v), v.grad)


def test_the_hosts_other_options_work() -> None:
    x = torch.tensor([[2.0, 3.0, 0.5]])
    with pytest.warns(UserWarning, match="Inhibition"):
        winner = st.SNU(inhibition=True)
    assert winner(x)[0].tolist() == [[0, 1, 0]]
    assert st.SNU(graded_spikes_factor=2.5)(x)[0].tolist() == [[2.5, 2.5, 0]]
    quantised = st.SNU(state_quant=torch.floor)
    assert quantised(x)[1].tolist() == [[2, 3, 0]]
    disabled = st.SNU(surrogate_disable=True)(x.requires_grad_())[0]
    assert not disabled.requires_grad


def test_a_neuron_tells_its_settings() -> None:
    config = st.SNU(beta=0.5, threshold=2, g="relu", learn_beta=True).config
    assert (config.decay, config.threshold, config.g, config.soft) == (0.5, 2.0, "relu", False)
    assert (config.learn_decay, config.learn_threshold) == (True, False)
    assert st.RsSNU(linear_features=1).config.soft
    assert repr(st.SNU(beta=torch.rand(3))) == "SNU(g=identity, beta=per neuron, threshold=1)"


@pytest.mark.parametrize("kind", [st.SNUSequence, st.sSNUSequence])
def test_a_sequence_at_once_equals_the_steps_and_goes_on_from_a_state(kind: Any) -> None:
    torch.manual_seed(0)
    x = 2 * torch.rand(20, 3, 5)
    step = {st.SNUSequence: st.SNU, st.sSNUSequence: st.sSNU}[kind](beta=0.7)
    layer = kind(beta=0.7, output=True, impl="reference")
    expected, potentials = run(step, x)
    spk, mem = layer(x)
    assert torch.equal(spk, expected)
    assert torch.equal(mem, potentials[-1])
    first, middle = layer(x[:9])
    second, end = layer(x[9:], middle)
    assert torch.equal(torch.cat((first, second)), expected)
    assert torch.equal(end, mem)
    assert torch.equal(kind(beta=0.7, impl="reference")(x), expected)
    fastest = kind(beta=0.7)(x)
    torch.testing.assert_close(fastest, expected)


def test_reset_zeroes_every_neuron_of_a_network_and_of_no_other() -> None:
    def states(net: nn.Module) -> list[Tensor]:
        return [b for name, b in net.named_buffers() if name.split(".")[-1] in ("mem", "spk")]

    def network() -> nn.Sequential:
        recurrent = st.RSNU(linear_features=3, threshold=0.5, init_hidden=True)
        inner = nn.Sequential(recurrent, nn.Identity())
        leaky = snntorch.Leaky(beta=0.5, init_hidden=True)
        return nn.Sequential(st.SNU(init_hidden=True), nn.Sequential(inner), leaky)

    net, other = network(), network()
    for each in (net, other):
        each(5 * torch.ones(2, 3))
        assert len(states(each)) == 4
    st.reset(net)
    assert not any(state.any() for state in states(net))
    assert all(state.any() for state in states(other))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: st.SNU(beta=1.2), ValueError, r"beta is 1\.2; it must lie in \[0, 1\]"),
        (lambda: st.SNU(beta=torch.tensor([0.5, -1.0])), ValueError, "beta is -1; it must lie"),
        (lambda: st.SNU(threshold=float("nan")), ValueError, "threshold is nan; it must be finite"),
        (lambda: st.SNU(g="tanh"), ValueError, "g is 'tanh'; it must be one of"),
        (lambda: st.SNU(reset_mechanism="subtract"), ValueError, "reset_mechanism is 'subtract'"),
        (lambda: st.sSNU(reset_delay=False), ValueError, "reset_delay is False; an SNU resets in"),
        (lambda: st.sSNU(spike_grad=torch.sigmoid), ValueError, "sSNU takes no spike_grad"),
        (lambda: st.RSNU(), ValueError, "linear_features is None, .* needs the first alone, or"),
        (lambda: st.RSNU(linear_features=2, all_to_all=False), ValueError, "V is what feeds back"),
        (lambda: st.RSNU(conv2d_channels=1), ValueError, "kernel_size None; all_to_all=True needs"),
        (lambda: st.RSNU(linear_features=2, kernel_size=3), ValueError, "kernel_size 3; all_to"),
        (lambda: st.RSNU(conv2d_channels=2, kernel_size=4), ValueError, "4; it must be odd"),
        (lambda: st.RSNU(graded_spikes_factor=2.0), TypeError, "graded"),  # type: ignore[call-arg]
        (lambda: st.SNUSequence(impl="cuda")(torch.ones(1, 1, 1)), LookupError, "impl is 'cuda'"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    build: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build()
