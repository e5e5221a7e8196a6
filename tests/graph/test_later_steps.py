"""Loops of which a later step, and layers of which a derived class, does something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from snu_plugin import SNU, SNUConfig
from snu_plugin.graph import network, to_nir
from snu_plugin.neuron import State


class Loop(nn.Module):
    """Two layers of units in a loop over time; a test replaces one of its small parts."""

    def __init__(self, **parts: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.u = nn.Linear(3, 4), SNU(4, SNUConfig(threshold=0.2))
        self.b, self.v = nn.Linear(4, 2), SNU(2, SNUConfig(threshold=0.2))
        self.other, self.back = nn.Linear(3, 4), nn.Linear(4, 4)
        self.parts = parts

    def part(self, name: str, default: Any, *arguments: Any) -> Any:
        return self.parts[name](self, *arguments) if name in self.parts else default

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.part("start", None, x), None
        spikes, outputs = None, []
        for t, x_t in enumerate(x):
            drive = self.part("drive", None, t, x_t, spikes)
            drive = self.a(x_t) if drive is None else drive
            spikes, first = self.u(drive[None], first)
            first = self.part("state", first, t, first)
            y, second = self.part("output", None, t, spikes, second) or self.v(
                self.b(spikes), second
            )
            outputs.append(y[0])
        return torch.stack(outputs)


class Whole(nn.Module):
    """A layer of units behind weights, over whole sequences."""

    def __init__(self, layer: nn.Module, unit: SNU | None = None) -> None:
        super().__init__()
        self.layer, self.unit = layer, unit or SNU(4, SNUConfig(threshold=0.2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.unit(self.layer(x))[0]
        return y


def data(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def same(model: nn.Module, x: Tensor) -> bool:
    with torch.no_grad():
        expected = model(x)
        actual, _ = network(to_nir(model, x))(x)
    return 0 < expected.mean() < 1 and torch.equal(actual, expected)


@pytest.mark.parametrize(
    "state",
    [
        lambda net, t, s: s,
        lambda net, t, s: State(s.s.detach(), s.y.clone()),
        lambda net, t, s: State(s.s.data, s.y[:]),
        lambda net, t, s: State(F.dropout(s.s, 0.5, net.training), s.y.contiguous()),
    ],
)
def test_a_loop_whose_states_go_in_as_they_came_out_leaves(state: Callable[..., State]) -> None:
    assert same(Loop(state=state).eval(), data(12, 2, 3))


def test_a_state_of_zeros_that_the_model_makes_is_where_a_graph_starts() -> None:
    def zeros(net: Loop, x: Tensor) -> State:
        return State(torch.zeros(x.shape[1], 4), x.new_zeros(x.shape[1], 4))

    assert same(Loop(start=zeros).eval(), data(12, 2, 3))


@pytest.mark.parametrize(
    "state",
    [
        lambda net, t, s: s._replace(s=0.5 * s.s),
        lambda net, t, s: s._replace(s=s.s.clamp(min=-1)),
        lambda net, t, s: s._replace(s=s.s + 0.1 * torch.randn_like(s.s)),
        lambda net, t, s: s._replace(s=s.s - s.y.mean(-1, keepdim=True)),
        lambda net, t, s: s._replace(y=torch.zeros_like(s.y)),
        lambda net, t, s: s._replace(s=torch.zeros_like(s.s)) if t == 5 else s,
        lambda net, t, s: State(s.y, s.s),
        lambda net, t, s: (s.s.mul_(0.5), s)[1],
        lambda net, t, s: (s.s.__setitem__((slice(None), 0), 1.0), s)[1],
        lambda net, t, s: (s.s.data.mul_(0.5), s)[1],
    ],
    ids=["scaled", "clamped", "noised", "inhibited", "no_reset", "zeroed_once", "swapped",
         "scaled_in_place", "written_to", "written_to_through_data"],
)  # fmt: skip
def test_a_state_that_the_model_changes_between_steps_is_refused(
    state: Callable[..., State],
) -> None:
    with pytest.raises(ValueError, match=r"'u': the state that goes into step \d is not as it"):
        to_nir(Loop(state=state), data(8, 2, 3))


def test_a_state_that_is_dropped_is_refused() -> None:
    model = Loop(state=lambda net, t, s: None if t == 2 else s)
    with pytest.raises(ValueError, match="'u' is called without its state in step 4"):
        to_nir(model, data(8, 2, 3))


def test_a_start_that_is_not_zero_is_refused() -> None:
    def learned(net: Loop, x: Tensor) -> State:
        return State(net.b.weight[:1].expand(x.shape[1], 4), torch.zeros(x.shape[1], 4))

    with pytest.raises(ValueError, match="'u': the state that the first step begins with is none"):
        to_nir(Loop(start=learned), data(8, 2, 3))


def feedback(net: Loop, t: int, x: Tensor, spikes: Tensor | None) -> Tensor:
    drive: Tensor = net.a(x)
    return drive if spikes is None else drive + net.back(spikes[0])


@pytest.mark.parametrize("steps", [1, 2, 8, None])
def test_feedback_written_by_hand_leaves_however_short_the_sample(steps: int | None) -> None:
    model, x = Loop(drive=feedback), data(8, 2, 3)
    graph = to_nir(model) if steps is None else to_nir(model, x[:steps])
    with torch.no_grad():
        assert torch.equal(network(graph)(x)[0], model(x))


def test_feedback_that_a_model_of_one_step_keeps_is_refused() -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.back, self.u = nn.Linear(3, 4), nn.Linear(4, 4), SNU(4)

        def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            drive = self.a(x)
            if state is not None:
                drive = drive + self.back(state.y)
            y, state = self.u(drive[None], state)
            return y[0], state

    with pytest.raises(ValueError, match="'back' receives a state of 'u'"):
        to_nir(Step(), data(2, 3))


def twice(net: Loop, t: int, spikes: Tensor, state: Any) -> Any:
    drive = net.b(spikes)
    _, state = net.v(drive, state)
    return net.v(drive, state)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"drive": lambda net, t, x, s: (net.other if t % 2 else net.a)(x)},
            r"'u' receives 'other' \(4,\) in step 2 and 'a' \(4,\) in its first",
        ),
        (
            {"drive": lambda net, t, x, s: net.a(x) if t < 6 else net.a(x) + net.other(x)},
            r"'u' receives 'a' \+ 'other' \(4,\) in step 7",
        ),
        (
            {"drive": lambda net, t, x, s: (net.a.weight.data.neg_(), net.a(x))[1]},
            "'a' has another weight in step 2 than in its first",
        ),
        ({"output": twice}, "'v' is called twice in one step; a neuron of NIR advances once"),
        (
            {"output": lambda net, t, s, state: (s[..., :2], None) if t == 3 else None},
            "only batch and time may be cut|'v' is called in step 3 and next in 5",
        ),
        (
            {"output": lambda net, t, s, state: (net.b(s), state) if t == 3 else None},
            "'v' is called in step 3 and next in 5",
        ),
        (
            {"output": lambda net, t, s, state: (net.b(s), state) if t < 2 else None},
            "'v' is called in step 3 first",
        ),
    ],
    ids=["other_weights", "another_path", "weights_changed", "called_twice", "cut", "skipped",
         "begins_late"],
)  # fmt: skip
def test_a_step_that_does_something_else_than_the_first_is_refused(
    parts: dict[str, Callable[..., Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        to_nir(Loop(**parts), data(8, 2, 3))


def test_a_current_that_is_the_same_in_every_step_leaves() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.u, self.b = nn.Linear(3, 4), SNU(4), nn.Linear(4, 4)
            self.skip = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            drive, state, outputs = self.a(x)[None], None, []
            kept = self.skip(x)
            for _ in range(5):
                y, state = self.u(drive, state)
                outputs.append(self.b(y[0]) + kept)
            return torch.stack(outputs)

    model, x = Constant(), data(2, 3)
    actual, _ = network(to_nir(model, x))(x.expand(5, 2, 3))
    torch.testing.assert_close(actual, model(x))


class Ending(nn.Module):
    """Weights of a whole sequence, then units in a loop that ends where it is told to."""

    def __init__(self, ends: Callable[[int, Tensor], bool]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.unit = nn.Linear(3, 4), SNU(4, SNUConfig(threshold=0.2))
        self.ends = ends

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, list[Tensor]()
        for t, current in enumerate(self.layer(x)):
            y, state = self.unit(current[None], state)
            outputs.append(y[0])
            if self.ends(t, y):
                break
        return torch.stack(outputs)


@pytest.mark.parametrize("ends", [lambda t, y: t == 4, lambda t, y: bool(y.any())])
def test_a_model_that_ends_before_its_sample_does_is_refused(
    ends: Callable[[int, Tensor], bool],
) -> None:
    with pytest.raises(ValueError, match=r"gives \d+ of the 20 steps of its sample, and its graph"):
        to_nir(Ending(ends), data(20, 3, 3))


def test_a_model_of_as_many_steps_as_its_sample_has_leaves() -> None:
    assert same(Ending(lambda t, y: t == 19), data(20, 3, 3))


class Rounded(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.round(), self.bias)


class Kernel(nn.Conv1d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = super()._conv_forward(input, weight.sign(), bias)
        return y


class Doubled(SNU):
    def forward(self, x: Tensor, state: Any = None) -> Any:
        return super().forward(2 * x, state)


class Plain(nn.Linear):
    """Derived, and computes what ``nn.Linear`` computes."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0, 0.6)
        nn.init.zeros_(self.bias)


def by_hand(name: str) -> nn.Linear:
    layer = nn.Linear(4, 4)
    setattr(layer, name, lambda input: 2 * F.linear(input, layer.weight))
    return layer


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Whole(Rounded(4, 4)), "layer: Rounded has a forward of its own; the rule for Linear"),
        (Whole(by_hand("forward")), "layer: Linear has a forward of its own"),
        (
            nn.Sequential(nn.Conv1d(4, 2, 1), Kernel(2, 2, 1)),
            r"1: Kernel has _conv_forward\(\), ",
        ),
        (Whole(nn.Linear(4, 4), Doubled(4)), "unit: Doubled has a forward of its own"),
    ],
)
def test_a_class_that_computes_something_else_than_the_one_with_a_rule_is_refused(
    model: nn.Module, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        to_nir(model, data(4, 4, 4))


def test_a_derived_layer_behind_features_side_by_side_is_refused() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Rounded(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(torch.cat([x, x], -1))
            return y

    with pytest.raises(TypeError, match="Rounded has a forward of its own"):
        to_nir(Both(), data(3, 4))


class Half(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return (2 * w).round() / 2


class Drawn(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w + torch.randn_like(w)


def parametrised(kind: type[nn.Module]) -> nn.Module:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", kind())
    return layer


@pytest.mark.parametrize(
    "build",
    [
        lambda: Plain(4, 4),
        lambda: parametrised(Half),
        lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
        lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
        lambda: prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5),  # type: ignore[no-untyped-call]
    ],
    ids=["derived", "quantised", "weight_norm", "spectral_norm", "pruned"],
)
def test_what_forward_really_uses_leaves_of_derived_pruned_and_parametrised_layers(
    build: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    assert same(Whole(build()).eval(), 3 * data(12, 3, 4))


def test_a_parametrisation_that_draws_is_refused_and_draws_nothing_of_the_users() -> None:
    model = Whole(parametrised(Drawn))
    random = torch.random.get_rng_state()
    with pytest.raises(TypeError, match="layer: the parametrisation of weight gives another value"):
        to_nir(model, data(4, 3, 4))
    assert torch.equal(random, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (lambda m, i: (i[0].abs(),), None, r"'layer' receives abs\(\) of the model's input"),
        (None, lambda m, i, y: y.relu(), r"'unit' receives relu\(\) of 'layer'"),
        (None, lambda m, i, y: y.abs_(), r"'unit' receives abs\(\) of 'layer'"),
    ],
)
def test_a_hook_that_changes_a_value_is_refused(
    before: Callable[..., Any] | None, after: Callable[..., Any] | None, message: str
) -> None:
    model = Whole(nn.Linear(4, 4))
    if before is not None:
        model.layer.register_forward_pre_hook(before)
    if after is not None:
        model.layer.register_forward_hook(after)
    with pytest.raises(ValueError, match=message):
        to_nir(model, data(1, 1, 4))


def test_a_hook_that_only_looks_is_no_hindrance() -> None:
    torch.manual_seed(0)
    model, seen = Whole(nn.Linear(4, 4)), list[Tensor]()
    model.layer.register_forward_hook(lambda m, i, y: seen.append(y.mean()))
    model.layer.register_forward_pre_hook(lambda m, i: seen.append(i[0].mean()))
    assert same(model, 3 * data(12, 3, 4))
    assert seen
