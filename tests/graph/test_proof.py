"""Models run beside their graphs before these leave: what is found, and what stays as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snu_plugin import SNU, SNUConfig
from snu_plugin.graph import declared, discretise, network, to_nir
from snu_plugin.graph.layers import encode_snu, to_node
from snu_plugin.graph.proving.replay import ModelRun
from snu_plugin.graph.proving.replay import replay as replayed
from snu_plugin.neuron import SRC, SRCConfig, src_scan


class Loop(nn.Module):
    """A layer of units in a loop over time; a test says what else it does in a step."""

    def __init__(self, odd: Callable[..., Any] | None = None, time: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.unit = nn.Linear(3, 5), SNU(5, SNUConfig(threshold=0.2))
        self.odd, self.time = odd, time

    def forward(self, x: Tensor) -> Tensor:
        state, spikes = None, []
        for t in range(x.shape[self.time]):
            drive = self.fc(x.select(self.time, t))
            if self.odd is not None:
                drive, state = self.odd(self, t, drive, state)
            y, state = self.unit(drive[None], state)
            spikes.append(y[0])
        return torch.stack(spikes, self.time)


def data(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def forgets(state: Any) -> Any:
    return state and state._replace(s=0 * state.s)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (
            lambda net, t, d, s: (d, forgets(s) if t == 25 else s),
            "'unit': the state that goes into step 26 is not as it came out",
        ),
        (
            lambda net, t, d, s: (d, forgets(s) if d.min() < -1.5 else s),
            r"'unit': the state that goes into step \d+ is not as it came out",
        ),
        (
            lambda net, t, d, s: (d if t < 20 else d + net.fc.bias, s),
            r"'unit' receives .* in step 21",
        ),
        (
            lambda net, t, d, s: ((net.fc.weight.data.mul_(0.9 if t == 15 else 1), d)[1], s),
            "'fc' has another weight in step 17",
        ),
    ],
    ids=["forgets once", "forgets where little comes in", "more from some step on", "weights"],
)
def test_what_a_model_does_after_the_sample_ends_or_with_other_values_is_found(
    odd: Callable[..., Any], message: str
) -> None:
    to_nir(Loop(odd), data(8, 2, 3), check=False)
    with pytest.raises(ValueError, match=message):
        to_nir(Loop(odd), data(8, 2, 3))


@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize("shape", [(8, 2, 3), (1, 1, 3), (40, 5, 3), (4, 4, 3)])
def test_what_was_compared_and_which_neurons_fired_is_declared(
    shape: tuple[int, ...], time: int
) -> None:
    checked = declared(to_nir(Loop(time=time), data(*shape)))["checked"]
    steps, batch = shape[time], shape[1 - time]
    assert (checked["steps"], checked["batch"]) == (max(32, steps + 1), 3 if batch == 8 else 4)
    assert 0 < checked["fired"]["unit"] <= 1


def test_a_model_that_swaps_batch_and_time_of_its_input_is_checked_over_time() -> None:
    class Swapped(Loop):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.transpose(0, 1)).transpose(0, 1)

    checked = declared(to_nir(Swapped(), data(3, 40, 3)))["checked"]
    assert (checked["steps"], checked["batch"]) == (41, 4)


class Scaled(Loop):
    """A loop whose weights depend on the shape of its input."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 20 / x.shape[self.axis])


@pytest.mark.parametrize("steps", [8, 32, 33, 50, 127, 128, 150])
def test_what_depends_on_the_number_of_steps_is_found(steps: int) -> None:
    with pytest.raises(ValueError, match="depends on how many there are"):
        to_nir(Scaled(0), data(steps, 2, 3))


@pytest.mark.parametrize("sequences", [1, 3, 4, 6, 7, 8])
def test_what_depends_on_the_number_of_sequences_is_found(sequences: int) -> None:
    with pytest.raises(ValueError, match="disagree"):
        to_nir(Scaled(1), data(8, sequences, 3))


def _count(model: Any) -> float:
    model.calls = getattr(model, "calls", 0) + 1
    return float(model.calls > 2)


def _adapt(model: Any) -> float:
    with torch.no_grad():
        model.fc.bias += 0.5
    return 0.0


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (lambda model: np.random.randn(), "draws at random"),  # noqa: NPY002
        (lambda model: torch.rand(1).item(), "draws at random"),
        (lambda model: float(random.random() < 0.5), "draws at random"),
        (lambda model: model.source.random(), "changes source"),
        (_count, "changes calls"),
        (_adapt, "changes fc.bias"),
    ],
)
def test_a_model_whose_next_call_gives_something_else_is_refused(
    more: Callable[[Any], float], why: str
) -> None:
    class Changing(Loop):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + more(self))

    model: Any = Changing()
    model.source = np.random.default_rng(0)
    with pytest.raises(ValueError, match=f"called again with the same input.* {why}"):
        to_nir(model, data(8, 2, 3))


def test_a_model_may_count_its_calls_and_keep_what_it_recorded() -> None:
    class Recording(Loop):
        calls, seen = 0, torch.empty(0)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.seen = super().forward(x)
            return self.seen

    assert declared(to_nir(Recording(), data(8, 2, 3)))["checked"]


def test_a_model_that_does_something_else_where_nothing_comes_in_is_refused() -> None:
    class Skipping(Loop):
        def forward(self, x: Tensor) -> Tensor:
            silent = ~x.flatten(1).any(1)
            return super().forward(x + silent.float().reshape(-1, 1, 1).numpy().max())

    with pytest.raises(ValueError, match="disagree"):
        to_nir(Skipping(), data(8, 2, 3) + 1)


def test_without_the_check_a_graph_says_so() -> None:
    made = to_nir(Loop(), data(8, 2, 3), check=False)
    assert declared(made)["unchecked"]
    assert "checked" not in declared(made)
    assert any("unchecked" in note for note in network(made).discrete.notes)
    assert not any("unchecked" in n for n in network(to_nir(Loop())).discrete.notes)


def test_a_layer_that_nothing_makes_fire_is_named() -> None:
    model = Loop()
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.fill_(-1)
    with pytest.warns(UserWarning, match="no neuron of unit could be made to fire"):
        made = to_nir(model, data(8, 2, 3))
    assert declared(made)["checked"]["silent"] == ["unit"]


def test_a_state_may_go_through_numpy_as_it_is_and_not_otherwise() -> None:
    def through(factor: float) -> Callable[..., Any]:
        def odd(net: Loop, t: int, drive: Tensor, state: Any) -> Any:
            s = state and state._replace(
                s=torch.from_numpy(np.float32(factor) * state.s.detach().numpy())
            )
            return drive, s

        return odd

    assert declared(to_nir(Loop(through(1)), data(8, 2, 3)))["checked"]
    with pytest.raises(ValueError, match="'unit': the state that goes into step 2 is not as it"):
        to_nir(Loop(through(0.9)), data(8, 2, 3))


class Odd(nn.Module):
    """One step of a neuron; a rule that is wrong says that it is an SNU."""

    def __init__(self, decay: float = 0.5, start: float = 0.0) -> None:
        super().__init__()
        self.decay, self.start = decay, start
        self.register_buffer("mem", torch.zeros(0))

    def reset_mem(self) -> None:
        self.mem = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        fresh = self.mem.shape != x.shape
        mem = x + self.start if fresh else x + self.decay * self.mem
        y = (mem > 0.3).to(x)
        self.mem = mem * (1 - y)
        return y


@to_node.register
def _odd(module: Odd, *, shape: tuple[int, ...], dt: float) -> Any:
    return encode_snu(SNUConfig(), np.full(shape, 0.5), np.full(shape, 0.3), dt=dt)


def test_a_rule_that_does_not_say_what_its_module_does_is_found_and_the_node_named() -> None:
    def net(**settings: float) -> nn.Module:
        torch.manual_seed(0)
        layers = nn.Linear(3, 8), Odd(), nn.Linear(8, 4), Odd(**settings)
        return nn.Sequential(*layers)

    assert declared(to_nir(net(), data(2, 3)))["checked"]["fired"].keys() == {"1", "3"}
    with pytest.raises(
        ValueError, match=r"node '3' gives .* the model's state is not the one that"
    ):
        to_nir(net(decay=0.75), data(2, 3))
    with pytest.raises(ValueError, match=r"in step 1 of 32.* begins with a state that the graph"):
        to_nir(net(start=0.2), data(2, 3))
    to_nir(net(decay=0.75), data(2, 3), check=False)


def test_a_sequence_of_another_length_than_the_model_was_written_for_is_not_asked() -> None:
    class Ten(Loop):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(10, 2, 3))

    assert declared(to_nir(Ten(), data(10, 2, 3)))["checked"]["steps"] == 10


def test_the_model_and_every_random_state_are_as_before() -> None:
    class Drawing(Loop):
        def forward(self, x: Tensor) -> Tensor:
            np.random.rand()  # noqa: NPY002
            random.random()
            torch.rand(1)
            return super().forward(x)

    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]  # noqa: NPY002

    model = Drawing().train()
    model(data(8, 2, 3)).sum().backward()
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    before = states()
    to_nir(model, data(8, 2, 3))
    assert states() == before
    assert model.training
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        now = parameter.grad
        assert grad is None if now is None else grad is not None and torch.equal(grad, now)


def test_outputs_that_stand_together_before_the_states_all_leave() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor, states: Any = None) -> Any:
            return (self.one(x), self.other(x)), states

    class Named(Two):
        def forward(self, x: Tensor, states: Any = None) -> Any:
            return {"a": self.one(x), "b": self.other(x)}, states

    for kind in (Two, Named):
        g = to_nir(kind(), torch.rand(2, 4))
        assert sum(isinstance(node, nir.Output) for node in g.nodes.values()) == 2


def test_what_a_model_writes_into_the_outputs_of_its_layers_is_no_difference_of_these() -> None:
    class Within(Loop):
        def forward(self, x: Tensor) -> Tensor:
            state, spikes = None, []
            for x_t in x:
                drive = self.fc(x_t)
                drive += 0.5 * self.fc(x_t)
                y, state = self.unit(drive[None], state)
                spikes.append(y[0])
            return torch.stack(spikes)

    x = data(8, 2, 3)
    graph = to_nir(Within(), x)
    assert declared(graph)["checked"]["fired"]
    assert torch.equal(network(graph)(x)[0], Within()(x))


def test_a_model_of_one_number_of_sequences_is_compared_on_those() -> None:
    class Four(Loop):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(-1, 4, 3))

    assert declared(to_nir(Four(), data(8, 4, 3)))["checked"]["batch"] == 4


def test_one_wrong_neuron_among_many_is_found_and_named() -> None:
    class Wrong(Odd):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return torch.cat([y[..., :-1], 1 - y[..., -1:]], -1)

    torch.manual_seed(0)
    to_node.register(Wrong, lambda m, *, shape, dt: _odd(m, shape=shape, dt=dt))
    with pytest.raises(ValueError, match=r"disagree, first in step 1 of 32, .* node '1' gives"):
        to_nir(nn.Sequential(nn.Linear(3, 40), Wrong()), data(2, 3))


def test_a_batch_norm_may_cancel_what_it_receives() -> None:
    fc, norm = nn.Linear(3, 5), nn.BatchNorm1d(5)
    with torch.no_grad():
        fc.bias.copy_(torch.linspace(1, 2, 5))
        norm.running_mean = fc.bias + 1e-6  # nothing but roundings is left where the input is 0
        norm.running_var = torch.full((5,), 1e-3)
    to_nir(nn.Sequential(fc, norm).eval(), torch.zeros(2, 3))


@pytest.mark.parametrize("changed", [{"r": 1.99}, {"z": 0.005}, {"alpha": 0.899}, {"rho": 2.99}])
def test_a_cell_with_another_setting_is_found(changed: dict[str, float]) -> None:
    x = 4 * data(40, 4, 5) - 1
    discrete = discretise(to_nir(SRC(5), x))

    def differs(config: SRCConfig) -> bool:
        y, _ = src_scan(x, config)
        run = ModelRun(discrete, {"input": x}, {"src": (0, y)}, {}, 2**-23, {})
        found = replayed(run, ["src"])
        return found.difference is not None

    assert not differs(SRCConfig())
    assert differs(replace(SRCConfig(), **changed))  # type: ignore[arg-type]
