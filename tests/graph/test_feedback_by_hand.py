"""Feedback that a model keeps itself and adds to the current of the next step leaves as an edge."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin import SNU, SNUConfig
from snu_plugin.graph import declared, network, read, to_nir, write
from snu_plugin.neuron import State

Current = Callable[["Net", int, Tensor, Any, Any], Tensor]


class Net(nn.Module):
    """Two layers of units in a loop over time; a test gives the current of the first."""

    def __init__(
        self, current: Current, start: Callable[[Tensor], Any] | None = None, **parts: Any
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.rec, self.both = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(8, 5)
        self.other = nn.Linear(5, 5)
        self.unit = SNU(5, SNUConfig(threshold=0.3))
        self.out, self.last, self.down = (
            nn.Linear(5, 4), SNU(4, SNUConfig(threshold=0.2)), nn.Linear(4, 5)
        )  # fmt: skip
        self.factor = nn.Parameter(torch.randn(5))
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, 0.6)
        self.current, self.start = current, start or (lambda x: torch.zeros(x.shape[1], 5))
        self.steps = parts.get("steps", lambda x: x)

    def forward(self, x: Tensor) -> Tensor:
        spikes, above, outputs = self.start(x), torch.zeros(x.shape[1], 4), []
        state, second = None, None
        for t, x_t in enumerate(self.steps(x)):
            drive = self.current(self, t, x_t, spikes, above)
            spikes, state = self.unit(drive[None], state)
            spikes = spikes[0]
            above, second = self.last(self.out(spikes)[None], second)
            above = above[0]
            outputs.append(above)
        return torch.stack(outputs)


def data(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def plain(net: Net, t: int, x: Tensor, spikes: Tensor, above: Tensor) -> Tensor:
    current: Tensor = net.fc(x) + net.rec(spikes)
    return current


LEAVE: dict[str, Current] = {
    "behind_the_input": plain,
    "in_front": lambda net, t, x, s, a: net.rec(s) + net.fc(x),
    "subtracted": lambda net, t, x, s, a: net.fc(x) - net.rec(s),
    "a_factor_each": lambda net, t, x, s, a: net.fc(x) + net.factor * s,
    "one_factor": lambda net, t, x, s, a: net.fc(x) - s * 0.5,
    "as_it_is": lambda net, t, x, s, a: net.fc(x) + s,
    "a_product": lambda net, t, x, s, a: net.fc(x) + s @ net.rec.weight.t(),
    "a_function": lambda net, t, x, s, a: net.fc(x) + F.linear(s, net.rec.weight, net.rec.bias),
    "side_by_side": lambda net, t, x, s, a: net.both(torch.cat([x, s], -1)),
    "side_by_side_in_front": lambda net, t, x, s, a: net.both(torch.cat((s, x), dim=1)),
    "from_the_second_step_on": lambda net, t, x, s, a: plain(net, t, x, s, a) if t else net.fc(x),
    "from_above": lambda net, t, x, s, a: net.fc(x) + net.down(a),
    "from_both": lambda net, t, x, s, a: net.fc(x) + net.rec(s) + net.down(a),
    "summed_first": lambda net, t, x, s, a: net.fc(x) + (net.rec(s) + net.down(a)),
    "scaled_together": lambda net, t, x, s, a: 0.5 * plain(net, t, x, s, a),
    "two_layers": lambda net, t, x, s, a: net.fc(x) + net.rec(net.other(s)),
    "of_all_alike": lambda net, t, x, s, a: net.fc(x) - 0.3 * s.sum(-1, keepdim=True),
    "detached": lambda net, t, x, s, a: net.fc(x) + net.rec(s.detach()),
    "written_over": lambda net, t, x, s, a: net.fc(x).add_(net.rec(s)),
}


def same(model: nn.Module, x: Tensor) -> bool:
    with torch.no_grad():
        expected = model(x)
        actual, _ = network(to_nir(model, x))(x)
    return 0.05 < expected.mean() < 0.95 and torch.equal(actual, expected)


@pytest.mark.parametrize("current", LEAVE.values(), ids=LEAVE)
def test_feedback_that_begins_with_zeros_leaves(current: Current) -> None:
    assert same(Net(current), data(12, 3, 3))


def test_feedback_is_an_edge_of_its_own_through_a_file(tmp_path: Any) -> None:
    x, model = data(12, 3, 3), Net(plain)
    graph = to_nir(model, x)
    assert {("unit", "rec"), ("rec", "unit"), ("fc", "unit")} <= set(graph.edges)
    write(tmp_path / "net.nir", graph)
    with torch.no_grad():
        assert torch.equal(network(read(tmp_path / "net.nir"))(x)[0], model(x))


def test_a_bias_on_the_way_back_acts_as_early_as_in_the_model() -> None:
    def absent(net: Net, t: int, x: Tensor, spikes: Any, above: Tensor) -> Tensor:
        drive: Tensor = net.fc(x)
        return drive if spikes is None else drive + net.rec(spikes)

    x, begins = data(12, 3, 3), Net(plain)
    later = Net(absent, lambda x: None)
    for model in (begins, later):
        nn.init.constant_(model.rec.bias, -2.0)
    assert same(begins, x)
    assert same(later, x)
    assert not torch.equal(begins(x), later(x))
    graphs = [to_nir(model, x) for model in (begins, later)]
    assert [type(graph.nodes["rec"]).__name__ for graph in graphs] == ["Linear", "Affine"]
    assert {declared(graph)["feedback"] for graph in graphs} == {"silent"}


@pytest.mark.parametrize(
    "start",
    [
        lambda x: x.new_zeros(x.shape[1], 5),
        lambda x: torch.zeros_like(x[0, :, :1]).repeat(1, 5),
        lambda x: torch.zeros(1, 5),
        lambda x: torch.zeros(5),
    ],
)
def test_zeros_may_be_made_in_any_way(start: Callable[[Tensor], Tensor]) -> None:
    assert same(Net(plain, start), data(12, 3, 3))


@pytest.mark.parametrize(
    "steps",
    [
        lambda x: x,
        lambda x: x.unbind(0),
        lambda x: (x[t] for t in range(len(x))),
        lambda x: (part.squeeze(0) for part in x.split(1)),
        lambda x: x.transpose(0, 1).unbind(1),
    ],
)
def test_steps_may_be_taken_in_any_way(steps: Callable[[Tensor], Iterable[Tensor]]) -> None:
    assert same(Net(plain, steps=steps), data(12, 3, 3))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_short_sample_shows_feedback_too(steps: int) -> None:
    x, model = data(12, 3, 3), Net(plain)
    with torch.no_grad():
        assert torch.equal(network(to_nir(model, x[:steps]))(x)[0], model(x))


def test_a_current_that_is_the_same_in_every_step_may_have_feedback() -> None:
    class Constant(Net):
        def forward(self, x: Tensor) -> Tensor:
            spikes, state, outputs = torch.zeros(len(x), 5), None, []
            for _ in range(9):
                drive = self.fc(x) + self.rec(spikes)
                y, state = self.unit(drive[None], state)
                spikes = y[0]
                outputs.append(spikes)
            return torch.stack(outputs)

    x, model = data(3, 3), Constant(plain)
    with torch.no_grad():
        expected = model(x)
        actual, _ = network(to_nir(model, x))(x.expand(9, 3, 3))
    assert 0 < expected.mean() < 1
    assert torch.equal(actual, expected)


def test_layers_that_each_run_a_step_late_leave_with_a_delay() -> None:
    class Pipeline(Net):
        def forward(self, x: Tensor) -> Tensor:
            spikes, outputs = torch.zeros(x.shape[1], 5), []
            state, second = None, None
            for x_t in x:
                y, second = self.last(self.out(spikes)[None], second)
                z, state = self.unit(self.fc(x_t)[None], state)
                spikes = z[0]
                outputs.append(y[0])
            return torch.stack(outputs)

    x, model = data(12, 3, 3), Pipeline(plain)
    assert same(model, x)
    assert [type(n).__name__ for n in to_nir(model, x).nodes.values()].count("Delay") == 1


class Step(nn.Module):
    """One step, whose feedback the model keeps."""

    def __init__(self, start: Tensor | None, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.rec = nn.Linear(3, 5), nn.Linear(5, 5, bias=bias)
        self.unit = SNU(5, SNUConfig(threshold=0.3))
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, 0.6)
        self.spikes = start

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        drive = self.fc(x)
        drive = drive if self.spikes is None else drive + self.rec(self.spikes)
        y, state = self.unit(drive[None], state)
        self.spikes = y[0]
        return self.spikes, state


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("start", [None, torch.zeros(3, 5)], ids=["none", "zeros"])
def test_feedback_that_a_model_of_one_step_keeps_leaves(start: Tensor | None, bias: bool) -> None:
    x, model, state, outputs = data(12, 3, 3), Step(start, bias), None, []
    graph = to_nir(model, x[0])
    with torch.no_grad():
        for x_t in x:
            y, state = model(x_t, state)
            outputs.append(y)
    expected = torch.stack(outputs)
    assert 0.05 < expected.mean() < 0.95
    assert torch.equal(network(graph)(x)[0], expected)


def test_feedback_that_goes_on_from_an_earlier_run_is_refused() -> None:
    model = Step(torch.ones(3, 5))
    with pytest.raises(ValueError, match=r"'rec' receives a tensor .* feedback begins with zeros"):
        to_nir(model, data(3, 3))


@pytest.mark.parametrize(
    ("current", "message"),
    [
        (
            lambda net, t, x, s, a: plain(net, t, x, s, a) if t % 2 else net.fc(x),
            r"'unit' receives 'fc' \(5,\) in step 3 and 'fc' \+ 'rec' of the step before \(5,\) in",
        ),
        (
            lambda net, t, x, s, a: plain(net, t, x, s, a) if t > 4 else net.fc(x),
            r"'unit' receives 'fc' \+ 'rec' of the step before \(5,\) in step 6 and 'fc' \(5,\)",
        ),
        (
            lambda net, t, x, s, a: net.fc(x) + (net.rec if t % 2 else net.other)(s),
            "'unit' receives 'fc' .* 'other' of the step before|'rec' of the step before",
        ),
        (lambda net, t, x, s, a: net.fc(x) * (1 - s), r"'unit' receives 'mul_1' \(5,\) in step 2"),
        (lambda net, t, x, s, a: net.fc(x) - s.amax(-1, keepdim=True), r"receives amax\(\) of"),
        (lambda net, t, x, s, a: net.fc(x) + net.rec(torch.tanh(s)), r"receives tanh\(\) of"),
    ],
    ids=["every_second_step", "begins_late", "other_weights", "product", "maximum", "tanh"],
)
def test_what_no_edge_says_is_refused(current: Current, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_nir(Net(current), data(12, 3, 3))


def test_feedback_that_begins_with_something_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'rec' receives a tensor .* feedback begins with zeros"):
        to_nir(Net(plain, lambda x: torch.ones(x.shape[1], 5)), data(12, 3, 3))


class Older(Net):
    """Feedback of some steps before."""

    def __init__(self, steps: int, bias: bool = False) -> None:
        super().__init__(plain)
        self.back = steps
        if not bias:
            self.rec = nn.Linear(5, 5, bias=False)
            nn.init.normal_(self.rec.weight, -0.2, 0.6)

    def forward(self, x: Tensor) -> Tensor:
        past, state = [torch.zeros(x.shape[1], 5)] * self.back, None
        for x_t in x:
            y, state = self.unit((self.fc(x_t) + self.rec(past[-self.back]))[None], state)
            past.append(y[0])
        return torch.stack(past[self.back :])


class Between(Older):
    """Spikes that reach the next layer some steps late."""

    def forward(self, x: Tensor) -> Tensor:
        past, states, outputs = [torch.zeros(x.shape[1], 5)] * self.back, [None, None], []
        for x_t in x:
            y, states[0] = self.unit(self.fc(x_t)[None], states[0])
            past.append(y[0])
            z, states[1] = self.unit_2(self.rec(past.pop(0))[None], states[1])
            outputs.append(z[0])
        return torch.stack(outputs)

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.unit_2 = SNU(5, SNUConfig(threshold=0.2))


class Before(Older):
    """Spikes that were there before the update, as a tutorial of surrogate gradients has them."""

    def forward(self, x: Tensor) -> Tensor:
        past, state = [torch.zeros(x.shape[1], 5)] * self.back, None
        for x_t in x:
            y, state = self.unit(self.fc(x_t)[None], state)
            past.append(y[0])
        return torch.stack(past[: -self.back])


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("kind", [Older, Between, Before])
def test_what_older_steps_gave_leaves_by_delays(kind: type[Older], steps: int) -> None:
    model, x = kind(steps), data(12, 3, 3)
    graph = to_nir(model, x)
    with torch.no_grad():
        y = model(x)
    assert 0 < y.mean() < 1
    assert torch.equal(network(graph)(x)[0], y)


class Buffered(Between):
    """The same by a buffer of as many places as steps, written to in turn."""

    def forward(self, x: Tensor) -> Tensor:
        buffer, states, outputs = torch.zeros(self.back, x.shape[1], 5), [None, None], []
        for t, x_t in enumerate(x):
            y, states[0] = self.unit(self.fc(x_t)[None], states[0])
            before = buffer[t % self.back].clone()
            buffer[t % self.back] = y[0]
            z, states[1] = self.unit_2(self.rec(before)[None], states[1])
            outputs.append(z[0])
        return torch.stack(outputs)


@pytest.mark.parametrize("kind", [Older, Between, Buffered])
@pytest.mark.parametrize("bias", [False, True])
def test_what_waits_some_steps_in_front_of_a_layer_leaves(kind: type[Older], bias: bool) -> None:
    torch.manual_seed(3)
    model = kind(3)
    if bias:
        model.rec = nn.Linear(5, 5)
        nn.init.normal_(model.rec.weight, -0.2, 0.6)
    x = data(12, 3, 3)
    with torch.no_grad():
        graph, expected = to_nir(model, x), model(x)
    assert 0.05 < expected.mean() < 0.95
    assert torch.equal(network(graph)(x)[0], expected)


@pytest.mark.parametrize("begin", [None, 0.0])
def test_what_a_step_and_the_step_before_gave_may_be_added(begin: float | None) -> None:
    class Both(Net):
        def forward(self, x: Tensor) -> Tensor:
            before, state, outputs = begin, None, []
            for x_t in x:
                y, state = self.unit(self.fc(x_t)[None], state)
                outputs.append(y[0] if before is None else y[0] + before)
                before = y[0]
            return torch.stack(outputs)

    model, x = Both(plain), data(12, 3, 3)
    with torch.no_grad():
        graph, expected = to_nir(model, x), model(x)
    assert (expected == 2).any()
    assert torch.equal(network(graph)(x)[0], expected)


def test_feedback_that_is_left_out_for_longer_than_it_waits_is_refused() -> None:
    class Late(Older):
        def forward(self, x: Tensor) -> Tensor:
            past, state = [torch.zeros(x.shape[1], 5)] * 2, None
            for t, x_t in enumerate(x):
                more = self.rec(past[-2]) if t > 4 else 0.0
                y, state = self.unit((self.fc(x_t) + more)[None], state)
                past.append(y[0])
            return torch.stack(past[2:])

    with pytest.raises(ValueError, match="in step 6 and 'fc'"):
        to_nir(Late(2), data(12, 3, 3))


def test_more_steps_than_the_model_gets_are_refused() -> None:
    class More(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([torch.zeros(1, x.shape[1], 4), super().forward(x)])

    class Begun(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.zeros(x.shape[1], 4), *super().forward(x)])

    for kind in (More, Begun):
        with pytest.raises(ValueError, match=r"gives 13 steps for 12|cat.. of 'last'"):
            to_nir(kind(plain), data(12, 3, 3))


def test_a_loop_that_leaves_out_the_first_steps_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'unit' is called in step 6 first; .* cut what the model"
    ):
        to_nir(Net(plain, steps=lambda x: x[5:]), data(12, 3, 3))
