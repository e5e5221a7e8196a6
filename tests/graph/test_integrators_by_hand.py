"""Integrators that a model writes itself in ``forward`` leave as the neurons that they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import nir
import pytest
import torch
from torch import Tensor, nn

from snu_plugin import SNU, SNUConfig
from snu_plugin.graph import declared, network, read, to_nir, write
from snu_plugin.graph.tracing.function_layers import Above

Step = Callable[["Net", Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Fire(torch.autograd.Function):
    """A step with a gradient of its own, as such models have it."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return v.gt(0.0).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Net(nn.Module):
    """A layer, a neuron that a test writes, and a layer, in a loop over time."""

    def __init__(self, step: Step, decay: Any = 0.875, threshold: Any = 0.5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.out, self.rec = nn.Linear(3, 6), nn.Linear(6, 4), nn.Linear(6, 6)
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, 0.7)
        self.step, self.decay, self.threshold = step, decay, threshold

    def forward(self, x: Tensor) -> Any:
        mem = spikes = torch.zeros(x.shape[1], 6)
        outputs = []
        for x_t in x:
            spikes, mem = self.step(self, self.fc(x_t), mem, spikes)
            outputs.append(self.out(spikes))
        return torch.stack(outputs)


def subtracted(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = (mem > net.threshold).float()
    return spikes, mem - spikes * net.threshold


def subtracted_in_the_next_step(
    net: Net, x: Tensor, mem: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    reset = (mem > net.threshold).float()
    mem = net.decay * mem + x - reset * net.threshold
    return (mem > net.threshold).float(), mem


def kept_by_a_product(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = (mem > net.threshold).float()
    return spikes, mem * (1 - spikes)


def kept_in_the_next_step(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = mem * net.decay * (1.0 - y) + x
    return Fire.apply(mem - net.threshold), mem


def chosen(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = mem > net.threshold
    return spikes.float(), torch.where(spikes, torch.full_like(mem, -0.25), mem)


def filled(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = mem > net.threshold
    return spikes.to(x.dtype), mem.masked_fill(spikes, 0.0)


def put_in(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = torch.zeros_like(mem)
    spikes[mem > net.threshold] = 1.0
    return spikes, mem - net.threshold * spikes.detach()


def less_itself(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = torch.gt(mem, net.threshold).float()
    return spikes, mem - mem * spikes


def euler(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = mem + (x - mem) / 4
    spikes = (mem > net.threshold).float()
    return spikes, mem * (1 - spikes)


def without_leak(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = mem + x
    spikes = (mem > net.threshold).float()
    return spikes, mem - spikes * net.threshold


def only_filtered(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    return mem, mem


FORMS: dict[Step, set[str]] = {
    subtracted: {"LI", "Threshold", "Scale"},
    subtracted_in_the_next_step: {"LI", "Threshold", "Scale"},
    kept_by_a_product: {"LIF"},
    kept_in_the_next_step: {"LIF"},
    chosen: {"LIF"},
    filled: {"LIF"},
    put_in: {"LI", "Threshold", "Scale"},
    less_itself: {"LIF"},
    euler: {"LIF", "Scale"},
    without_leak: {"I", "Threshold", "Scale"},
    only_filtered: {"LI"},
}


def data() -> Tensor:
    return (torch.rand((12, 3, 3), generator=torch.Generator().manual_seed(1)) < 0.5).float()


def kinds(graph: nir.NIRGraph) -> set[str]:
    return {type(node).__name__ for node in graph.nodes.values()} - {"Input", "Output", "Affine"}


def equal(model: nn.Module, x: Tensor, graph: nir.NIRGraph) -> bool:
    with torch.no_grad():
        expected, actual = model(x), network(graph)(x)[0]
    return bool(expected.any()) and torch.allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("step", FORMS, ids=lambda step: step.__name__)
def test_a_neuron_written_in_forward_leaves_as_the_neuron_that_it_is(step: Step) -> None:
    model, x = Net(step), data()
    graph = to_nir(model, x)
    assert kinds(graph) == FORMS[step]
    assert equal(model, x, graph)


@pytest.mark.parametrize("step", FORMS, ids=lambda step: step.__name__)
def test_decays_and_thresholds_may_be_learned_for_each_neuron(step: Step) -> None:
    decay, threshold = (nn.Parameter(torch.linspace(*ends, 6)) for ends in ((0.5, 0.9), (0.3, 0.7)))
    model, x = Net(step, decay, threshold), data()
    graph = to_nir(model, x)
    assert kinds(graph) == FORMS[step]
    assert equal(model, x, graph)


@pytest.mark.parametrize("step", FORMS, ids=lambda step: step.__name__)
def test_such_a_neuron_may_have_weights_back_to_itself(step: Step) -> None:
    def recurrent(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return step(net, x + 0.25 * net.rec(y), mem, y)

    model, x = Net(recurrent), data()
    assert equal(model, x, to_nir(model, x))


class Own(nn.Module):
    """A neuron of one's own that keeps its potential from call to call."""

    decay, threshold = 0.875, 0.5
    features: ClassVar[int] = 6

    def __init__(self, step: Any) -> None:
        super().__init__()
        self.step, self.mem, self.spikes = step, Tensor(), Tensor()

    def forget(self, like: Tensor) -> None:
        self.mem = self.spikes = torch.zeros_like(like)

    def forward(self, x: Tensor) -> Tensor:
        if self.mem.shape != x.shape:
            self.forget(x)
        self.spikes, self.mem = self.step(self, x, self.mem, self.spikes)
        return self.spikes


class Model(nn.Module):
    def __init__(self, step: Any) -> None:
        super().__init__()
        like = Net(step)
        self.fc, self.own, self.out = like.fc, Own(step), like.out


class OneStep(Model):
    """The loop stands outside."""

    def forward(self, x: Tensor) -> Any:
        return self.out(self.own(self.fc(x)))


class Loop(Model):
    def forward(self, x: Tensor) -> Any:
        self.own.mem = Tensor()
        return torch.stack([self.out(self.own(self.fc(x_t))) for x_t in x])


class CurrentsFirst(Model):
    def forward(self, x: Tensor) -> Any:
        currents = self.fc(x)
        self.own.forget(currents[0])
        return self.out(torch.stack([self.own(current) for current in currents]))


class Written(Model):
    def forward(self, x: Tensor) -> Any:
        spikes = torch.zeros(*x.shape[:2], 6)
        self.own.forget(spikes[0].clone())
        for t in range(len(x)):
            spikes[t] = self.own(self.fc(x[t]))
        return self.out(spikes)


class WithPotential(Model):
    """The potential leaves beside the spikes, where a node has it."""

    def forward(self, x: Tensor) -> Any:
        self.own.mem, spikes, potentials = Tensor(), [], []
        for x_t in x:
            spikes.append(self.out(self.own(self.fc(x_t))))
            potentials.append(self.own.mem)
        return torch.stack(spikes), torch.stack(potentials)


@pytest.mark.parametrize("step", FORMS, ids=lambda step: step.__name__)
@pytest.mark.parametrize("kind", [OneStep, Loop, CurrentsFirst, Written, WithPotential])
@pytest.mark.covering(1)
def test_such_a_neuron_leaves_however_the_model_keeps_it(kind: type[Model], step: Step) -> None:
    model, x = kind(step), data()
    graph = to_nir(model, x[0] if kind is OneStep else x)
    assert kinds(graph) == FORMS[step]
    with torch.no_grad():
        actual = network(graph)(x)[0]
        expected = torch.stack([model(x_t) for x_t in x]) if kind is OneStep else model(x)
    if isinstance(expected, tuple):
        actual, expected = actual["output"] if isinstance(actual, dict) else actual, expected[0]
    assert torch.allclose(actual, expected, atol=1e-6)


def test_a_potential_that_is_handed_on_by_the_user_is_a_state() -> None:
    class Handed(Model):
        def forward(self, x: Tensor, mem: Tensor | None = None) -> tuple[Tensor, Tensor]:
            mem = torch.zeros(len(x), 6) if mem is None else mem
            spikes, mem = self.own.step(self.own, self.fc(x), mem, mem)
            return self.out(spikes), mem

    for step in (subtracted, kept_by_a_product, only_filtered):
        model, x, outputs, mem = Handed(step), data(), [], None
        graph = to_nir(model, x[0])
        assert kinds(graph) == FORMS[step]
        with torch.no_grad():
            for x_t in x:
                y, mem = model(x_t, mem)
                outputs.append(y)
            assert torch.allclose(network(graph)(x)[0], torch.stack(outputs), atol=1e-6)


def test_an_integrator_of_the_input_itself_leaves() -> None:
    class Encoder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mem, spikes = torch.zeros(x.shape[1:]), []
            for x_t in x:
                mem = 0.75 * mem + x_t
                fired = (mem > 1).float()
                mem = mem - fired
                spikes.append(fired)
            return torch.stack(spikes)

    x = data()
    graph = to_nir(Encoder(), x)
    assert tuple(graph.nodes["input"].input_type["input"]) == (3,)
    assert equal(Encoder(), x, graph)


def test_it_goes_through_a_file(tmp_path: Any) -> None:
    model, x = Net(subtracted), data()
    write(tmp_path / "net.nir", to_nir(model, x))
    assert equal(model, x, read(tmp_path / "net.nir"))


def test_a_value_that_spikes_change_otherwise_is_refused_by_name() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x)
            return y.masked_fill(y > 0.5, 0.0)

    with pytest.raises(ValueError, match=r"above a threshold; not yet supported, but as the reset"):
        to_nir(Cut(), data()[0])


def test_a_decay_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"it keeps 1\.5 of its potential from step to step"):
        to_nir(Net(only_filtered, 1.5), data())


LOGIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "both": lambda a, b: a * b,
    "both_as_booleans": lambda a, b: ((a > 0) & (b > 0)).float(),
    "smaller": torch.minimum,
    "any": torch.maximum,
    "any_as_booleans": lambda a, b: torch.logical_or(a, b).float(),
    "a_sum_that_stops_at_one": lambda a, b: (a + b).clamp(max=1),
    "a_sum_above_zero": lambda a, b: (a + b > 0).float(),
    "probabilities": lambda a, b: a + b - a * b,
    "one without the other": lambda a, b: a * (1 - b),
    "not one, and the other": lambda a, b: (1.0 - a) * b,
    "one without the other, as booleans": lambda a, b: torch.logical_and(a, ~b.bool()).float(),
    "one where the other is not": lambda a, b: torch.where(b.bool(), torch.zeros_like(a), a),
    "masked": lambda a, b: a.masked_fill(b > 0, 0.0),
    "one of two": lambda a, b: torch.where(b.bool(), 1 - a, a),
    "apart": lambda a, b: (a - b).abs(),
    "different": lambda a, b: (a != b).float(),
    "alike": lambda a, b: (a == b).float(),
    "neither": lambda a, b: (1 - a) * (1 - b),
    "larger": lambda a, b: (a > b).float(),
}


class Pair(nn.Module):
    """Two layers of spikes that meet."""

    def __init__(self, meet: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.meet = nn.Linear(3, 5), nn.Linear(3, 5), meet
        self.one, self.two = (SNU(5, SNUConfig(threshold=0.1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.meet(self.one(self.a(x))[0], self.two(self.b(x))[0])


@pytest.mark.parametrize("meet", LOGIC.values(), ids=LOGIC)
def test_spikes_of_two_layers_meet_in_a_threshold(meet: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, x = Pair(meet), data()
    with torch.no_grad():
        expected, actual = model(x), network(to_nir(model, x))(x)[0]
    assert 0.05 < expected.mean() < 0.95
    assert torch.equal(actual, expected)


def test_a_product_of_what_is_no_spike_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the product of 'one' \+ 'mul', which are no spikes"):
        to_nir(Pair(lambda a, b: a * (0.5 * b)), data())
    with pytest.raises(ValueError, match=r"the maximum of 'one' \+ 'mul', which are no spikes"):
        to_nir(Pair(lambda a, b: torch.maximum(a, 0.5 * b)), data())


def on_a_grid(step: Step) -> Net:
    """Return a net whose potentials meet their threshold all the time."""
    model = Net(step, 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((2 * parameter).round() / 2)
    return model


def reaching(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = (mem >= net.threshold).float()
    return spikes, mem * (1 - spikes)


def kept_below(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    return (mem >= net.threshold).float(), mem * (mem < net.threshold)


def reached(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = (net.threshold <= mem).float()
    return spikes, mem - net.threshold * spikes


def of_both_signs(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = (mem >= net.threshold).float() - (mem < -net.threshold).float()
    return spikes, mem - net.threshold * spikes


def where_spikes_are(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = (mem > net.threshold).float()
    return spikes, torch.where(spikes > 0, torch.zeros_like(mem), mem)


class Reached(torch.autograd.Function):
    """A step that its threshold belongs to, as SpikingJelly has it."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return (v >= 0).to(v)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def reset_to_a_value(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = mem + (x - mem) * (1 - net.decay)
    spikes = Reached.apply(mem - net.threshold)
    kept = spikes.detach()
    return spikes, (1.0 - kept) * mem + kept * -0.25


def subtracted_where_reached(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = torch.heaviside(mem - net.threshold, torch.ones(())).type_as(x)
    return spikes, mem - net.threshold * spikes


def of_two_numbers(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = ((mem - 0.1) >= 0.4).float()
    return spikes, mem.masked_fill(spikes.bool(), 0.0)


def filled_in_place(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    fired = mem >= net.threshold
    mem[fired] = 0.0
    return fired.to(x), mem


def subtracted_in_place(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    fired = mem > net.threshold
    mem[fired] -= net.threshold
    return fired.to(x), mem


def subtracted_in_parts(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    fired = mem > net.threshold
    mem[fired] = mem[fired] - 0.125 - torch.tensor(net.threshold)
    return fired.to(x), mem


def subtracted_by_where(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    fired = mem > net.threshold
    return fired.float(), torch.where(fired, mem - net.threshold, mem)


def straight_through(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    soft = torch.sigmoid(4 * (mem - net.threshold))
    hard = (mem > net.threshold).float()
    spikes = (hard - soft).detach() + soft
    return spikes, mem - net.threshold * spikes.detach()


def straight_through_apart(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    soft = 0.5 + torch.atan(mem - net.threshold) / torch.pi
    hard = (mem > net.threshold).to(x)
    return hard.detach() - soft.detach() + soft, mem * (1 - hard)


def of_signs(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + torch.sign(x)
    spikes = (mem > net.threshold).float()
    return spikes, mem - net.threshold * spikes


def of_chosen_features(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    first, second = (3 * x).chunk(2, dim=-1)
    mem = net.decay * mem + torch.cat([second, first], -1)[:, [0, 2, 4, 5, 1, 3]]
    spikes = (mem > net.threshold).float()
    return spikes, mem - net.threshold * spikes


BY_MASKS = [subtracted_by_where, straight_through, straight_through_apart, of_signs]
BY_MASKS += [
    subtracted_in_place,
    subtracted_in_parts,
    of_chosen_features,
    reset_to_a_value,
    subtracted_where_reached,
    of_two_numbers,
    filled_in_place,
]


@pytest.mark.parametrize(
    "step", [reaching, kept_below, reached, of_both_signs, where_spikes_are, *BY_MASKS]
)
def test_thresholds_that_are_reached_and_negative_spikes_leave(step: Step) -> None:
    model, x = on_a_grid(step), data()
    graph = to_nir(model, x)
    with torch.no_grad():
        y = model(x)
    assert torch.equal(network(graph)(x)[0], y)
    if step in (reaching, reached):
        above = kept_by_a_product if step is reaching else subtracted
        assert not torch.equal(y, on_a_grid(above)(x))


def reset_from_zero_on(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = (mem >= 0).float()
    return spikes, mem * (1 - spikes)


def lowered_from_zero_on(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    spikes = (mem >= 0).float()
    return spikes, mem - 0.5 * spikes


def silent_up_to_zero(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = net.decay * mem + x
    return (mem <= 0).float(), mem


@pytest.mark.parametrize("step", [reset_from_zero_on, lowered_from_zero_on, silent_up_to_zero])
def test_a_threshold_of_zero_may_be_reached(step: Step) -> None:
    model, x = on_a_grid(step), data()
    with torch.no_grad():
        model.fc.bias.zero_()
        x[3:6] = 0
        y = model(x)
    assert y.any()
    assert not y.all()
    assert torch.equal(network(to_nir(model, x))(x)[0], y)


def test_what_is_asked_of_spikes_is_refused_of_anything_else() -> None:
    def of_potentials(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.bool().float(), mem + x

    with pytest.raises(ValueError, match="bool: it takes the spikes of 'fc', which are no spikes"):
        to_nir(on_a_grid(of_potentials), data())


@pytest.mark.parametrize("shift", [-0.1, -0.7, 0.3, -1e-3])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_threshold_before_a_shift_fires_at_the_same_numbers(
    shift: float, kind: torch.dtype
) -> None:
    at = torch.tensor([0.5, 0.1, -0.3, 2.0], dtype=kind)
    shifts = torch.full_like(at, shift)
    reached = torch.nextafter(at, torch.full_like(at, -torch.inf))
    for layer in (Above(at, kind), Above(reached, kind)):
        before = layer.before_shift(shifts)
        assert before is not None
        near = [at - shifts]
        for towards in (-torch.inf, torch.inf):
            x = at - shifts
            for _ in range(20):
                x = torch.nextafter(x, torch.full_like(x, towards))
                near.append(x)
        x = torch.stack(near)
        assert torch.equal(before(x), layer(x + shifts))


def test_a_straight_through_estimator_that_rounds_its_spikes_is_refused() -> None:
    def rounding(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mem = net.decay * mem + x
        soft = torch.exp(4 * mem)
        hard = (mem > net.threshold).float()
        return (hard - soft).detach() + soft, mem * (1 - hard)

    with pytest.raises(ValueError, match=r"spikes that a sum|the model and its graph disagree"):
        to_nir(Net(rounding), data())


def test_what_a_potential_is_above_its_threshold_is_not_taken_for_spikes() -> None:
    def graded(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mem = net.decay * mem + x
        spikes = (mem > net.threshold).float()
        return spikes * mem, mem * (1 - spikes)

    with pytest.raises(ValueError, match="changes a value where it is above a threshold"):
        to_nir(Net(graded), data(), check=False)


@pytest.mark.parametrize(
    "change",
    [lambda part: part.clamp_(max=0.6), lambda part: part.mul_(0.5), lambda part: part + part],
)
def test_what_else_is_done_to_a_potential_where_it_fired_is_refused(
    change: Callable[[Tensor], Tensor],
) -> None:
    def changed(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mem = net.decay * mem + x
        fired = mem > net.threshold
        part = change(mem[fired])
        part -= net.threshold
        mem[fired] = part
        return fired.float(), mem

    with pytest.raises(ValueError, match=r"changed in place|receives"):
        to_nir(Net(changed), data())


def test_a_potential_that_changed_since_it_was_taken_is_refused() -> None:
    def changed(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mem = net.decay * mem + x
        fired = mem > net.threshold
        part = mem[fired] - net.threshold
        mem += 0.25
        mem[fired] = part
        return fired.float(), mem

    with pytest.raises(ValueError, match=r"changed in place|receives"):
        to_nir(Net(changed), data())


def test_what_a_soft_function_leaves_behind_is_refused() -> None:
    def left(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mem = net.decay * mem + x
        soft, other = torch.sigmoid(mem), torch.sigmoid(mem - net.threshold)
        hard = (mem > net.threshold).float()
        return (hard - soft).detach() + other, mem * (1 - hard)

    with pytest.raises(ValueError, match=r"sigmoid\(\) of .* neither linear nor a threshold"):
        to_nir(Net(left), data())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x + 0.1 * torch.randn(x.shape), "random numbers of randn..; it draws at random"),
        (lambda x: nn.functional.dropout(x, 0.5, True), "dropout.. of 'fc'; it draws at random"),
        (lambda x: torch.bernoulli(x.clamp(0, 1)), "it draws at random"),
        (lambda x: nn.functional.layer_norm(x, x.shape[-1:]), "leave it out, or apply it in front"),
        (lambda x: x * x.sigmoid(), "neither linear nor a threshold"),
        (lambda x: x / (x + 9), "product or quotient of two signals"),
        (lambda x: torch.stack([x, x], -1)[..., 0], "steps of 'fc' that are no sequence in order"),
    ],
    ids=["noise", "dropout", "encoder", "norm", "swish", "product", "stack"],
)
def test_refusals_say_what_a_function_does(
    change: Callable[[Tensor], Tensor], message: str
) -> None:
    def step(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mem = net.decay * mem + change(x)
        return (mem > net.threshold).float(), mem

    with pytest.raises(ValueError, match=message):
        to_nir(Net(step), data())


def test_constants_that_change_from_step_to_step_are_named() -> None:
    class Growing(Net):
        def forward(self, x: Tensor) -> Tensor:
            unit, state, outputs = self.get_submodule("unit"), None, []
            for t, x_t in enumerate(x):
                y, state = unit((1 + t) * self.fc(x_t)[None], state)
                outputs.append(y[0])
            return torch.stack(outputs)

    model = Growing(subtracted)
    model.add_module("unit", SNU(6, SNUConfig(threshold=0.2)))
    with pytest.raises(ValueError, match=r"mul\(\) with other numbers in each"):
        to_nir(model, data())


def test_a_mean_over_the_steps_is_refused_as_such() -> None:
    class Mean(Net):
        def forward(self, x: Tensor) -> Tensor:
            mem, total = torch.zeros(x.shape[1], 6), torch.zeros(x.shape[1], 6)
            for x_t in x:
                y, mem = subtracted(self, self.fc(x_t), mem, mem)
                total = total + y
            return total / len(x)

    with pytest.raises(ValueError, match=r"over the 12 steps of the sample, .* return the sum"):
        to_nir(Mean(subtracted), data())


Encoding = Callable[[nn.Module, Tensor], Tensor]


@pytest.mark.parametrize(
    "encoded",
    [
        lambda fc, x: fc(x.repeat(9, 1, 1)),
        lambda fc, x: fc(x).unsqueeze(0).expand(9, -1, -1),
        lambda fc, x: fc(torch.stack([x] * 9)),
        lambda fc, x: fc(x.unsqueeze(1).repeat(1, 9, 1)).transpose(0, 1),
    ],
    ids=["repeat", "expand", "stack", "batch_first"],
)
def test_what_is_repeated_over_time_leaves(encoded: Encoding) -> None:
    class Repeated(Net):
        def forward(self, x: Tensor) -> Tensor:
            mem, outputs = torch.zeros(len(x), 6), []
            for x_t in encoded(self.fc, x):
                y, mem = subtracted(self, x_t, mem, mem)
                outputs.append(y)
            return torch.stack(outputs)

    model, x = Repeated(subtracted), 3 * torch.rand(4, 3)
    graph = to_nir(model, x)
    y = model(x)
    assert 0 < y.mean() < 1
    assert torch.equal(network(graph)(x.expand(9, 4, 3))[0], y)


def test_what_is_repeated_and_differs_from_step_to_step_is_refused() -> None:
    class Ramp(Net):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x.repeat(9, 1, 1) * torch.linspace(1, 2, 9)[:, None, None])
            return y

    with pytest.raises(ValueError, match="the same in every step"):
        to_nir(Ramp(subtracted), torch.rand(4, 3))


@pytest.mark.parametrize("inputs", ["3 * x_t", "3 * x[t] + 0.25", "(x_t - 0.4) / 0.5"])
def test_what_is_done_to_the_input_in_the_loop_does_not_hide_that_it_was_cut(inputs: str) -> None:
    unit = SNU(6, SNUConfig(threshold=0.2))

    class Loop(Net):
        def forward(self, x: Tensor) -> Tensor:
            state, outputs = None, []
            for t, x_t in enumerate(x):
                drive = eval(inputs, {"x": x, "t": t, "x_t": x_t})
                y, state = self.get_submodule("unit")(self.fc(drive)[None], state)
                outputs.append(y[0])
            return torch.stack(outputs)

    model, x = Loop(subtracted), data()
    model.add_module("unit", unit)
    graph = to_nir(model, x)
    assert declared(graph)["checked"]["steps"] == 32
    with torch.no_grad():
        assert torch.equal(network(graph)(x)[0], model(x))


REST = 0.25
"""Where potentials rest below, a short binary fraction so that sums are exact."""


def to_a_rest(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = mem + 0.25 * (REST - mem + x)
    spikes = (mem > net.threshold).float()
    return spikes, mem - (mem - REST) * spikes


def with_constants_at_the_input(
    net: Net, x: Tensor, mem: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    mem = mem + 0.25 * ((x + REST) - mem)
    spikes = (mem > net.threshold).float()
    return spikes, mem * (1 - spikes)


def bounded(net: Net, x: Tensor, mem: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mem = torch.clamp(net.decay * mem + x, -1, 1)
    spikes = (mem > net.threshold).float()
    return spikes, mem * (1 - spikes)


def test_a_potential_with_a_rest_is_refused_with_the_way_out_that_leaves() -> None:
    with pytest.raises(ValueError, match="count a potential from its rest, and add constants to"):
        to_nir(on_a_grid(to_a_rest), data())
    model, x = on_a_grid(with_constants_at_the_input), data()
    assert equal(model, x, to_nir(model, x))


def test_a_potential_with_bounds_is_refused_as_nir_has_none() -> None:
    with pytest.raises(ValueError, match="no node that bounds a value"):
        to_nir(on_a_grid(bounded), data())
