"""Networks of both hosts of which a later step, or a derived class, does something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import norse.torch
import pytest
import snntorch
import torch
import torch.nn.functional as F
from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters
from snntorch import export_nir
from torch import Tensor, nn

import snu_norse as sn
import snu_snntorch as st
from snu_plugin import graph

Change = Callable[[nn.Module, int, Any], Any]


def alone(net: nn.Module, t: int, state: Any) -> Any:
    return state


class Loop(nn.Module):
    """Weights and neurons in a loop over time, whose state ``change`` sees after each step."""

    def __init__(
        self, unit: nn.Module, change: Change = alone, start: Callable[[Tensor], Any] | None = None
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.unit, self.change, self.start = nn.Linear(3, 4), unit, change, start

    def forward(self, x: Tensor) -> Tensor:
        state = self.start(x[0, :, :1].expand(-1, 4)) if self.start else self.fresh()
        outputs = []
        for t, x_t in enumerate(x):
            y, *rest = self.step(self.fc(x_t), state)
            state = self.change(self, t, rest)
            outputs.append(y)
        return torch.stack(outputs)

    def fresh(self) -> Any:
        reset = getattr(self.unit, "reset_mem", None)
        states = reset() if reset is not None else None
        return list(states) if isinstance(states, tuple) else [states]

    def step(self, drive: Tensor, state: Any) -> Any:
        if getattr(self.unit, "init_hidden", False):
            return (self.unit(drive),)
        return self.unit(drive, *state)


def data() -> Tensor:
    return 3 * torch.rand((12, 2, 3), generator=torch.Generator().manual_seed(1))


def leaky(**settings: Any) -> nn.Module:
    return snntorch.Leaky(beta=0.8, reset_mechanism="zero", **settings)  # type: ignore[no-any-return]


def synaptic() -> nn.Module:
    settings = {"alpha": 0.5, "beta": 0.75, "reset_mechanism": "zero", "reset_delay": False}
    return snntorch.Synaptic(**settings)  # type: ignore[no-any-return]


SNNTORCH = {"SNU": lambda: st.SNU(beta=0.8), "Leaky": leaky, "Synaptic": synaptic}
NORSE = {
    "SNUCell": sn.SNUCell,
    "LIFBoxCell": norse.torch.LIFBoxCell,
    "LIFCell": norse.torch.LIFCell,
}
EVERY = [*((st, build) for build in SNNTORCH.values()), *((sn, build) for build in NORSE.values())]
IDS = [*SNNTORCH, *NORSE]


def every(state: Any, change: Callable[[Tensor], Any]) -> Any:
    """Apply a change to each tensor of a state, in Norse's tuples too."""
    if isinstance(state, Tensor):
        return change(state)
    parts = [every(part, change) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else parts


@pytest.mark.parametrize(("host", "build"), EVERY, ids=IDS)
@pytest.mark.parametrize(
    "change", [lambda s: s, lambda s: s.detach(), lambda s: s.clone()], ids=["is", "cut", "copied"]
)
def test_a_state_that_goes_in_as_it_came_out_leaves(
    host: Any, build: Callable[[], nn.Module], change: Callable[[Tensor], Tensor]
) -> None:
    net, x = Loop(build(), lambda net, t, state: every(state, change)).eval(), data()
    actual, _ = graph.network(host.to_nir(net, x))(x)
    with torch.no_grad():
        assert (actual != net(x)).float().mean() < 0.02  # Norse's sums are rounded otherwise


@pytest.mark.parametrize(("host", "build"), EVERY, ids=IDS)
@pytest.mark.parametrize(
    "change",
    [
        lambda s: 0.5 * s,
        lambda s: s.clamp(max=0.5),
        lambda s: s - s.mean(-1, keepdim=True),
        lambda s: s + torch.randn_like(s),
        lambda s: s.mul_(0.5),
        lambda s: torch.zeros_like(s),
    ],
    ids=["scaled", "clamped", "inhibited", "noised", "in_place", "reset"],
)
def test_a_state_that_a_network_changes_between_steps_is_refused(
    host: Any, build: Callable[[], nn.Module], change: Callable[[Tensor], Tensor]
) -> None:
    net = Loop(build(), lambda net, t, state: every(state, change) if t == 3 else state)
    with pytest.raises(ValueError, match="'unit': the state that goes into step 5 is not as it"):
        host.to_nir(net, data())


@pytest.mark.parametrize("build", [lambda **k: st.SNU(beta=0.8, **k), leaky], ids=["SNU", "Leaky"])
@pytest.mark.parametrize(
    "act",
    [
        lambda unit: setattr(unit, "mem", 0.5 * unit.mem),
        lambda unit: unit.mem.mul_(0.5),
        lambda unit: unit.mem.__setitem__((slice(None), 0), 1.0),
        lambda unit: unit.reset_mem(),
        lambda unit: setattr(unit, "mem", torch.rand_like(unit.mem)),
    ],
    ids=["assigned", "in_place", "written_to", "reset", "drawn"],
)
def test_a_state_that_a_layer_keeps_and_the_network_changes_is_refused(
    build: Callable[..., nn.Module], act: Callable[[nn.Module], Any]
) -> None:
    net = Loop(build(init_hidden=True), lambda net, t, s: act(net.unit) if t == 2 else s)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'unit': mem that goes into step 4 is not as it came out"):
        st.to_nir(net, data())


@pytest.mark.parametrize("build", [lambda **k: st.SNU(beta=0.8, **k), leaky], ids=["SNU", "Leaky"])
def test_a_state_that_a_layer_keeps_may_be_cut_from_its_graph_of_gradients(
    build: Callable[..., nn.Module],
) -> None:
    def cut(net: Any, t: int, state: Any) -> None:
        net.unit.mem = net.unit.mem.detach()

    net, x = Loop(build(init_hidden=True), cut), data()
    net(x)  # what is left from earlier is no start of the network's own
    actual, _ = graph.network(st.to_nir(net, x))(x)
    with torch.no_grad():
        assert torch.equal(actual, net(x))


def test_a_threshold_that_moves_from_step_to_step_is_refused() -> None:
    def tire(net: Any, t: int, state: Any) -> Any:
        net.unit.threshold = net.unit.threshold + 0.1
        return state

    with pytest.raises(ValueError, match="'unit' has another threshold in step 2 than in its fir"):
        st.to_nir(Loop(st.SNU(), tire), data())


def test_a_start_of_the_networks_own_is_refused_and_a_layers_own_is_not() -> None:
    away = "'unit': the state that the first step begins with is none of its own"
    for unit in (st.SNU(), leaky()):
        with pytest.raises(ValueError, match=away):
            st.to_nir(Loop(unit, start=lambda like: [torch.full_like(like, 0.5)]), data())
        st.to_nir(Loop(unit, start=lambda like: [torch.zeros_like(like)]), data())
    box = norse.torch.LIFBoxCell(LIFBoxParameters(v_leak=torch.tensor(0.2)))
    with pytest.raises(ValueError, match=away):
        sn.to_nir(
            Loop(box, start=lambda like: [LIFBoxFeedForwardState(torch.zeros_like(like))]), data()
        )
    sn.to_nir(Loop(box, start=lambda like: [box.initial_state(like)]), data())


def test_norses_states_that_are_dropped_are_refused() -> None:
    net = Loop(sn.SNUCell(), lambda net, t, state: [None])
    with pytest.raises(ValueError, match="'unit' is called without its state in step 2"):
        sn.to_nir(net, data())


@pytest.mark.parametrize(
    "layer", [lambda: sn.SNURecurrentCell(4, 4), lambda: norse.torch.LIFRecurrentCell(4, 4)]
)
def test_states_of_norses_recurrent_cells_and_containers_are_looked_at(
    layer: Callable[[], nn.Module],
) -> None:
    assert sn.to_nir(Loop(layer()), data()).nodes
    assert sn.to_nir(Loop(norse.torch.SequentialState(layer())), data()).nodes
    halved = Loop(layer(), lambda net, t, state: every(state, lambda s: 0.5 * s))
    with pytest.raises(ValueError, match="the state that goes into step 2 is not as it came out"):
        sn.to_nir(halved, data())
    forgot = Loop(norse.torch.SequentialState(layer()), lambda net, t, state: [None])
    with pytest.raises(ValueError, match="is called without its state in step 2"):
        sn.to_nir(forgot, data())


@pytest.mark.parametrize("build", [lambda **k: st.SNU(beta=0.8, **k), leaky], ids=["SNU", "Leaky"])
def test_feedback_that_a_network_of_one_step_keeps_leaves(
    build: Callable[..., nn.Module],
) -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.back, self.unit = (
                nn.Linear(3, 4), nn.Linear(4, 4), build(init_hidden=True)
            )  # fmt: skip
            self.last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            drive = self.fc(x)
            drive = drive if self.last is None else drive + self.back(self.last)
            self.last = self.unit(drive)
            return self.last

    net, x = Step(), (data() > 0.5).float() * 3
    made = st.to_nir(net, x[0])
    with torch.no_grad():
        expected = torch.stack([net(x_t) for x_t in x])
    assert 0 < expected.mean() < 1
    assert torch.equal(graph.network(made)(x)[0], expected)


class Rounded(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.round(), self.bias)


class Doubled(st.SNU):
    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        return super().forward(2 * input_, mem)


class Slow(st.SNU):
    def advance(self, drive: Tensor, mem: Tensor, y: Tensor) -> Tensor:
        return 0.5 * super().advance(drive, mem, y)


class Awake(sn.SNUCell):
    def initial_state(self, input_tensor: Tensor) -> sn.SNUState:
        return ones(input_tensor)


class DoubledRecurrent(sn.SNURecurrentCell):
    def forward(self, input_tensor: Tensor, state: Any = None) -> Any:
        return super().forward(2 * input_tensor, state)


class DoubledLoop(norse.torch.RecurrentSequential):  # type: ignore[misc]
    def forward(self, x: Tensor, state: Any = None) -> Any:
        return super().forward(2 * x, state)


def with_part(unit: nn.Module, **parts: Any) -> nn.Module:
    for name, part in parts.items():
        setattr(unit, name, part)
    return unit


def hidden(kind: type[nn.Module], **settings: Any) -> nn.Module:
    return kind(init_hidden=True, **settings)


def ones(x: Tensor) -> sn.SNUState:
    return sn.SNUState(torch.ones_like(x), torch.zeros_like(x))


def fast(x: Tensor, state: Any, p: Any, dt: float) -> Any:
    return sn.snu_feed_forward_step(2 * x, state, p, dt)


def steps(*layers: nn.Module) -> nn.Module:
    return norse.torch.SequentialState(*layers)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("host", "net", "message"),
    [
        (st, nn.Sequential(nn.Linear(3, 4), hidden(Doubled)), "1: Doubled has a forward of its"),
        (
            st,
            nn.Sequential(nn.Linear(3, 4), hidden(Slow)),
            r"1: Slow has advance\(\), which",
        ),
        (
            st,
            nn.Sequential(
                nn.Linear(3, 4),
                with_part(hidden(st.RSNU, linear_features=4), recurrent=Rounded(4, 4, bias=False)),
            ),
            "1: its part 'recurrent', Rounded, has a forward of its own",
        ),
        (sn, steps(Rounded(3, 4), sn.SNUCell()), "0: Rounded has a forward of its own"),
        (sn, steps(nn.Linear(3, 4), Awake()), r"1: Awake has initial_state\(\), which"),
        (sn, steps(DoubledRecurrent(3, 4)), "DoubledRecurrent has a forward of its own"),
        (sn, DoubledLoop(nn.Linear(3, 3), sn.SNUCell()), "DoubledLoop has a forward of its own"),
        (
            sn,
            steps(nn.Linear(3, 4), with_part(sn.SNUCell(), activation=fast)),
            "1: its activation is fast; SNUCell leaves as what snu_feed_forward_step computes",
        ),
        (
            sn,
            steps(nn.Linear(3, 4), with_part(sn.SNUCell(), state_fallback=ones)),
            "1: its state_fallback was replaced",
        ),
    ],
)
def test_what_computes_something_else_than_the_class_with_a_rule_is_refused(
    host: Any, net: nn.Module, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        host.to_nir(net, data()[0])


def test_a_hook_inside_a_layer_may_look_and_not_change() -> None:
    def build(hook: Callable[..., Any]) -> nn.Module:
        unit: Any = hidden(st.RSNU, linear_features=4)
        unit.recurrent.register_forward_hook(hook)
        return nn.Sequential(nn.Linear(3, 4), unit)

    seen: list[Tensor] = []
    assert st.to_nir(build(lambda m, i, y: seen.append(y)), data()[0]).nodes
    assert seen
    with pytest.raises(TypeError, match="1: a hook on a part of it, Linear, changes a value"):
        st.to_nir(build(lambda m, i, y: 2 * y), data()[0])


@pytest.mark.parametrize(
    "build",
    [
        lambda: steps(sn.SNURecurrentCell(3, 4)),
        lambda: steps(norse.torch.LIFRecurrentCell(3, 4)),
        lambda: steps(norse.torch.RecurrentSequential(nn.Linear(3, 3), sn.SNUCell())),
    ],
)
def test_a_hook_on_a_recurrent_layer_of_norses_may_look_and_not_change(
    build: Callable[[], nn.Sequential],
) -> None:
    seen: list[int] = []
    net = build()
    net[0].register_forward_hook(lambda m, i, y: seen.append(1))
    assert sn.to_nir(net, data()[0]).nodes
    assert seen
    net[0].register_forward_pre_hook(lambda m, i: (i[0].abs(), *i[1:]))
    with pytest.raises(ValueError, match=r"receives abs\(\) of the model's input"):
        sn.to_nir(net, data()[0])


def wired() -> nn.Sequential:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.u, self.v = (
                nn.Linear(3, 3), nn.Linear(3, 3), hidden(st.SNU), hidden(st.SNU)
            )  # fmt: skip

        def forward(self, x: Tensor) -> Any:
            y = self.u(self.a(x))
            return self.v(self.b(y) + x)

    return st.from_nir(st.to_nir(Skip(), data()[0]))


def test_a_wired_network_that_does_more_than_it_was_read_with_is_refused() -> None:
    class Twice(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x.abs())  # type: ignore[no-untyped-call]

    assert st.to_nir(wired(), data()[0]).nodes
    for net in (Twice(*wired()), wired()):
        if not isinstance(net, Twice):
            net[0].register_forward_hook(lambda m, i, y: y.abs())
        with pytest.raises((TypeError, ValueError), match=r"receives abs\(\) of|changes a value"):
            st.to_nir(net, data()[0])


def test_the_hosts_own_export_refuses_by_name_what_it_would_get_wrong() -> None:
    def refused(net: nn.Module, match: str) -> None:
        with st.registered(), pytest.raises((TypeError, ValueError), match=match):
            export_nir.export_to_nir(net, data()[0], ignore_dims=[0])

    refused(nn.Sequential(Rounded(3, 4), hidden(st.SNU)), "part '0', Rounded, has a forward of")
    refused(nn.Sequential(nn.Linear(3, 4), hidden(Slow)), r"part '1', Slow, has advance\(\), ")
    halved = Loop(st.SNU(), lambda net, t, state: every(state, lambda s: 0.5 * s))
    with st.registered(), pytest.raises(ValueError, match="'unit': the state that goes into step"):
        export_nir.export_to_nir(halved, data(), ignore_dims=[0, 1])
    with sn.registered(), pytest.raises(TypeError, match="0: Rounded has a forward of its own"):
        norse.torch.to_nir(steps(Rounded(3, 4), sn.SNUCell()), data()[0])
