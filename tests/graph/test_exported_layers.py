"""Layers and functions as people write them: what leaves computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin import SNU, SNUConfig, sSNU
from snu_plugin.graph import declared, network, read, to_nir, verify, write


class Net(nn.Module):
    """Layers and a function that says how they are used, one step after the other."""

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def __init__(self, step: Callable[[Net, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.step = step
        for name, module in modules.items():
            self.add_module(name, module)
        draw = torch.Generator().manual_seed(0)
        for layer in self.modules():
            for p in layer.parameters(recurse=False):
                nn.init.uniform_(p, -0.6, 1, generator=draw)
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.track_running_stats:
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.uniform_(-1, 1, generator=draw)
                layer.running_var.uniform_(0.5, 2, generator=draw)

    def forward(self, x: Tensor) -> Any:
        return self.step(self, x)


class Spikes(nn.Module):
    """Units on one step, ``(B, ...)``, whose state they keep."""

    def __init__(self, *features: int, soft: bool = False) -> None:
        super().__init__()
        config = SNUConfig(threshold=0.2, soft=soft)
        self.unit = sSNU(features, config) if soft else SNU(features, config)
        self.state: Any = None

    def forward(self, x: Tensor) -> Tensor:
        y, self.state = self.unit(x[None], self.state)
        return y[0]  # type: ignore[no-any-return]


def data(*shape: int) -> Tensor:
    return torch.rand((9, 2, *shape), generator=torch.Generator().manual_seed(1))


def run(net: nn.Module, x: Tensor) -> Any:
    for module in net.modules():
        if isinstance(module, Spikes):
            module.state = None
    with torch.no_grad():
        steps = [net.eval()(x_t) for x_t in x]
    if isinstance(steps[0], dict):
        return {name: torch.stack([y[name] for y in steps]) for name in steps[0]}
    return torch.stack(steps)


def export(net: nn.Module, x: Tensor, folder: Path) -> nir.NIRGraph:
    """Return the graph of a net after a file, having seen that it computes the same."""
    write(folder / "g.nir", to_nir(net, x[0]))
    graph = read(folder / "g.nir")
    actual, expected = network(graph)(x)[0], run(net, x)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert all(y.any() for y in (expected.values() if isinstance(expected, dict) else [expected]))
    return graph


def kinds(graph: nir.NIRGraph) -> dict[str, str]:
    return {
        name: type(node).__name__
        for name, node in graph.nodes.items()
        if not isinstance(node, (nir.Input, nir.Output))
    }


def conv() -> nn.Conv2d:
    return nn.Conv2d(1, 2, 3, padding=1)


@pytest.mark.parametrize(
    ("layer", "norm", "shape", "folded"),
    [
        (nn.Linear(4, 3), nn.BatchNorm1d(3), (4,), {"layer": "Affine"}),
        (nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3, affine=False), (4,), {"layer": "Affine"}),
        (nn.Conv1d(1, 3, 3, stride=2), nn.BatchNorm1d(3), (1, 9), {"layer": "Conv1d"}),
        (nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4, eps=0.1), (2, 5, 6), {"layer": "Conv2d"}),
        (nn.AvgPool2d(2), nn.BatchNorm2d(2), (2, 4, 6), {"layer": "AvgPool2d", "norm": "Conv2d"}),
        (nn.Identity(), nn.BatchNorm1d(4), (4,), {"norm": "Affine"}),
        (nn.Identity(), nn.BatchNorm1d(4), (4, 6), {"norm": "Conv1d"}),
    ],
)
def test_a_normalisation_leaves_in_the_weights_before_it_or_as_a_node_of_its_own(
    layer: nn.Module,
    norm: nn.Module,
    shape: tuple[int, ...],
    folded: dict[str, str],
    tmp_path: Path,
) -> None:
    net = Net(lambda net, x: net.norm(net.layer(x)), layer=layer, norm=norm).train()
    assert kinds(export(net, data(*shape), tmp_path)) == folded


def test_weights_that_something_else_reads_too_stay_apart_from_a_normalisation(
    tmp_path: Path,
) -> None:
    def step(net: Net, x: Tensor) -> Tensor:
        y = net.layer(x)
        return net.norm(y) + y  # type: ignore[no-any-return]

    net = Net(step, layer=nn.Linear(4, 3), norm=nn.BatchNorm1d(3))
    assert kinds(export(net, data(4), tmp_path)) == {"layer": "Affine", "norm": "Affine"}


@pytest.mark.parametrize(
    ("pool", "found"),
    [
        (nn.AvgPool2d(2), ["AvgPool2d"]),
        (nn.AvgPool2d((2, 3), stride=1, padding=1), ["AvgPool2d"]),
        (nn.AvgPool2d(2, divisor_override=1), ["SumPool2d"]),
        (nn.AvgPool2d(2, divisor_override=3), ["SumPool2d", "Scale"]),
        (nn.AvgPool2d(3, padding=1, count_include_pad=False), ["SumPool2d", "Scale"]),
        (nn.AvgPool2d((3, 2), ceil_mode=True), ["AvgPool2d"]),
        (nn.AvgPool2d(4, stride=3, padding=1, ceil_mode=True), ["Conv2d", "Scale"]),
        (nn.LPPool2d(1, 2), ["SumPool2d"]),
        (nn.AdaptiveAvgPool2d(1), ["AvgPool2d"]),
        (nn.AdaptiveAvgPool2d((None, 4)), ["AvgPool2d"]),
    ],
)
def test_pools_of_anything_leave(pool: nn.Module, found: list[str], tmp_path: Path) -> None:
    net = Net(lambda net, x: net.pool(net.conv(x)), conv=conv(), pool=pool)
    assert sorted(kinds(export(net, data(1, 6, 8), tmp_path)).values()) == sorted(
        ["Conv2d", *found]
    )


@pytest.mark.parametrize(
    ("pool", "found"),
    [
        (nn.MaxPool2d(2), "SumPool2d"),
        (nn.MaxPool2d((2, 3), stride=1, padding=1), "SumPool2d"),
        (nn.MaxPool2d(2, stride=2, dilation=2), "Conv2d"),
        (nn.MaxPool2d(4, stride=3, ceil_mode=True), "Conv2d"),
        (nn.AdaptiveMaxPool2d((3, 2)), "SumPool2d"),
    ],
)
def test_the_maximum_of_spikes_leaves_as_a_sum_and_a_threshold(
    pool: nn.Module, found: str, tmp_path: Path
) -> None:
    net = Net(lambda net, x: net.pool(net.unit(net.conv(x))), conv=conv(), unit=Spikes(2, 6, 8),
              pool=pool)  # fmt: skip
    graph = export(net, data(1, 6, 8), tmp_path)
    assert kinds(graph) == {
        "conv": "Conv2d", "unit.unit": "LIF", "pool.sum": found, "pool.max": "Threshold"
    }  # fmt: skip


@pytest.mark.parametrize("pool", [nn.AvgPool1d(2), nn.AvgPool1d(3, 2, 1, count_include_pad=False),
                                  nn.MaxPool1d(2), nn.MaxPool1d(3, 2, ceil_mode=True)])  # fmt: skip
def test_pools_over_one_axis_leave(pool: nn.Module, tmp_path: Path) -> None:
    net = Net(lambda net, x: net.pool(net.unit(net.conv(x))), conv=nn.Conv1d(1, 3, 3),
              unit=Spikes(3, 8), pool=pool)  # fmt: skip
    export(net, data(1, 10), tmp_path)


@pytest.mark.parametrize(
    ("between", "of"),
    [
        (lambda net, x: net.conv(x), "'conv'"),
        (lambda net, x: net.soft(net.conv(x)), "'soft.unit'"),
        (lambda net, x: net.norm(net.unit(net.conv(x))), "'norm'"),
        (lambda net, x: net.average(net.unit(net.conv(x))), "'average'"),
        (lambda net, x: 2 * net.unit(net.conv(x)), "'mul'"),
        (lambda net, x: net.unit(a := net.conv(x)) + a, r"'unit.unit' \+ 'conv'"),
    ],
)
def test_the_maximum_of_what_may_be_no_spikes_is_refused(
    between: Callable[[Net, Tensor], Tensor], of: str
) -> None:
    net = Net(
        lambda net, x: net.pool(between(net, x)), conv=conv(), unit=Spikes(2, 6, 6),
        soft=Spikes(2, 6, 6, soft=True), norm=nn.BatchNorm2d(2), average=nn.AvgPool2d(1),
        pool=nn.MaxPool2d(2),
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=f"pool: it takes the maximum of {of}, which are no spikes"
    ):
        to_nir(net, data(1, 6, 6)[0])


@pytest.mark.parametrize(
    ("step", "found"),
    [
        (lambda net, x: F.avg_pool2d(F.max_pool2d(net.unit(net.conv(x)), 2), 2),
         ["Conv2d", "LIF", "SumPool2d", "Threshold", "AvgPool2d"]),
        (lambda net, x: net.pool(net.pool(net.conv(x))), ["Conv2d", "AvgPool2d", "AvgPool2d"]),
        (lambda net, x: F.adaptive_avg_pool2d(net.conv(x), 1).flatten(1),
         ["Conv2d", "AvgPool2d", "Flatten"]),
        (lambda net, x: 4 * F.avg_pool2d(net.conv(x), 2), ["Conv2d", "AvgPool2d", "Scale"]),
        (lambda net, x: F.lp_pool2d(net.conv(x), 1, 2), ["Conv2d", "SumPool2d"]),
        (lambda net, x: F.conv2d(x, net.conv.weight, net.conv.bias, padding=1), ["Conv2d"]),
        (lambda net, x: net.conv(x) * net.gain.weight.view(1, 2, 1, 1), ["Conv2d", "Scale"]),
        (lambda net, x: net.conv(x) + net.gain.weight.view(2, 1, 1), ["Conv2d", "Conv2d"]),
        (lambda net, x: F.batch_norm(net.conv(x), net.norm.running_mean, net.norm.running_var),
         ["Conv2d"]),
    ],
)  # fmt: skip
def test_functions_of_images_leave_as_the_layers_that_they_are(
    step: Callable[[Net, Tensor], Tensor], found: list[str], tmp_path: Path
) -> None:
    net = Net(step, conv=conv(), unit=Spikes(2, 8, 8), pool=nn.AvgPool2d(2),
              gain=nn.Linear(2, 1), norm=nn.BatchNorm2d(2))  # fmt: skip
    assert sorted(kinds(export(net, data(1, 8, 8), tmp_path)).values()) == sorted(found)


@pytest.mark.parametrize(
    ("step", "found"),
    [
        (lambda net, x: F.linear(x, net.a.weight, net.a.bias), ["Affine"]),
        (lambda net, x: x @ net.a.weight.t(), ["Linear"]),
        (lambda net, x: net.a(x) * 0.3, ["Affine", "Scale"]),
        (lambda net, x: net.b(net.a(x).mul_(3)), ["Affine", "Scale", "Affine"]),
        (lambda net, x: net.a(x) / net.a.bias, ["Affine", "Scale"]),
        (lambda net, x: -net.a(x), ["Affine", "Scale"]),
        (lambda net, x: net.a(x) + net.b.bias, ["Affine", "Affine"]),
        (lambda net, x: net.a(x) - 0.5, ["Affine", "Affine"]),
        (lambda net, x: 1 - net.a(x), ["Affine", "Affine"]),
        (lambda net, x: net.a(x) - net.b(x), ["Affine", "Affine", "Scale"]),
        (lambda net, x: net.a(net.a(x)), ["Affine", "Affine"]),
        (lambda net, x: net.b(net.a(x).unsqueeze(1).squeeze(1)), ["Affine", "Affine"]),
    ],
)
def test_arithmetic_with_constants_and_layers_used_twice_leave(
    step: Callable[[Net, Tensor], Tensor], found: list[str], tmp_path: Path
) -> None:
    net = Net(step, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    assert sorted(kinds(export(net, data(4), tmp_path)).values()) == sorted(found)


@pytest.mark.parametrize(
    "step",
    [
        lambda net, x: net.a(x) + torch.randn(4),
        lambda net, x: net.a(x) * torch.rand(1).item(),
        lambda net, x: (net.count.append(1), len(net.count) * net.a(x))[1],
    ],
    ids=["noise", "drawn factor", "counter"],
)
def test_a_constant_that_is_another_in_each_step_is_refused(
    step: Callable[[Net, Tensor], Tensor],
) -> None:
    net = Net(step, a=nn.Linear(4, 4))
    net.count = []  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"the model returns '(add|mul)_1' when it is called again|random numbers"
    ):
        to_nir(net, data(4)[0])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(2, 4, (3, 2), padding=1, groups=2, dilation=(1, 2)), (2, 5, 6)),
        (nn.ConvTranspose1d(2, 3, 3, bias=False), (2, 7)),
        (nn.Conv2d(2, 2, (3, 5), padding="same"), (2, 5, 6)),
        (nn.Conv2d(2, 4, 3, stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2), (2, 7, 9)),
        (nn.Conv1d(2, 4, 3, padding="same", dilation=3), (2, 7)),
        (nn.ConvTranspose2d(2, 3, 3, stride=2), (2, 5, 6)),
        (nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), 1, (1, 0), 2, dilation=(1, 2)), (4, 5, 4)),
        (nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1), (2, 7)),
        (nn.ConvTranspose2d(2, 3, 2, padding=2), (2, 6, 6)),
        (nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (2, 6)),
        (nn.Conv2d(2, 3, 3, stride=2, padding=(1, 2), padding_mode="reflect"), (2, 6, 7)),
        (nn.Conv2d(2, 4, 3, padding="same", groups=2, padding_mode="replicate"), (2, 6, 7)),
    ],
)
def test_convolutions_of_every_kind_leave(
    layer: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    export(Net(lambda net, x: net.layer(x), layer=layer), data(*shape), tmp_path)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Upsample(scale_factor=2), (2, 4, 5)),
        (nn.Upsample(size=(7, 9), mode="bilinear"), (2, 4, 5)),
        (nn.UpsamplingBilinear2d(scale_factor=2), (2, 3, 3)),
        (nn.Upsample(scale_factor=3, mode="linear", align_corners=True), (2, 4)),
        (nn.CircularPad2d(1), (2, 4, 5)),
        (nn.ReflectionPad1d(2), (2, 5)),
        (nn.ReplicationPad2d(1), (1, 3, 3)),
        (nn.AdaptiveAvgPool2d((3, 5)), (2, 7, 8)),
        (nn.AdaptiveAvgPool1d(4), (2, 6)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_linear_along_each_axis_of_maps_leaves_as_two_convolutions(
    layer: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    graph = export(Net(lambda net, x: net.layer(x), layer=layer), data(*shape), tmp_path)
    assert set(kinds(graph).values()) <= {"Conv1d", "Conv2d"}


MAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "interpolate": lambda x, w: F.interpolate(x, scale_factor=2),
    "conv_transpose2d": lambda x, w: F.conv_transpose2d(x, w, stride=2),
    "pad": lambda x, w: F.pad(x, (1, 1, 1, 1), mode="circular"),
}


@pytest.mark.parametrize("function", MAPS.values(), ids=MAPS)
def test_such_layers_may_be_functions(
    function: Callable[[Tensor, Tensor], Tensor], tmp_path: Path
) -> None:
    weight = torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2)
    net = Net(lambda net, x: function(net.layer(x), weight), layer=nn.Conv2d(1, 2, 3))
    export(net, data(1, 5, 5), tmp_path)


def test_the_maximum_of_spikes_in_windows_of_several_sizes_leaves(tmp_path: Path) -> None:
    net = Net(
        lambda net, x: net.pool(net.unit(net.layer(x))),
        layer=nn.Conv2d(1, 2, 3), unit=Spikes(2, 5, 5), pool=nn.AdaptiveMaxPool2d(3),
    )  # fmt: skip
    export(net, data(1, 7, 7), tmp_path)


def test_all_tensors_of_a_dict_leave_by_name(tmp_path: Path) -> None:
    def step(net: Net, x: Tensor) -> dict[str, Tensor]:
        drive = net.a(x)
        return {"drive": drive, "spikes": net.unit(drive), "a": net.b(x)}

    net = Net(step, a=nn.Linear(4, 3), b=nn.Linear(4, 2), unit=Spikes(3))
    graph = export(net, data(4), tmp_path)
    outputs = {name for name, node in graph.nodes.items() if isinstance(node, nir.Output)}
    assert outputs == {"drive", "spikes", "a"}
    assert kinds(graph) == {"a_1": "Affine", "b": "Affine", "unit.unit": "LIF"}


def test_what_a_model_returns_beside_its_output_leaves_too(tmp_path: Path) -> None:
    net = Net(lambda net, x: (net.b(a := net.a(x)), a, None), a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    x = data(4)
    y = network(to_nir(net, x[0]))(x)[0]
    assert isinstance(y, dict)
    assert list(y) == ["output", "output_1"]
    torch.testing.assert_close(y["output_1"], net.a(x))
    torch.testing.assert_close(y["output"], net(x)[0])


def test_what_nir_cannot_say_of_it_is_left_out_and_declared() -> None:
    net = Net(lambda net, x: (a := net.a(x), a.relu()), a=nn.Linear(4, 3))
    graph = to_nir(net, data(4)[0])
    assert [n for n, node in graph.nodes.items() if isinstance(node, nir.Output)] == ["output"]
    assert "relu() of 'a'" in declared(graph)["left_out"]["output_1"]
    (note,) = verify(graph, data(4), simulators=[]).notes
    assert note.startswith("the model gives output_1 too, which did not leave: ")


def test_a_potential_that_no_node_gives_is_refused_and_never_becomes_spikes() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.u = nn.Linear(4, 3), SNU(3)

        def forward(self, x: Tensor) -> Tensor:
            state, potentials = None, []
            for x_t in x:
                _, state = self.u(self.a(x_t)[None], state)
                potentials.append(state.s)
            return torch.stack(potentials)

    with pytest.raises(ValueError, match="the model's output receives a state of 'u'"):
        to_nir(Loop(), data(4))


def test_the_values_of_spread_constants_are_complete_in_the_graph() -> None:
    graph = to_nir(Net(lambda net, x: net.a(x) * 0.5, a=nn.Linear(2, 3)), data(2)[0])
    assert np.array_equal(graph.nodes["mul"].scale, [0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("step", "shape", "found"),
    [
        (lambda net, x: torch.cat([net.a(x), x], 1), (4,), ["Affine", "Linear", "Linear"]),
        (lambda net, x: torch.cat([x, x], -1) + torch.cat([net.a(x), net.b(x)], -1), (4,),
         ["Affine"] * 2 + ["Linear"] * 4),
        (lambda net, x: net.unit(torch.cat([net.a(x), x], 1)), (4,),
         ["Affine", "LIF", "Linear", "Linear"]),
        (lambda net, x: net.wide(torch.cat([x, net.conv(x)], 1)), (1, 6, 6), ["Conv2d"] * 3),
        (lambda net, x: net.pool(torch.cat([x, net.conv(x)], 1)), (1, 6, 6),
         ["AvgPool2d", "Conv2d", "Conv2d", "Conv2d"]),
        (lambda net, x: net.flat(torch.cat([x, net.conv(x)], 1).flatten(1)), (1, 2, 2),
         ["Affine", "Conv2d", "Conv2d", "Conv2d", "Flatten"]),
    ],
)  # fmt: skip
def test_features_side_by_side_leave_as_a_sum_whatever_receives_them(
    step: Callable[[Net, Tensor], Tensor], shape: tuple[int, ...], found: list[str], tmp_path: Path
) -> None:
    net = Net(
        step, a=nn.Linear(4, 4), b=nn.Linear(4, 4), unit=Spikes(8), conv=conv(),
        wide=nn.Conv2d(3, 2, 3), pool=nn.AvgPool2d(2), flat=nn.Linear(12, 2),
    )  # fmt: skip
    assert sorted(kinds(export(net, data(*shape), tmp_path)).values()) == found


class Loop(nn.Module):
    """Weights in front of units, in a loop over time that is written in some way."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.u, self.loop = nn.Linear(4, 3), Spikes(3), forward
        nn.init.uniform_(self.a.weight, -0.5, 1)
        norms = [nn.BatchNorm1d(3) for _ in range(9)]
        for norm in norms:
            assert norm.running_mean is not None
            norm.running_mean.fill_(-0.5)
        self.norms = nn.ModuleList(norms)

    def forward(self, x: Tensor) -> Any:
        self.u.state = None
        return self.loop(self, x)


def into_one_tensor(net: Any, x: Tensor) -> Tensor:
    y = torch.zeros(len(x), x.shape[1], 3)
    for t in range(len(x)):
        y[t] = net.u(net.a(x[t]))
    return y


def batch_first_into_one_tensor(net: Any, x: Tensor) -> Tensor:
    x, y = x.transpose(0, 1), torch.zeros(x.shape[1], len(x), 3)
    for t in range(x.shape[1]):
        y[:, t, :] = net.u(net.a(x[:, t]))
    return y.permute(1, 0, 2)


@pytest.mark.parametrize(
    "forward",
    [
        into_one_tensor,
        batch_first_into_one_tensor,
        lambda net, x: torch.cat([net.u(net.a(x_t)).unsqueeze(0) for x_t in torch.unbind(x)]),
        lambda net, x: torch.stack([net.u(net.a(x_t)) for x_t in (x - 0.25) * 2]),
        lambda net, x: torch.stack([net.u(h) for h in net.a(x)]),
        lambda net, x: torch.stack([net.u(n(net.a(h))) for n, h in zip(net.norms, x, strict=True)]),
        lambda net, x: torch.stack([F.relu(net.u(net.a(x_t))) for x_t in x]),
    ],
)
def test_loops_over_time_leave_however_they_are_written(
    forward: Callable[[Any, Tensor], Tensor], tmp_path: Path
) -> None:
    model, x = Loop(forward).eval(), data(4)
    write(tmp_path / "g.nir", to_nir(model, x))
    expected = model(x)
    assert 0 < expected.mean() < 1
    assert torch.equal(network(read(tmp_path / "g.nir"))(x)[0], expected)


def backwards(net: Any, y: Tensor, t: int, spikes: Tensor) -> None:
    y[len(y) - 1 - t] = spikes


def with_more(net: Any, y: Tensor, t: int, spikes: Tensor) -> None:
    y[t] = spikes
    y[t] += spikes.mean()


def but_one(net: Any, y: Tensor, t: int, spikes: Tensor) -> None:
    y[t] = spikes
    y[0, 0, 0] = 1.0


def twice(net: Any, y: Tensor, t: int, spikes: Tensor) -> None:
    y[t] = spikes
    y[t] = torch.ones_like(spikes)


def by_a_tensor(net: Any, y: Tensor, t: int, spikes: Tensor) -> None:
    y[torch.tensor([t])] = spikes


@pytest.mark.parametrize("write", [backwards, with_more, but_one, twice, by_a_tensor])
def test_tensors_that_are_not_filled_step_by_step_are_refused(write: Callable[..., None]) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = torch.zeros(len(x), x.shape[1], 3)
        for t in range(len(x)):
            write(net, y, t, net.u(net.a(x[t])))
        return y

    with pytest.raises(ValueError, match="the model's output receives"):
        to_nir(Loop(forward), data(4))


def test_a_model_that_writes_into_its_input_leaves_the_sample_as_it_is() -> None:
    def step(net: Net, x: Tensor) -> Tensor:
        y: Tensor = net.a(x.mul_(2))
        return y

    x = data(4)[0]
    graph = to_nir(Net(step, a=nn.Linear(4, 3)), x)
    assert torch.equal(x, data(4)[0])
    assert kinds(graph) == {"mul": "Scale", "a": "Affine"}


def test_a_normalisation_that_is_another_in_each_step_is_refused() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return torch.stack([net.u(n(net.a(h))) for n, h in zip(net.norms, x, strict=True)])

    model = Loop(forward).eval()
    model.norms[4].running_mean.fill_(0.5)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"receives 'norms.4' \(3,\) in step 5 and 'norms.0'"):
        to_nir(model, data(4))


@pytest.mark.parametrize("add_up", [lambda y: y.sum(0), lambda y: y.mean(0), lambda y: y.max(0)[0]])
def test_a_sum_over_time_is_refused_with_the_way_out(add_up: Callable[[Tensor], Tensor]) -> None:
    model = Loop(lambda net, x: add_up(torch.stack([net.u(net.a(x_t)) for x_t in x])))
    with pytest.raises(ValueError, match=r"\(\) of 'u.unit'; a NIR graph gives what each step giv"):
        to_nir(model, data(4))


def test_an_input_that_two_layers_take_in_two_ways_is_refused() -> None:
    def step(net: Net, x: Tensor) -> Tensor:
        half = x * 0.5
        return net.a(half.flatten(1)) + net.b(half).flatten(1)  # type: ignore[no-any-return]

    net = Net(step, a=nn.Linear(4, 4), b=nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"takes .* in a step, another module took it"):
        to_nir(net, torch.rand(2, 2, 2))


class Sum(nn.Module):
    """Spikes of what two inputs drive, one step in a call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.unit = nn.Linear(4, 3), nn.Linear(2, 3), Spikes(3)

    def forward(self, seen: Tensor, heard: Tensor) -> Tensor:
        y: Tensor = self.unit(self.a(seen) + self.b(heard * 2))
        return y


@pytest.mark.parametrize("names", [("input", "input_1"), ("heard", "seen")])
def test_a_model_with_several_inputs_leaves_with_an_input_for_each(
    names: tuple[str, str], tmp_path: Path
) -> None:
    model = Sum()
    x = {"seen": data(4), "heard": data(2)}
    step = {name: value[0] for name, value in x.items()}
    write(tmp_path / "g.nir", to_nir(model, step if "seen" in names else tuple(step.values())))
    graph = read(tmp_path / "g.nir")
    assert [n for n, node in graph.nodes.items() if isinstance(node, nir.Input)] == list(names)
    given = x if "seen" in names else dict(zip(names, x.values(), strict=True))
    actual = network(graph)(given)[0]
    model.unit.state = None
    with torch.no_grad():
        expected = torch.stack([model(*x_t) for x_t in zip(*x.values(), strict=True)])
    assert 0 < expected.mean() < 1
    assert torch.equal(actual, expected)


def test_an_input_that_reaches_no_output_is_no_input() -> None:
    class One(Sum):
        def forward(self, seen: Tensor, heard: Tensor) -> Tensor:
            y: Tensor = self.a(seen)
            return y

    graph = to_nir(One(), (data(4)[0], data(2)[0]))
    assert graph.edges == [("input", "a"), ("a", "output")]
    assert "input_1" not in graph.nodes


@pytest.mark.parametrize(
    "step",
    [
        lambda net, x: net.unit(net.fc(x.flatten(1)) + net.pool(x).flatten(1)),
        lambda net, x: net.unit(net.pool(x).flatten(1) + net.fc(x.flatten(1))),
        lambda net, x: net.fc(x.flatten(1)) + net.unit(net.pool(x).flatten(1)),
        lambda net, x: net.unit(net.pool(x).flatten(1) + net.pool(0.5 * x).reshape(len(x), 4)),
        lambda net, x: net.unit(2 * net.fc(x.flatten(1)) - net.pool(x).view(-1, 4)),
        lambda net, x: net.maps(net.pool(x)).flatten(1) + net.fc(x.flatten(1)),
    ],
)
def test_what_is_flattened_or_pooled_meets_features_in_a_sum(
    step: Callable[[Any, Tensor], Any], tmp_path: Path
) -> None:
    modules = {"fc": nn.Linear(16, 4), "pool": nn.AvgPool2d(2)}
    export(Net(step, **modules, unit=Spikes(4), maps=Spikes(1, 2, 2)), data(1, 4, 4), tmp_path)


@pytest.mark.parametrize(
    ("step", "shape"),
    [
        (lambda net, x: net.unit(net.a(x[:, :6])), (9,)),
        (lambda net, x: net.unit(net.a(x[..., :6]) + net.b(x[..., 6:])), (9,)),
        (lambda net, x: net.unit(net.a(x.narrow(1, 2, 6)) - x[:, 5:]), (9,)),
        (lambda net, x: net.unit(net.b(torch.cat([c[:, 1:2] for c in x.chunk(3, 1)], 1))), (9,)),
        (lambda net, x: net.unit(net.b(net.a(x.split([6, 3], -1)[0])[:, 1:] * 2)), (9,)),
        (lambda net, x: net.unit(net.maps(x[:, 1:3]).flatten(1)), (4, 3, 3)),
        (lambda net, x: net.unit(net.a(x)[:, :1] + net.a(x)), (6,)),
        (lambda net, x: net.unit(net.b(torch.cat([x, x], 1)[:, 2:5])), (6,)),
        (lambda net, x: net.unit(net.a(torch.cat([net.b(x)[:, :3], x], 1))), (3,)),
    ],
    ids=["a_part", "all_parts", "and_beside_it", "of_three", "of_a_layer", "channels", "spread",
         "of_what_lies_side_by_side", "beside_others"],
)  # fmt: skip
def test_a_part_of_the_features_leaves_as_what_takes_it(
    step: Callable[[Any, Tensor], Any], shape: tuple[int, ...], tmp_path: Path
) -> None:
    layers = {"a": nn.Linear(6, 4), "b": nn.Linear(3, 4), "maps": nn.Conv2d(2, 1, 2)}
    export(Net(step, **layers, unit=Spikes(4)), data(*shape), tmp_path)


@pytest.mark.parametrize(
    ("step", "shape"),
    [
        (lambda net, x: net.unit(net.maps(x).mean((2, 3))), (4, 3, 3)),
        (lambda net, x: net.unit(net.maps(x).sum(dim=[-1, -2])), (4, 3, 3)),
        (lambda net, x: net.unit(net.maps(x).mean((-2, -1), keepdim=True).flatten(1)), (4, 3, 3)),
        (lambda net, x: net.unit(net.line(x).mean(2)), (2, 6)),
        (lambda net, x: net.unit(net.a(x) - 0.3 * net.a(x).sum(-1, keepdim=True)), (6,)),
        (lambda net, x: net.unit(net.a(x) - net.a(x).mean(1, keepdim=True)), (6,)),
    ],
    ids=["mean", "sum", "axes_kept", "one_axis", "of_features", "mean_of_features"],
)
def test_means_and_sums_over_space_or_features_leave(
    step: Callable[[Any, Tensor], Any], shape: tuple[int, ...], tmp_path: Path
) -> None:
    layers = {"a": nn.Linear(6, 4), "maps": nn.Conv2d(4, 4, 2), "line": nn.Conv1d(2, 4, 3)}
    export(Net(step, **layers, unit=Spikes(4)), data(*shape), tmp_path)


@pytest.mark.parametrize(
    ("pad", "shape"),
    [
        (lambda x: F.pad(x, (1, 1, 1, 1)), (2, 3, 4)),
        (nn.ZeroPad2d((2, 0, 1, 3)), (2, 3, 4)),
        (lambda x: F.pad(x, (0, 2)), (2, 3, 4)),
        (nn.ConstantPad1d((3, 1), 0.0), (2, 5)),
    ],
)
def test_zeros_around_maps_leave(
    pad: Callable[[Tensor], Tensor], shape: tuple[int, ...], tmp_path: Path
) -> None:
    conv = nn.Conv2d(2, 3, 2) if len(shape) == 3 else nn.Conv1d(2, 3, 2)
    export(Net(lambda net, x: net.conv(pad(x)), conv=conv), data(*shape), tmp_path)


def test_a_constant_around_maps_must_be_zero() -> None:
    net = Net(lambda net, x: net.conv(F.pad(x, (1, 1), value=1.0)), conv=nn.Conv2d(2, 3, 2))
    with pytest.raises(ValueError, match=r"'conv' receives pad\(\)"):
        to_nir(net, data(2, 3, 4)[0])


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w, b: torch.einsum("bi,ji->bj", x, w),
        lambda x, w, b: torch.einsum("oi, bi -> bo", w, x),
        lambda x, w, b: torch.einsum("bi,ij->bj", [x, w.t()]),
        lambda x, w, b: torch.addmm(b, x, w.t()),
    ],
)
def test_products_leave_however_they_are_written(
    product: Callable[[Tensor, Tensor, Tensor], Tensor], tmp_path: Path
) -> None:
    net = Net(lambda net, x: product(x, net.a.weight, net.a.bias), a=nn.Linear(6, 4))
    export(net, data(6), tmp_path)


def test_a_layer_that_is_asked_twice_for_the_same_leaves(tmp_path: Path) -> None:
    layers = {"a": nn.Linear(6, 4), "unit": Spikes(4)}
    export(Net(lambda net, x: net.unit(net.a(x)) + net.a(x), **layers), data(6), tmp_path)


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_layers_asked_again_for_what_they_made_again_leave(steps: int) -> None:
    def loop(net: Any, x: Tensor) -> Tensor:
        net.unit.state = None
        sums = (net.a(x_t) + net.b(net.a(x_t)) + net.b(net.b(net.a(x_t))) for x_t in x)
        return torch.stack([net.unit(drive) for drive in sums])

    net, x = Net(loop, a=nn.Linear(6, 4), b=nn.Linear(4, 4), unit=Spikes(4)), data(6)
    graph = to_nir(net, x[:steps])
    with torch.no_grad():
        torch.testing.assert_close(network(graph)(x)[0], net(x))


def test_a_model_that_returns_the_last_step_alone_of_layers_asked_twice_leaves() -> None:
    def last(net: Any, x: Tensor) -> Tensor:
        for x_t in x:
            y = net.unit(net.a(x_t)) + net.a(x_t)
        return y  # type: ignore[no-any-return]

    net, x = Net(last, a=nn.Linear(6, 4), unit=Spikes(4)), data(6)
    graph = to_nir(net, x)
    net.unit.state = None
    with torch.no_grad():
        torch.testing.assert_close(network(graph)(x)[0][-1], net(x))


FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "groups": lambda y: y.reshape(-1, 3, 4).sum(-1),
    "one of each": lambda y: y.view(len(y), 4, -1).mean(1),
    "turned round": lambda y: torch.flip(y, [1]),
    "moved on": lambda y: torch.roll(y, 2, -1),
    "every other": lambda y: y[:, ::2],
    "every third from the second on": lambda y: y[..., 1::3],
    "masked": lambda y: y[:, torch.arange(12) % 5 == 0],
    "chosen": lambda y: torch.index_select(y, 1, torch.tensor([7, 5, 7, 2])),
}


@pytest.mark.parametrize("function", FEATURES.values(), ids=FEATURES)
def test_groups_of_features_and_their_order_leave(function: Callable[[Tensor], Tensor]) -> None:
    class Populations(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.spikes = nn.Linear(4, 12), Spikes(12)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.spikes(self.fc(x)))

    model, x = Populations(), 3 * data(4)
    graph = to_nir(model, x[0])
    with torch.no_grad():
        expected = torch.stack([model(x_t) for x_t in x])
    assert expected.any()
    assert torch.allclose(network(graph)(x)[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [lambda a, b: torch.exp(a), lambda a, b: a.flatten(2)],
    ids=["function", "reshaped"],
)
def test_what_is_made_of_a_part_of_the_channels_is_not_taken_for_the_part(
    change: Callable[[Tensor, Tensor], Tensor],
) -> None:
    def loop(net: Any, x: Tensor) -> Tensor:
        part = change(x[:, :, :1], x[:, :, 1:])
        x = torch.cat([part, part], 2).reshape(*x.shape[:2], 2, *x.shape[3:])
        return torch.stack([net.spikes(net.conv(x_t)) for x_t in x])

    net = Net(loop, conv=nn.Conv2d(2, 3, 3), spikes=Spikes(3, 2, 2))
    x = torch.rand(6, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="receives"):
        to_nir(net, x, check=False)


def test_channels_may_be_taken_from_one_another() -> None:
    def loop(net: Any, x: Tensor) -> Tensor:
        part = x[:, :, :1] - x[:, :, 1:]
        return torch.stack([net.spikes(net.conv(x_t)) for x_t in torch.cat([part, part], 2)])

    net = Net(loop, conv=nn.Conv2d(2, 3, 3), spikes=Spikes(3, 2, 2))
    x = torch.rand(6, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        graph, expected = to_nir(net, x), net(x)
    assert 0.1 < expected.mean() < 0.9
    assert torch.equal(network(graph)(x)[0], expected)


COMPOSED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "add": lambda net, x: torch.add(net.a(x), net.b(x), alpha=2),
    "sub": lambda net, x: torch.sub(net.a(x), net.b(x), alpha=0.5),
    "method": lambda net, x: net.a(x).add(net.b(x), alpha=-3),
    "in place": lambda net, x: net.a(x).add_(net.b(x), alpha=0.25),
    "constant": lambda net, x: torch.add(net.a(x), torch.ones(4), alpha=0.5),
    "products": lambda net, x: torch.addcmul(net.b(x), net.a(x), torch.tensor(2.0), value=0.5),
    "quotients": lambda net, x: torch.addcdiv(net.b(x), net.a(x), torch.tensor(2.0), value=3),
    "between": lambda net, x: torch.lerp(net.a(x), net.b(x), 0.25),
    "twice": lambda net, x: net.a(x + x),
    "twice of a layer": lambda net, x: (a := net.a(x)) + a,
}


@pytest.mark.parametrize("function", COMPOSED.values(), ids=COMPOSED)
def test_functions_that_are_several_at_once_leave(
    function: Callable[[Any, Tensor], Tensor],
) -> None:
    net, x = Net(function, a=nn.Linear(4, 4), b=nn.Linear(4, 4)), data(4)
    graph = to_nir(net, x[0])
    with torch.no_grad():
        expected = torch.stack([net(x_t) for x_t in x])
    torch.testing.assert_close(network(graph)(x)[0], expected)


def shuffled(y: Tensor) -> Tensor:
    batch, channels, *space = y.shape
    return y.view(batch, 2, channels // 2, *space).transpose(1, 2).reshape(batch, channels, *space)


CHANNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "shuffled by hand": shuffled,
    "shuffled": lambda y: F.channel_shuffle(y, 3),
    "chosen": lambda y: y[:, [5, 0, 3, 3, 1, 2]],
    "turned round": lambda y: y.flip(1),
    "moved on": lambda y: y.roll(2, 1),
    "there and back": lambda y: y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "channels last, flattened": lambda y: y.permute(0, 2, 3, 1).flatten(1),
}


@pytest.mark.parametrize("function", CHANNELS.values(), ids=CHANNELS)
def test_channels_change_places(function: Callable[[Tensor], Tensor]) -> None:
    def step(net: Any, x: Tensor) -> Tensor:
        y: Tensor = net.spikes(net.conv(x))
        return function(y)

    net = Net(step, conv=nn.Conv2d(2, 6, 2), spikes=Spikes(6, 3, 3))
    x = data(2, 4, 4)
    graph = to_nir(net, x[0])
    net.spikes.state = None
    with torch.no_grad():
        expected = torch.stack([net(x_t) for x_t in x])
    assert 0.05 < expected.mean() < 0.95
    assert torch.equal(network(graph)(x)[0], expected)


def test_pixels_that_change_places_are_refused() -> None:
    net = Net(lambda net, x: net.conv(x.flip(-1)), conv=nn.Conv2d(2, 6, 2))
    with pytest.raises(ValueError, match="no node that moves the pixels of maps"):
        to_nir(net, data(2, 4, 4)[0])


@pytest.mark.parametrize(
    "function", [lambda y: y.view(3, -1, 4).sum(-1).reshape(2, 3), lambda y: torch.flip(y, [0])]
)
def test_groups_that_are_of_other_axes_than_features_are_refused(
    function: Callable[[Tensor], Tensor],
) -> None:
    fc, spikes = nn.Linear(4, 12), Spikes(12)
    with pytest.raises(ValueError, match=r"receives (sum|flip)\(\)"):
        to_nir(
            Net(lambda net, x: function(net.spikes(net.fc(x))), fc=fc, spikes=spikes), data(4)[0]
        )


class Looped(nn.Module):
    """A layer of spikes, and how its steps are taken out of what the model gets."""

    def __init__(self, steps: Callable[[Tensor], Any], *shape: int, **modules: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.steps = steps
        self.layer = modules.get("layer", nn.Linear(4, 3))
        self.spikes = Spikes(*(shape or (3,)))

    def forward(self, x: Tensor) -> Tensor:
        self.spikes.state = None
        return torch.stack([self.spikes(8 * self.layer(x_t)) for x_t in self.steps(x)])


TIME_LAST: dict[str, Callable[[Tensor], Any]] = {
    "index": lambda x: [x[:, :, t] for t in range(x.shape[-1])],
    "the rest": lambda x: [x[..., t] for t in range(x.shape[-1])],
    "unbind": lambda x: x.unbind(-1),
    "select": lambda x: [x.select(2, t) for t in range(x.size(2))],
    "permute": lambda x: x.permute(2, 0, 1),
    "batch first": lambda x: x.transpose(1, 2).unbind(1),
}


@pytest.mark.parametrize("steps", TIME_LAST.values(), ids=TIME_LAST)
@pytest.mark.parametrize("shape", [(5, 4, 9), (4, 4, 4)])
def test_time_may_be_the_last_axis(steps: Callable[[Tensor], Any], shape: tuple[int, ...]) -> None:
    model = Looped(steps)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        graph, expected = to_nir(model, x), model(x)
    assert list(graph.nodes)[1] == "layer"
    assert 0.05 < expected.mean() < 0.95
    assert torch.equal(network(graph)(x.movedim(-1, 0))[0], expected)


def test_maps_may_have_time_last() -> None:
    steps = TIME_LAST["the rest"]
    model = Looped(steps, 3, 2, 2, layer=nn.Conv2d(2, 3, 3))
    x = torch.rand(2, 2, 4, 4, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        graph, expected = to_nir(model, x), model(x)
    assert 0.05 < expected.mean() < 0.95
    assert torch.equal(network(graph)(x.movedim(-1, 0))[0], expected)


def test_running_sums_and_averages_leave() -> None:
    class Filtered(Looped):
        def forward(self, x: Tensor) -> Any:
            y, total, mean, outputs = super().forward(x), None, 0.0, []
            for y_t in y:
                total = y_t if total is None else total + y_t
                mean = mean + 0.25 * (y_t - mean)
                outputs.append((total, mean))
            first, second = zip(*outputs, strict=True)
            return torch.stack(first), torch.stack(second)

    model, x = Filtered(lambda x: x), data(4)
    with torch.no_grad():
        graph, (total, mean) = to_nir(model, x), model(x)
    given = network(graph)(x)[0]
    assert torch.equal(given["output"], total)
    torch.testing.assert_close(given["output_1"], mean)
