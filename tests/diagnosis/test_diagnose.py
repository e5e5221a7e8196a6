"""Why networks are silent, saturated or do not learn: broken ones, and healthy ones beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import nir
import norse.torch as norse
import numpy as np
import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snu_plugin as sp
import snu_snntorch as st
from snu_plugin.accelerator import IDEAL, Accelerator
from snu_plugin.compiler import compile

INPUTS = 10


class Looped(nn.Module):
    """Two layers of snnTorch's neurons with a loop over time."""

    def __init__(self, beta: float = 0.9, **neuron: object) -> None:
        super().__init__()
        self.fc1 = nn.Linear(INPUTS, 30)
        self.lif1 = snn.Leaky(beta, **neuron)
        self.fc2 = nn.Linear(30, 4)
        self.lif2 = snn.Leaky(beta, **neuron)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        seen = []
        for x_t in x:
            y, mem1 = self.lif1(self.fc1(x_t), mem1)
            y, mem2 = self.lif2(self.fc2(y), mem2)
            seen.append(y)
        return torch.stack(seen)


class Stacked(nn.Module):
    """Two layers of our own units, over whole sequences."""

    def __init__(self, first: sp.SNUConfig | None = None) -> None:
        super().__init__()
        self.fc1, self.snu1 = nn.Linear(INPUTS, 30), sp.SNU(30, first)
        self.fc2, self.snu2 = nn.Linear(30, 4), sp.SNU(4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.snu1(self.fc1(x))
        out: Tensor = self.snu2(self.fc2(y))[0]
        return out


def spikes(steps: int = 30) -> Tensor:
    return (
        torch.rand((steps, 3, INPUTS), generator=torch.Generator().manual_seed(1)) < 0.3
    ).float()


def pixels(steps: int = 20) -> Tensor:
    """Images from 0 to 1 that stay, most of them dark."""
    draw = torch.Generator().manual_seed(3)
    lit = torch.rand((6, INPUTS), generator=draw) < 0.4
    return (lit * torch.rand((6, INPUTS), generator=draw)).expand(steps, 6, INPUTS).contiguous()


def seeded(make: Callable[[], nn.Module], gain: float = 3.0) -> nn.Module:
    """Return a network with seeded weights, as large as makes it fire."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make()
    return scaled(net, gain, "")


@torch.no_grad()
def scaled(net: nn.Module, factor: float, name: str) -> nn.Module:
    for found, parameter in net.named_parameters():
        if found.startswith(name) and (name or parameter.dim() == 2):
            parameter.mul_(factor)
    return net


def a_graph(tau: float = 0.02, threshold: float = 1.0) -> nir.NIRGraph:
    draw, ones = np.random.default_rng(0), np.ones(20)
    nodes = {
        "in": nir.Input({"input": np.array([INPUTS])}),
        "fc": nir.Linear(draw.normal(size=(20, INPUTS))),
        "lif": nir.LIF(tau * ones, tau / 0.001 * ones, 0 * ones, threshold * ones),
        "out": nir.Output({"output": np.array([20])}),
    }
    edges = [("in", "fc"), ("fc", "lif"), ("lif", "out")]
    return nir.NIRGraph(nodes, edges)


def detached() -> nn.Module:
    class Detached(Looped):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    return Detached()


def steep() -> nn.Module:
    """A surrogate that is zero wherever a membrane does not lie on its threshold."""
    return Looped(spike_grad=snn.surrogate.fast_sigmoid(slope=1e12))


def biased_below() -> nn.Module:
    net = seeded(Looped)
    with torch.no_grad():
        net.get_parameter("fc2.bias").fill_(-50)
    return net


def kept_alive() -> nn.Module:
    """Biases alone have it fire, each neuron in its own time."""
    net = seeded(Looped, 1.0)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in ("fc1.bias", "fc2.bias"):
            net.get_parameter(name).uniform_(0.05, 0.3, generator=draw)
    return net


def one_constant() -> nn.Module:
    net = seeded(Looped)
    with torch.no_grad():
        net.get_parameter("fc1.weight").fill_(0.1)
    return net


def not_finite() -> nn.Module:
    net = seeded(Looped)
    with torch.no_grad():
        net.get_parameter("fc2.weight")[1, 2] = float("nan")
    return net


def step_by_step() -> nn.Module:
    return nn.Sequential(
        nn.Linear(INPUTS, 30), snn.Leaky(0.9, init_hidden=True),
        nn.Linear(30, 4), snn.Leaky(0.9, init_hidden=True, output=True),
    )  # fmt: skip


def of_norse() -> nn.Module:
    cells = norse.LIFCell(), norse.LIFCell()
    net: nn.Module = norse.SequentialState(
        nn.Linear(INPUTS, 30), cells[0], nn.Linear(30, 4), cells[1]
    )
    return net


BROKEN: dict[str, tuple[Callable[[], nn.Module], Tensor, str, str]] = {
    "small weights": (
        lambda: scaled(seeded(Looped), 0.01, "fc1"), spikes(), "threshold out of reach", "lif1",
    ),
    "weights of zero": (
        lambda: scaled(seeded(Stacked), 0.0, "fc2"), spikes(), "no input", "snu2",
    ),
    "a bias that holds down": (biased_below, spikes(), "threshold out of reach", "lif2"),
    "large weights": (
        lambda: nn.Sequential(Positive(INPUTS, 30, 5.0), snn.Leaky(0.9, init_hidden=True)),
        spikes(), "too much drive", "1",
    ),
    "images from 0 to 255": (
        lambda: nn.Sequential(Positive(INPUTS, 30, 0.01), snn.Leaky(0.9, init_hidden=True)),
        255 * torch.ones(20, 2, INPUTS), "scale of inputs", "inputs",
    ),
    "inputs of a thousandth": (
        lambda: scaled(seeded(Looped), 0.0, "fc1.bias"), 0.001 * spikes(), "scale of inputs",
        "inputs",
    ),
    "inputs lost beside the biases": (
        lambda: seeded(Looped), 1e-6 * spikes(), "inputs without effect", "inputs",
    ),
    "no inputs": (lambda: seeded(Looped), 0 * spikes(), "no input", "inputs"),
    "a negative threshold": (
        lambda: seeded(lambda: Stacked(sp.SNUConfig(threshold=-50.0))), spikes(),
        "threshold below rest", "snu1",
    ),
    "no memory": (lambda: seeded(lambda: Looped(beta=0.0)), spikes(), "no memory", "lif1"),
    "outputs detached": (lambda: seeded(detached), spikes(), "no gradient", "outputs"),
    "a surrogate too steep": (lambda: seeded(steep), spikes(), "vanishing gradient", "fc1.weight"),
    "pixels that were never scaled, weights of both signs": (
        lambda: seeded(Looped), 255 * pixels(), "scale of inputs", "inputs",
    ),
    "the same, in Norse": (
        lambda: seeded(of_norse, 20.0), 255 * pixels(), "scale of inputs", "inputs",
    ),
    "weights of both signs, far too large": (
        lambda: scaled(seeded(Looped), 30.0, "fc1"), spikes(), "too much drive", "lif1",
    ),
    "a time constant of many sequences": (
        lambda: seeded(lambda: Looped(beta=0.9999)), spikes(40), "time step", "lif1",
    ),
    "inputs of a ten thousandth, biases that keep it alive": (
        kept_alive, 1e-4 * pixels(), "inputs without effect", "inputs",
    ),
    "a second layer that its bias alone drives": (
        lambda: scaled(kept_alive(), 1e-4, "fc2.weight"), 3 * spikes(), "inputs without effect",
        "lif2",
    ),
    "a threshold of zero": (
        lambda: seeded(lambda: Looped(threshold=0.0)), spikes(), "threshold below rest", "lif1",
    ),
    "fewer steps than a spike needs": (
        lambda: seeded(lambda: Stacked(sp.SNUConfig(decay=0.9)), 0.8), 0.5 * pixels()[:3],
        "too few steps", "snu1",
    ),
    "weights that are one constant": (
        lambda: nn.Sequential(Positive(INPUTS, 30, 0.05), snn.Leaky(0.9, init_hidden=True)),
        spikes(), "neurons alike", "1",
    ),
    "one constant, and biases that differ": (
        one_constant, spikes(), "neurons alike", "lif1",
    ),
    "a weight that is NaN": (not_finite, spikes(), "not finite", "fc2.weight"),
    "Norse, weights too small": (
        lambda: scaled(seeded(of_norse, 20.0), 0.001, "0"), spikes(), "threshold out of reach", "1",
    ),
}  # fmt: skip


class Positive(nn.Linear):
    """A layer whose weights and biases are all the same, and positive."""

    def __init__(self, inputs: int, outputs: int, value: float) -> None:
        super().__init__(inputs, outputs)
        with torch.no_grad():
            self.weight.fill_(value)
            self.bias.fill_(value)


@pytest.mark.parametrize("name", BROKEN)
def test_the_cause_is_named_first(name: str) -> None:
    make, x, cause, where = BROKEN[name]
    net = make()
    found = sp.diagnose(net, x)
    assert found
    first = found.findings[0]
    assert (first.cause, first.where) == (cause, where), str(found)
    assert first.remedy in str(found).splitlines()[0]


HEALTHY: dict[str, Callable[[], nn.Module]] = {
    "snnTorch, a loop over time": lambda: seeded(Looped),
    "snnTorch, a step a call": lambda: seeded(step_by_step),
    "Norse, a step a call": lambda: seeded(of_norse, 20.0),
    "our own units": lambda: seeded(Stacked),
    "soft units": lambda: seeded(lambda: Stacked(sp.SNUConfig(g="relu", decay=0.7)), 4.0),
}


def test_of_a_network_that_has_learned_nothing_is_said_of_all_inputs_or_of_one() -> None:
    net, x, labels = seeded(Looped), pixels(10), torch.arange(6) % 4
    learned = list(net.parameters())
    for _ in range(40):
        slopes = torch.autograd.grad(F.cross_entropy(net(x).sum(0), labels), learned)
        with torch.no_grad():
            for parameter, slope in zip(learned, slopes, strict=True):
                parameter.sub_(0.02 * slope.sign())
    assert (net(x).sum(0).argmax(1) == labels).all()
    for given in (x, x[:, :1]):
        found = sp.diagnose(net, given)
        assert not found, str(found)


class Pooled(nn.Module):
    """Pools drives in front of neurons, as snnTorch's tutorial 6 does and NIR cannot say."""

    def __init__(self, **last: object) -> None:
        super().__init__()
        self.conv1, self.lif1 = nn.Conv2d(1, 6, 3), snn.Leaky(0.9, threshold=0.5)
        self.fc1, self.lif2 = nn.Linear(54, 4), snn.Leaky(0.9, **last)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        seen = []
        for x_t in x:
            y, mem1 = self.lif1(F.max_pool2d(self.conv1(x_t), 2), mem1)
            y, mem2 = self.lif2(self.fc1(y.flatten(1)), mem2)
            seen.append(y)
        return torch.stack(seen)


class Forgetful(Looped):
    """Makes its states in the loop, not before it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(Forgetful, self).forward(x_t[None]) for x_t in x])


@pytest.mark.parametrize(
    ("make", "factor", "named"),
    [
        (lambda: Pooled(threshold=0.3), 1, []),
        (lambda: Pooled(threshold=0.3), 255, [("scale of inputs", "inputs")]),
        (lambda: Pooled(threshold=90.0), 1, [("threshold out of reach", "lif2")]),
    ],
)
def test_of_a_model_that_nir_cannot_say_each_layer_is_looked_at(
    make: Callable[[], nn.Module], factor: float, named: list[tuple[str, str]]
) -> None:
    images = torch.rand((12, 9, 1, 8, 8), generator=torch.Generator().manual_seed(4))
    found = sp.diagnose(seeded(make, 1.0), factor * images)
    assert [(f.cause, f.where) for f in found.findings] == named, str(found)
    assert [layer.name for layer in found.layers] == ["lif1", "lif2"]


def test_states_that_are_made_anew_at_every_step_are_named() -> None:
    found = sp.diagnose(seeded(Forgetful), spikes())
    first = found.findings[0]
    assert (first.cause, first.where) == ("no memory", "lif1"), str(found)
    assert "made anew at every step" in first.found


def test_behind_a_silent_layer_nothing_more_is_said() -> None:
    net = seeded(Looped)
    with torch.no_grad():
        net.get_parameter("fc1.bias").fill_(-20)
        net.get_parameter("fc2.bias").fill_(0.3)
    found = [(f.cause, f.where) for f in sp.diagnose(net, spikes()).findings]
    assert found == [("threshold out of reach", "lif1")]


def test_a_loss_that_nothing_can_follow_is_named() -> None:
    frozen = seeded(Recorded).requires_grad_(False)
    found = sp.diagnose(frozen, spikes(), loss=of_spikes).findings
    assert [(f.cause, f.where) for f in found] == [("no gradient", "parameters")]
    counted = lambda found: found[0].sum(0).argmax(-1).float().mean()  # noqa: E731
    found = sp.diagnose(seeded(Recorded), spikes(), loss=counted).findings
    assert [(f.cause, f.where) for f in found] == [("no gradient", "outputs")]


@pytest.mark.parametrize("name", HEALTHY)
def test_of_a_healthy_network_nothing_is_said(name: str) -> None:
    net = HEALTHY[name]()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = sp.diagnose(net, spikes())
    assert not found, str(found)
    assert str(found).startswith("nothing found")
    assert len(found.layers) == 2
    assert all(0 < layer.rate < 1 for layer in found.layers)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_state_held_from_a_call_before_changes_nothing() -> None:
    net = seeded(step_by_step)
    fresh = sp.diagnose(net, spikes())
    net(5 * spikes()[0])
    assert sp.diagnose(net, spikes()) == fresh


class Recorded(Looped):
    """The same, which gives potentials as well."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        seen = []
        for x_t in x:
            y, mem1 = self.lif1(self.fc1(x_t), mem1)
            y, mem2 = self.lif2(self.fc2(y), mem2)
            seen.append((y, mem2))
        spikes, potentials = map(torch.stack, zip(*seen, strict=True))
        return spikes, potentials


def of_potentials(found: tuple[Tensor, Tensor]) -> Tensor:
    targets = torch.arange(3)
    return sum(F.cross_entropy(potential, targets) for potential in found[1])  # type: ignore[return-value]


def of_spikes(found: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(found[0].sum(0), torch.arange(3))


@pytest.mark.parametrize(
    ("reset", "loss", "named"),
    [
        ("zero", of_potentials, True),
        ("zero", of_spikes, False),
        ("zero", lambda found: of_spikes(found) + of_potentials(found), False),
        ("subtract", of_potentials, False),
        ("none", of_potentials, False),
    ],
)
def test_a_loss_on_potentials_that_a_spike_sets_back_is_named(
    reset: str, loss: Callable[[object], Tensor], named: bool
) -> None:
    net = seeded(lambda: Recorded(reset_mechanism=reset))
    found = [(f.cause, f.where) for f in sp.diagnose(net, spikes(), loss=loss).findings]
    assert found == [("membrane loss", "lif2")] * named


def test_of_a_network_that_makes_one_step_a_call_the_loss_takes_a_list() -> None:
    given = []

    def loss(found: list[tuple[Tensor, Tensor]]) -> Tensor:
        given.append([y.shape for y, _ in found])
        return sum(mem.square().mean() for _, mem in found)  # type: ignore[return-value]

    neuron = {"init_hidden": True, "reset_mechanism": "zero"}
    net = nn.Sequential(
        nn.Linear(INPUTS, 30), snn.Leaky(0.9, **neuron),
        nn.Linear(30, 4), snn.Leaky(0.9, output=True, **neuron),
    )  # fmt: skip
    found = sp.diagnose(seeded(lambda: net), spikes(), loss=loss)
    assert ("membrane loss", "3") in [(f.cause, f.where) for f in found.findings]
    assert given[0] == [(3, 4)] * 30


@pytest.mark.parametrize(
    ("net", "loss", "said"),
    [
        (Looped(), 3, "loss is int and net is Looped; loss is a function of what a torch model"),
        (Looped(), lambda found: found, r"returned Tensor of shape \(30, 3, 4\); .* one number"),
        (Looped(), lambda found: 1.0, "loss returned float; it must return one number"),
    ],
)
def test_a_loss_that_is_none_is_refused_in_one_line(
    net: nn.Module, loss: object, said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        sp.diagnose(net, spikes(), loss=loss)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="net is NIRGraph"):
        sp.diagnose(a_graph(), spikes(), loss=of_spikes)


def test_a_graph_is_diagnosed_with_and_without_inputs() -> None:
    assert not sp.diagnose(a_graph(), spikes(), dt=0.001)
    drawn = sp.diagnose(a_graph(), dt=0.001)
    assert not drawn
    assert "seeded" in drawn.inputs
    high = sp.diagnose(a_graph(threshold=1e6), spikes(), dt=0.001)
    assert [f.cause for f in high.findings] == ["threshold out of reach"]


def test_resets_that_became_wires_are_no_parameters_without_a_gradient() -> None:
    g = st.to_nir(seeded(Looped), spikes())
    assert any(name.endswith(".reset") for name in g.nodes)
    found = sp.diagnose(g, spikes())
    assert not found, str(found)


def test_a_parameter_of_a_graph_is_called_by_its_node() -> None:
    g = a_graph()
    first = next(name for name, node in g.nodes.items() if hasattr(node, "weight"))
    g.nodes[first].weight = g.nodes[first].weight * 1e-12
    g.nodes["back"] = nir.Scale(np.full(len(g.nodes[first].weight), 1e12))
    behind = next(one for one in g.edges if one[0] == first)
    g.edges = [one for one in g.edges if one != behind] + [(first, "back"), ("back", behind[1])]
    named = {f.where for f in sp.diagnose(g, spikes(), dt=0.001).findings if "gradient" in f.cause}
    assert named == {"back.scale"}


def test_a_time_step_in_another_unit_than_the_time_constants_is_named() -> None:
    milliseconds = a_graph(tau=20.0)
    milliseconds.nodes["lif"].r = np.ones(20)
    found = sp.diagnose(milliseconds, spikes(), dt=0.001)
    assert [f.cause for f in found.findings] == ["time step"]
    assert "20,000 steps" in found.findings[0].found


def test_converters_that_saturate_and_layers_silent_on_a_chip_are_named() -> None:
    narrow = replace(IDEAL, adc_bits=6, adc_bound=0.5)
    chip = Accelerator(compile(a_graph(), narrow, dt=0.001), seed=0)
    chip.program()
    found = sp.diagnose(chip, spikes())
    assert [(f.cause, f.where) for f in found.findings] == [("saturated converter", "fc")]
    healthy = Accelerator(compile(a_graph(), IDEAL, dt=0.001), seed=0)
    healthy.program()
    assert not sp.diagnose(healthy, spikes())
    assert [f.cause for f in sp.diagnose(healthy, 0 * spikes()).findings] == ["silent on the chip"]


def test_a_diagnosis_is_a_value_that_json_can_hold() -> None:
    found = sp.diagnose(scaled(seeded(Looped), 0.01, "fc1"), spikes())
    answer = json.loads(json.dumps(found.to_dict()))
    assert answer["findings"][0]["cause"] == "threshold out of reach"
    assert answer["layers"][0] == {
        "name": "lif1", "neurons": 30, "rate": 0.0, "silent": 1.0, "always": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("net", "x", "said"),
    [
        ("a path", spikes(), "net is str; give a torch module, a nir.NIRGraph, or a chip"),
        (nn.Linear(INPUTS, 3), [1.0], "x is list; it must be a tensor"),
        (nn.Linear(INPUTS, 3), torch.ones(3), "x has shape"),
        (nn.Linear(INPUTS, 3), spikes() * float("nan"), "900 values that are not finite"),
        (nn.Linear(7, 3), spikes(), "takes neither x, .* nor a step of it"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused_in_one_line(net: object, x: object, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said) as refused:
        sp.diagnose(net, x)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("read", ["largest", "softmax", "all", "a step"])
def test_networks_that_give_potentials_alone_are_looked_at_by_their_neurons(read: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1 = (
                nn.Linear(6, 8, bias=False),
                snn.Leaky(0.9, reset_mechanism="zero"),
            )
            self.fc2, self.lif2 = nn.Linear(8, 3), snn.Leaky(0.9, reset_mechanism="zero")

        def forward(self, x: Tensor) -> Tensor:
            mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
            found = []
            for x_t in x:
                spk, mem1 = self.lif1(self.fc1(x_t), mem1)
                _, mem2 = self.lif2(self.fc2(spk), mem2)
                found.append(mem2)
            potentials = torch.stack(found)
            return {"largest": potentials.max(0)[0], "softmax": potentials.softmax(-1)}.get(
                read, potentials
            )

    torch.manual_seed(0)
    net, x = Net(), torch.rand(8, 2, 6)
    if read == "a step":
        net = nn.Sequential(net.fc1, snn.Leaky(0.9, init_hidden=True))  # type: ignore[assignment]
        net.append(nn.Linear(8, 3)).append(nn.Softmax(-1))  # type: ignore[operator]
    with torch.no_grad():
        next(net.parameters()).mul_(1e-3)
    found = sp.diagnose(net, x)
    assert found.findings[0].cause == "threshold out of reach"
    assert found.findings[0].where == ("1" if read == "a step" else "lif1")
    first, *_ = found.layers
    assert first.name == found.findings[0].where
