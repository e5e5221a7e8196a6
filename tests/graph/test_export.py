"""What leaves as a NIR graph, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin import SNU, Conv1d, Conv2d, Linear, SNUConfig, sSNU
from snu_plugin.graph import SNU as SNUNode
from snu_plugin.graph import check, declared, network, read, to_nir, to_node, write
from snu_plugin.graph.layers import batch_axes, nearest


class Run(nn.Module):
    """A model whose forward is a function, with the modules it names."""

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def __init__(self, forward: Callable[[Run, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Sequence(nn.Module):
    """Layers over (T, B, ...), units with their state dropped."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)[0] if isinstance(layer, (SNU, sSNU)) else layer(x)
        return x


class Folded(nn.Module):
    """A layer that takes (B, ...), run on (T, B, ...) with time folded into the batch."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.flatten(0, 1))
        return y.reshape(*x.shape[:2], *y.shape[1:])


def types(graph: nir.NIRGraph) -> dict[str, str]:
    return {name: type(node).__name__ for name, node in graph.nodes.items()}


def through_a_file(graph: nir.NIRGraph, folder: Path) -> nir.NIRGraph:
    write(folder / "g.nir", graph)
    return read(folder / "g.nir")


def low(**settings: Any) -> SNUConfig:
    """Settings of a unit that fires often."""
    return SNUConfig(threshold=0.1, **settings)


def feed_forward() -> nn.Module:
    return Sequence(
        nn.Linear(5, 7), SNU(7, low()), nn.Dropout(0.5), nn.Linear(7, 3, bias=False), SNU(3, low())
    )  # fmt: skip


def recurrent() -> nn.Module:
    return Sequence(
        nn.Linear(5, 7), SNU(7, low(decay=0.9, learn_decay=True), recurrent=True),
        nn.Identity(), nn.Linear(7, 4), SNU(4, low(g="relu"), recurrent=True),
    )  # fmt: skip


def convolutional() -> nn.Module:
    return Sequence(
        Folded(nn.Conv2d(2, 4, (3, 5), padding=(1, 2), groups=2)), SNU((4, 6, 8), low()),
        Folded(nn.AvgPool2d(2)), nn.Flatten(2), nn.Linear(48, 3), SNU(3, low()),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("build", "shape"),
    [(feed_forward, (5,)), (recurrent, (5,)), (convolutional, (2, 6, 8))],
)
def test_a_network_of_the_core_gives_the_same_outputs_after_a_file(
    build: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = build().eval()
    x = 3 * torch.rand(20, 2, *shape)
    graph = through_a_file(to_nir(model, x[:2]), tmp_path)
    with torch.no_grad():
        expected = model(x)
        actual, _ = network(graph)(x)
    assert 0 < expected.mean() < 1
    assert torch.equal(actual, expected)


def test_a_soft_network_gives_the_same_outputs_after_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Sequence(nn.Linear(5, 7), sSNU(7), nn.Linear(7, 3), sSNU(3, recurrent=True))
    x = 3 * torch.rand(20, 2, 5)
    actual, _ = network(through_a_file(to_nir(model), tmp_path))(x)
    torch.testing.assert_close(actual, model(x), atol=1e-6, rtol=0)


def test_a_graph_has_the_modules_names_complete_shapes_and_a_declared_time_step() -> None:
    graph = to_nir(convolutional(), torch.rand(3, 2, 2, 6, 8), dt=0.5)
    assert types(graph) == {
        "input": "Input", "layers.0.layer": "Conv2d", "layers.1": "LIF",
        "layers.2.layer": "AvgPool2d", "flatten": "Flatten", "layers.4": "Affine",
        "layers.5": "LIF", "output": "Output",
    }  # fmt: skip
    shapes = [tuple(n.output_type["output"].tolist()) for n in graph.nodes.values()]
    assert shapes == [(2, 6, 8), (4, 6, 8), (4, 6, 8), (4, 3, 4), (48,), (3,), (3,), (3,)]
    assert declared(graph)["dt"] == 0.5


def test_a_recurrent_layer_becomes_two_nodes_in_a_cycle_without_a_bias() -> None:
    graph = to_nir(Sequence(nn.Linear(2, 3), SNU(3, recurrent=True)))
    assert types(graph) == {
        "input": "Input", "layers.0": "Affine", "layers.1.lif": "LIF",
        "layers.1.w_rec": "Linear", "output": "Output",
    }  # fmt: skip
    assert {("layers.1.lif", "layers.1.w_rec"), ("layers.1.w_rec", "layers.1.lif")} < set(
        graph.edges
    )


def test_a_layer_for_spikes_leaves_as_that_of_torch() -> None:
    first, last = Linear(6, 5), Linear(5, 3, bias=False)
    graph = to_nir(Sequence(first, SNU(5), last), torch.ones(4, 2, 6))
    assert types(graph) == {
        "input": "Input", "layers.0": "Affine", "layers.1": "LIF", "layers.2": "Linear",
        "output": "Output",
    }  # fmt: skip
    for place, layer in ((0, first), (2, last)):
        weight = layer.weight.numpy(force=True)
        assert np.array_equal(graph.nodes[f"layers.{place}"].weight, weight)


def test_convolutions_for_spikes_leave_as_those_of_torch() -> None:
    for kind, name, shape in ((Conv1d, "Conv1d", (2, 8)), (Conv2d, "Conv2d", (2, 8, 8))):
        layer = kind(2, 3, 3, padding=1)
        graph = to_nir(layer, torch.ones(4, *shape))
        (node,) = (n for n in graph.nodes.values() if type(n).__name__ == name)
        assert np.array_equal(node.weight, layer.weight.numpy(force=True))


def test_units_that_are_pooled_or_feed_a_layer_leave_as_two_calls_do() -> None:
    class Fed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.images, self.units = SNU((3, 4, 4), low()), SNU(12, low())
            self.last = Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.images.pooled(x, (2, 2))
            return self.units.into(self.last, y.flatten(2))[0]

    graph = to_nir(Fed(), torch.ones(4, 2, 3, 4, 4))
    found = [type(node).__name__ for node in graph.nodes.values()]
    assert found.count("LIF") == 2
    assert "Affine" in found
    assert ("units", "last") in graph.edges


def test_weights_keep_their_type_and_neurons_are_float64() -> None:
    graph = to_nir(Sequence(nn.Linear(2, 3), SNU(3)).to(torch.float32))
    assert graph.nodes["layers.0"].weight.dtype == np.float32
    assert graph.nodes["layers.1"].tau.dtype == np.float64
    half = to_nir(Sequence(nn.Linear(2, 3).to(torch.bfloat16)), torch.rand(1, 2).bfloat16())
    assert half.nodes["layers.0"].weight.dtype == np.float32


def test_exporting_changes_nothing_about_the_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    before, random = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    graph = to_nir(model)
    assert model.training
    assert model[1].training
    assert not model[0]._forward_hooks
    assert model[0].weight.grad is None
    assert torch.equal(random, torch.random.get_rng_state())
    with torch.no_grad():
        model[0].weight.zero_()
    assert np.array_equal(graph.nodes["0"].weight, before["0.weight"].numpy())
    node = to_node(model[0], shape=(3,), dt=1.0)
    with torch.no_grad():
        model[0].weight.add_(1)
    assert not node.weight.any()
    drawing = Run(lambda net, x: (torch.rand(1), net.a(x))[1], a=nn.Linear(2, 2))
    random = torch.random.get_rng_state()
    to_nir(drawing)
    assert torch.equal(random, torch.random.get_rng_state())


def test_units_that_standard_nir_cannot_say_leave_as_an_extension_or_not_at_all() -> None:
    model = Sequence(nn.Linear(2, 3), sSNU(3))
    assert isinstance(to_nir(model).nodes["layers.1"], SNUNode)
    with pytest.raises(ValueError, match=r"layers\.1: standard NIR cannot say this unit"):
        to_nir(model, strict=True)
    to_nir(Sequence(nn.Linear(2, 3), SNU(3)), strict=True)


def test_a_loop_over_time_is_followed_through_its_first_step() -> None:
    def steps(net: Run, x: Tensor) -> Tensor:
        return torch.stack([net.b(net.a(x_t)) for x_t in x])

    def batch_first(net: Run, x: Tensor) -> Tensor:
        return torch.stack([net.b(net.a(x[:, t])) for t in range(x.shape[1])], dim=1)

    def constant(net: Run, x: Tensor) -> Tensor:
        return torch.stack([net.b(net.a(x.flatten(1))) for _ in range(4)])

    for forward, sample in (
        (steps, torch.rand(4, 2, 3)),
        (steps, torch.rand(1, 1, 3)),
        (batch_first, torch.rand(2, 4, 3)),
        (constant, torch.rand(2, 3)),
    ):
        graph = to_nir(Run(forward, a=nn.Linear(3, 5), b=nn.Linear(5, 3)), sample)
        assert graph.edges == [("input", "a"), ("a", "b"), ("b", "output")]
        assert graph.nodes["input"].input_type["input"].tolist() == [3]


def test_sums_and_branches_are_followed() -> None:
    def residual(net: Run, x: Tensor) -> Any:
        a = net.a(x)
        b = a + net.b(a)
        b += x
        return net.c(b)

    model = Run(residual, a=nn.Linear(3, 3), b=nn.Linear(3, 3), c=nn.Linear(3, 3))
    graph = to_nir(model)
    assert sorted(graph.edges) == sorted(
        [("input", "a"), ("a", "b"), ("a", "c"), ("b", "c"), ("input", "c"), ("c", "output")]
    )
    x = torch.rand(4, 2, 3)
    torch.testing.assert_close(network(graph)(x)[0], model(x))


def stacked_up(net: Run, x: Tensor) -> Tensor:
    """Layers of which each puts its output beside all that it received."""
    both = torch.cat([x, net.a(x)], -1)
    return net.c(torch.cat((both, net.b(both)), dim=-1))  # type: ignore[no-any-return]


def over_time(net: Run, x: Tensor) -> Tensor:
    """One step after the other; what comes twice has weights of its own each time."""
    y = []
    for x_t in x:
        both = torch.cat([x_t, net.a(x_t)], 1)
        again = net.b(both)
        y.append(net.c(torch.concat([again, both, again], 1)))
    return torch.stack(y)


def of_images(net: Run, x: Tensor) -> Tensor:
    """A flat image, its flat convolution, and what a layer makes of both, time in the batch."""
    folded = x.flatten(0, 1)
    both = torch.cat([folded.flatten(1), net.a(folded).flatten(1)], 1)
    y = net.c(torch.cat([both, net.b(both)], 1))
    return y.view(*x.shape[:2], -1)  # type: ignore[no-any-return]


def on_a_grid(*layers: nn.Module) -> list[nn.Module]:
    """Give weights and biases values whose sums are exact in any order."""
    draw = torch.Generator().manual_seed(0)
    for p in (p for layer in layers for p in layer.parameters()):
        nn.init.uniform_(p, -8, 8, generator=draw)
        p.data.round_().div_(8)
    return list(layers)


@pytest.mark.parametrize(
    ("forward", "order"),
    [(stacked_up, [0, 1, 2]), (over_time, [2, 0, 1, 2]), (of_images, [0, 1, 2])],
)
@torch.no_grad()
def test_a_linear_layer_behind_features_side_by_side_leaves_as_several_that_add_up(
    forward: Callable[[Run, Tensor], Tensor], order: list[int], tmp_path: Path
) -> None:
    shape, first = (4,), nn.Linear(4, 12)
    if forward is of_images:
        shape, first = (1, 2, 2), nn.Conv2d(1, 3, 1)  # type: ignore[assignment]
    second = nn.Linear(4 + 12, 5, bias=False)
    third = nn.Linear(sum([4, 12, 5][i] for i in order), 2)
    model = Run(forward, **dict(zip("abc", on_a_grid(first, second, third), strict=True)))
    x = torch.randint(8, (6, 2, *shape), generator=torch.Generator().manual_seed(1)).float()
    graph = through_a_file(to_nir(model, x), tmp_path)
    for name, layer, count in (("b", second, 2), ("c", third, len(order))):
        parts = [node for key, node in graph.nodes.items() if key.startswith(f"{name}.")]
        weight = np.concatenate([part.weight for part in parts], 1)
        assert len(parts) == count
        assert np.array_equal(weight, layer.weight.numpy())
    biased = [name for name, kind in types(graph).items() if kind == "Affine"]
    assert biased == ["c.0"] if forward is of_images else ["a", "c.0"]
    assert torch.equal(network(graph)(x)[0], model(x))


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda net, x: net.b(torch.cat([net.a(x), x])), r"'b' receives cat\(\) of 'a'"),
        (lambda net, x: net.c(torch.cat([x, torch.ones(2, 4)], 1)), r"'c' receives cat\(\) of"),
        (
            lambda net, x: net.c(torch.cat([x.view(2, 2, 2)] * 2, 2).flatten(1)),
            r"'c' receives the model's input side by side along an axis of \(2, 4\) that is not",
        ),
    ],
)
def test_what_cannot_lie_side_by_side_is_refused(
    forward: Callable[[Run, Tensor], Any], message: str
) -> None:
    model = Run(forward, **linears(c=nn.Linear(8, 2), d=nn.Linear(4, 8)))
    with pytest.raises(ValueError, match=message):
        to_nir(model, torch.rand(2, 4))


def test_modules_that_do_not_reach_the_output_stay_behind() -> None:
    model = Run(lambda net, x: (net.a(x), net.b(x))[0], a=nn.Linear(3, 3), b=nn.Linear(3, 3))
    assert "b" not in to_nir(model).nodes


def test_names_are_made_legal_and_unique() -> None:
    modules = {"input": nn.Linear(2, 2), "a/b": nn.Linear(2, 2), "a_b": nn.Linear(2, 2)}
    model = nn.Sequential()
    for name, module in modules.items():
        model.add_module(name, module)
    assert list(to_nir(model).nodes) == ["input", "input_1", "a_b", "a_b_1", "output"]


def test_a_recurrent_bias_moves_into_the_path_that_acts_in_the_first_step() -> None:
    class Biased(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clone()

    def rule(module: Biased, *, shape: tuple[int, ...], dt: float) -> nir.NIRGraph:
        graph = to_node(SNU(2, recurrent=True), shape=shape, dt=dt)
        graph.nodes["w_rec"] = nir.Affine(graph.nodes["w_rec"].weight, np.array([1.0, 2.0]))
        return graph

    to_node.register(Biased, rule)
    linear = nn.Linear(3, 2)
    graph = to_nir(nn.Sequential(linear, Biased()), check=False)
    expected = linear.bias.detach().double().numpy() + np.array([1.0, 2.0])
    assert np.array_equal(graph.nodes["0"].bias, expected)
    assert types(graph)["1.w_rec"] == "Linear"
    shared = Run(lambda net, x: net.b(a := net.a(x)) + a, a=linear, b=Biased())
    graph = to_nir(shared, check=False)
    assert np.array_equal(graph.nodes["b.bias"].weight, np.eye(2))
    assert np.array_equal(graph.nodes["b.bias"].bias, [1.0, 2.0])
    assert np.array_equal(graph.nodes["a"].bias, linear.bias.detach().numpy())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 4, 3, stride=2, dilation=2, bias=False), (2, 11)),
        (nn.Conv1d(2, 2, 3, padding="same"), (2, 5)),
        (nn.Conv2d(1, 2, (3, 5), padding="same", dilation=2), (1, 9, 11)),
        (nn.Conv2d(1, 2, 3, padding="valid"), (1, 5, 4)),
        (nn.Conv2d(4, 4, (1, 3), groups=4, stride=(1, 2)), (4, 5, 7)),
        (nn.AvgPool2d((2, 3), stride=1, padding=1), (2, 5, 7)),
        (nn.AvgPool2d(2, divisor_override=1), (2, 4, 6)),
        (nn.Flatten(2), (2, 4, 6)),
        (nn.Flatten(), (2, 4, 6)),
    ],
)
def test_each_layer_of_torch_computes_the_same_after_a_file(
    layer: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 2, 1) if len(shape) == 2 else nn.AvgPool2d(1), layer)
    x = torch.rand(3, *shape)
    graph = through_a_file(to_nir(model, x), tmp_path)
    torch.testing.assert_close(network(graph, dt=1.0)(x[None])[0][0], model(x))


def linears(**more: nn.Module) -> dict[str, nn.Module]:
    return {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), **more}


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda net, x: net.b(F.relu(net.a(x))), r"'b' receives relu\(\) of 'a'"),
        (lambda net, x: net.b(net.a(x) * net.a.weight[:2]), r"mul: its constant has the shape"),
        (
            lambda net, x: net.b(net.a(x) * net.b(x)),
            r"mul: .* the product of 'a' \+ 'b', which",
        ),
        (lambda net, x: (a := net.a(x), a.relu_(), net.b(a))[2], r"'b' receives relu\(\) of 'a'"),
        (
            lambda net, x: (a := net.a(x), a.view(-1).mul_(2), net.b(a))[2],
            "'b' receives the output of 'a', changed in place",
        ),
        (lambda net, x: net.b(torch.ones(2, 4)), "'b' receives a tensor that no module made"),
        (lambda net, x: net.a(x).sum(0), r"the model's output receives sum\(\) of 'a'"),
        (lambda net, x: x, "it has no module"),
        (lambda net, x: net.b(net.c(x).view(4, 4)), "only batch and time may be cut"),
        (lambda net, x: net.a(net.c(x)), "does not run on a sample of shape"),
        (lambda net, x: {"y": [net.a(x)]}, "the model returns dict; it must return a tensor"),
    ],
)
def test_what_lies_between_modules_and_is_no_wiring_is_refused(
    forward: Callable[[Run, Tensor], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        to_nir(Run(forward, **linears(c=nn.Linear(4, 8))), torch.rand(2, 4))


def test_a_state_is_no_input_for_another_module() -> None:
    model = Run(lambda net, x: net.b(net.u(net.a(x))[1].s), u=SNU(4), **linears())
    with pytest.raises(ValueError, match="'b' receives a state of 'u'"):
        to_nir(model, torch.rand(3, 2, 4))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Upsample(scale_factor=2, mode="bicubic"), "0: mode is 'bicubic'"),
        (nn.LPPool2d(2, 2), "0: norm_type is 2; NIR has no powers, it can say 1, which is the sum"),
        (nn.BatchNorm2d(1, track_running_stats=False), "0: it keeps no running mean"),
        (nn.LayerNorm(6), r"the model's output receives layer_norm\(\)"),
        (nn.MaxPool2d(2), "0: it takes the maximum of the model's input, which are no spikes"),
    ],
)
def test_a_layer_that_nir_cannot_say_is_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_nir(nn.Sequential(layer), torch.rand(1, 1, 6, 6))


def test_what_cannot_be_exported_at_all_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"begins with Conv2d.*pass sample"):
        to_nir(nn.Sequential(nn.Conv2d(1, 1, 3)))
    with pytest.raises(ValueError, match="no module with a NIR rule"):
        to_nir(nn.ReLU())
    with pytest.raises(TypeError, match="model is Tensor"):
        to_nir(torch.rand(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no NIR rule for ReLU"):
        to_node(nn.ReLU(), shape=(1,), dt=1.0)
    for dt in (0.0, -1.0, float("nan"), True):
        with pytest.raises(ValueError, match="dt is"):
            to_nir(nn.Linear(1, 1), dt=dt)
    with pytest.raises(ValueError, match="must not be empty"):
        to_nir(nn.Linear(1, 1), torch.rand(0, 1))
    inhibited = Sequence(nn.Linear(1, 1), SNU(1, SNUConfig(lateral_inhibition="sample")))
    with pytest.raises(ValueError, match=r"layers\.1: config\.lateral_inhibition"):
        to_nir(inhibited)


def test_a_flatten_that_ends_in_axes_of_size_one_leaves() -> None:
    model = Run(lambda net, x: net.b(net.a(x).flatten(1)), a=nn.Conv2d(2, 4, 3), b=nn.Linear(4, 3))
    x = torch.rand(2, 2, 3, 3)
    graph = to_nir(model, x)
    assert types(graph)["flatten"] == "Flatten"
    torch.testing.assert_close(network(graph)(x[None])[0][0], model(x))


class Unsayable(nn.Module):
    """A unit that only an approximation can say."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.cumsum(0) > 1).to(x)


def test_an_approximation_is_made_where_asked_for_and_ruled_and_says_its_cost() -> None:
    net, x = nn.Sequential(nn.Linear(3, 4), Unsayable()), torch.rand(9, 2, 3)

    def refuse(module: Unsayable, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
        raise ValueError("NIR cannot say it")

    def near(module: Unsayable, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
        return nir.Threshold(np.full(shape, 0.5))

    to_node.register(Unsayable)(refuse)
    with pytest.raises(ValueError, match=r"^1: NIR cannot say it$"):
        to_nir(net, x, approximate=True)
    nearest.register(Unsayable)(near)
    batch_axes.register(Unsayable)(lambda module, x: 2)
    graph = to_nir(net, x, approximate=True)
    told = declared(graph)["approximate"]
    assert told["nodes"] == {"1": "NIR cannot say it"}
    assert told["differing"] == (network(graph)(x)[0] != net(x)).double().mean().item()
    (said,) = [v for v in check(graph) if v.verdict == "approximate"]
    assert (said.name, said.kind, said.field) == ("1", "Threshold", "v_reset")
    with pytest.raises(ValueError, match=r"^1: NIR cannot say it$"):
        to_nir(net, x)
    for sample in (None, x[0], x[:1]):
        with pytest.raises(ValueError, match=r"T, B, ...\) with T at least 2"):
            to_nir(net, sample, approximate=True)
