"""What torch can do with the fused scan for GPUs besides running it forward and backward once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from snu_plugin import SNUConfig, State, implementations, snu_scan
from snu_plugin.neuron import reference
from snu_plugin.neuron.config import Activation
from snu_plugin.neuron.engine import SNUScan

pytest.importorskip("triton")
from snu_plugin.neuron.triton_scan import ENGINE

SOFT = SNUConfig(soft=True)
CONFIGS = {
    f"{'soft' if soft else 'hard'}-{g}{'-detached' if detach else ''}": SNUConfig(
        soft=soft, g=g, detach_reset=detach
    )
    for soft, g, detach in itertools.product((False, True), get_args(Activation), (False, True))
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
recurrent_or_not = pytest.mark.parametrize("recurrent", [False, True])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def call(units: int = 3, *, steps: int = 5, recurrent: bool) -> dict[str, Tensor]:
    """Draw the tensors of a call of 2 samples."""
    drawn = {
        "x": draw(steps, 2, units),
        "decay": 0.5 + 0.2 * draw(units, seed=1).tanh(),
        "threshold": 0.3 * draw(units, seed=2),
        "s": draw(2, units, seed=3),
        "y": (draw(2, units, seed=4) > 0).double(),
    }
    return drawn | ({"recurrent": 0.4 * draw(units, units, seed=5)} if recurrent else {})


def scan(config: SNUConfig, given: dict[str, Tensor], run: SNUScan = ENGINE.snu) -> Tensor:
    """Return a number that depends on every output."""
    constants = {n: given[n] for n in ("decay", "threshold", "recurrent") if n in given}
    y, state = run(given["x"], config, state=State(given["s"], given["y"]), **constants)
    loss: Tensor = y.square().cumsum(0).sum() + (state.s * (1 + state.y)).sum()
    return loss


def gradients(
    config: SNUConfig, given: dict[str, Tensor], run: SNUScan = ENGINE.snu
) -> list[Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in given.items()}
    loss = scan(config, leaves, run)
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return [t.cpu() for t in (loss.detach(), *grads)]


def on(device: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in given.items()}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("config", [SOFT, SNUConfig(g="leaky_relu", detach_reset=True)])
def test_the_operator_passes_torchs_own_checks(config: SNUConfig, device: str) -> None:
    given = {n: t.float().requires_grad_() for n, t in on(device, call(recurrent=False)).items()}
    x, decay, threshold, s, _ = given.values()
    below, cut = (config.slope, False) if config.g == "leaky_relu" else (1.0, False)
    settings = below, cut, config.soft, config.detach_reset, True
    arguments = x, s, decay, threshold, None, *settings
    torch.library.opcheck(torch.ops.snu_plugin.triton_scan.default, arguments)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_recurrent_operator_passes_torchs_own_checks(device: str) -> None:
    given = {n: t.float().requires_grad_() for n, t in on(device, call(recurrent=True)).items()}
    x, decay, threshold, s, y, h = given.values()
    arguments = x, h, s, y, decay, threshold, 1.0, False, True, False, True
    torch.library.opcheck(torch.ops.snu_plugin.triton_recurrent_scan.default, arguments)


@recurrent_or_not
def test_a_soft_unit_passes_gradcheck(recurrent: bool, device: str) -> None:
    given = on(device, call(2, steps=3, recurrent=recurrent))
    leaves = [value.requires_grad_() for value in given.values()]

    def loss(*tensors: Tensor) -> Tensor:
        return scan(SOFT, dict(zip(given, tensors, strict=True)))

    assert torch.autograd.gradcheck(loss, leaves)


@recurrent_or_not
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.covering(1)
def test_it_compiles_into_a_graph_without_breaks(
    backend: str, recurrent: bool, device: str
) -> None:
    given = on(device, call(recurrent=recurrent))
    leaves = [value.requires_grad_() for value in given.values()]

    def loss(*tensors: Tensor) -> Tensor:
        return scan(SOFT, dict(zip(given, (2 * t for t in tensors), strict=True)))

    found = []
    for run in (loss, torch.compile(loss, backend=backend, fullgraph=True)):
        value = run(*leaves)
        found.append((value.detach(), *torch.autograd.grad(value, leaves)))
    torch.testing.assert_close(found[1], found[0])


@recurrent_or_not
def test_it_exports(recurrent: bool, device: str) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            y: Tensor = ENGINE.snu(x, SOFT, recurrent=h if recurrent else None)[0]
            return y

    x, h = draw(6, 2, 3).to(device), draw(3, 3).to(device)
    program = torch.export.export(Net(), (x, h))
    assert torch.equal(program.module()(x, h), Net()(x, h))
    assert any("snu_plugin.triton" in str(node.target) for node in program.graph.nodes)


def test_a_trace_of_eager_torch_records_the_operator(device: str) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda x: ENGINE.snu(x, SOFT)[0])(draw(5, 2, 3).to(device))
    x = -draw(5, 2, 3).to(device)
    assert torch.equal(graph(x), ENGINE.snu(x, SOFT)[0])
    assert any("snu_plugin.triton_scan" in str(node.target) for node in graph.graph.nodes)


@pytest.mark.parametrize("dims", [(0, 0), (1, None), (2, None), (None, 0)], ids=str)
def test_vmap_equals_a_loop(dims: tuple[int | None, int | None], device: str) -> None:
    def outputs(x: Tensor, threshold: Tensor) -> Tensor:
        y: Tensor = ENGINE.snu(x, SOFT, threshold=threshold)[0]
        return y

    drawn = draw(3, 3, 3, 5).to(device), draw(3, 5).to(device)
    given = [t if d is not None else t[0] for t, d in zip(drawn, dims, strict=True)]
    expected = torch.stack(
        [
            outputs(*(t if d is None else t.select(d, i) for t, d in zip(given, dims, strict=True)))
            for i in range(3)
        ]
    )
    torch.testing.assert_close(torch.vmap(outputs, in_dims=dims)(*given), expected)


def test_gradients_of_each_sample_come_from_one_call(device: str) -> None:
    given = on(device, call(recurrent=False))
    names, many = list(given), torch.stack([given["x"], -given["x"], 2 * given["x"]])

    def loss(*tensors: Tensor) -> Tensor:
        return scan(SOFT, dict(zip(names, tensors, strict=True)))

    each = torch.vmap(torch.func.grad(loss, argnums=tuple(range(5))), in_dims=(0, *(None,) * 4))
    found = each(many, *list(given.values())[1:])
    for i, x in enumerate(many):
        expected = gradients(SOFT, given | {"x": x})[1:]
        torch.testing.assert_close([grad[i].cpu() for grad in found], expected)


@recurrent_or_not
def test_batched_gradients_are_those_of_one_after_another(recurrent: bool, device: str) -> None:
    x, grads = draw(5, 2, 3).to(device).requires_grad_(), draw(4, 5, 2, 3).to(device)
    h = draw(3, 3).to(device) if recurrent else None
    y = ENGINE.snu(x, SOFT, recurrent=h)[0]
    expected = [torch.autograd.grad(y, x, grad, retain_graph=True)[0] for grad in grads]
    (found,) = torch.autograd.grad(y, x, grads, is_grads_batched=True)
    torch.testing.assert_close(found, torch.stack(expected))


def test_transforms_nest_in_any_order(device: str) -> None:
    x = draw(3, 4, 2, 5).to(device)

    def each(x: Tensor) -> Tensor:
        return torch.vmap(lambda one: ENGINE.snu(one, SOFT)[0])(x)

    def total(x: Tensor) -> Tensor:
        return each(x).square().sum()

    leaf = x.clone().requires_grad_()
    alone = torch.stack([ENGINE.snu(one, SOFT)[0] for one in leaf])
    (expected,) = torch.autograd.grad(alone.square().sum(), leaf, retain_graph=True)
    compiled = torch.compile(total, backend="aot_eager")
    for loss in (total, compiled):
        torch.testing.assert_close(torch.autograd.grad(loss(leaf), leaf)[0], expected)
    torch.testing.assert_close(torch.func.grad(total)(x), expected)
    jacobian = torch.func.jacrev(lambda one: each(one[None])[0].sum((0, 1)))(x[0])
    rows = [torch.autograd.grad(row, leaf, retain_graph=True)[0][0] for row in alone[0].sum((0, 1))]
    torch.testing.assert_close(jacobian, torch.stack(rows))


def test_transforms_refuse_recurrent_weights(device: str) -> None:
    given = call(recurrent=True)
    said = []

    def ask(x: Tensor) -> Tensor:
        said.append(ENGINE.refusal(x, SOFT, given["recurrent"], ()))
        return x

    torch.vmap(ask)(given["x"])
    assert said == ["recurrent weights are not fused inside the transforms of torch.func"]


@recurrent_or_not
def test_a_second_derivative_is_refused(recurrent: bool, device: str) -> None:
    x, h = draw(5, 2, 3).to(device).requires_grad_(), draw(3, 3).to(device) if recurrent else None
    loss = ENGINE.snu(x, SOFT, recurrent=h)[0].sum()
    (expected,) = torch.autograd.grad(loss, x, retain_graph=True)
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    assert torch.equal(first, expected)
    with pytest.raises(RuntimeError, match="no second derivative; impl='reference'"):
        torch.autograd.grad(first.sum() + x.sum(), x)


def bell(v: Tensor) -> Tensor:
    return torch.exp(-v.square())


@recurrent_or_not
@pytest.mark.parametrize("g", get_args(Activation))
def test_any_surrogate_is_fused(g: Activation, recurrent: bool, device: str) -> None:
    config, given = SNUConfig(g=g, surrogate=bell), call(7, recurrent=recurrent)
    expected = gradients(config, given, reference.snu_scan)
    assert (
        expected[1] - gradients(SNUConfig(g=g), given, reference.snu_scan)[1]
    ).abs().max() > 1e-2
    found = gradients(config, on(device, given))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@every_config
def test_recurrent_units_are_the_references(config: SNUConfig, device: str) -> None:
    given = call(7, recurrent=True)
    found, expected = (
        gradients(config, on(device, given)),
        gradients(config, given, reference.snu_scan),
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# An engine is never asked to run no step: ``snu_scan`` answers that itself.
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 7), (3, 0, 4), (4, 3), (3, 2, 3, 5)], ids=str)
def test_odd_shapes_of_recurrent_units_agree(shape: tuple[int, ...], device: str) -> None:
    found = []
    for run, place in ((ENGINE.snu, device), (reference.snu_scan, "cpu")):
        x, h = draw(*shape).to(place).requires_grad_(), draw(shape[-1], shape[-1]).to(place)
        y, state = run(x, SOFT, recurrent=h.requires_grad_())
        loss = y.square().sum() + state.s.sum()
        grads = torch.autograd.grad(loss, (x, h), allow_unused=True) if loss.requires_grad else ()
        found.append([None if t is None else t.detach().cpu() for t in (y, state.s, *grads)])
    for actual, expected in zip(*found, strict=True):
        if actual is not None and expected is not None:
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("soft", [False, True])
def test_chunks_of_a_recurrent_unit_equal_the_whole(soft: bool, device: str) -> None:
    x, h = draw(9, 2, 5).to(device), 0.5 * draw(5, 5).to(device)
    config = SNUConfig(soft=soft)
    whole, end = ENGINE.snu(x, config, recurrent=h)
    first, state = ENGINE.snu(x[:4], config, recurrent=h)
    second, last = ENGINE.snu(x[4:], config, recurrent=h, state=state)
    torch.testing.assert_close(torch.cat((first, second)), whole)
    torch.testing.assert_close(last.s, end.s)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_recurrent_units_carry_half_precision_in_float32(half: torch.dtype, device: str) -> None:
    """On a grid, where no product is rounded."""
    random = torch.Generator().manual_seed(5)
    x = (torch.randint(-8, 9, (9, 2, 6), generator=random) / 8).to(device, half)
    h = (torch.randint(-4, 5, (6, 6), generator=random) / 8).to(device).requires_grad_()
    y, state = ENGINE.snu(x.requires_grad_(), SNUConfig(decay=0.5), recurrent=h)
    expected, last = reference.snu_scan(x.float(), SNUConfig(decay=0.5), recurrent=h)
    assert (y.dtype, state.s.dtype, state.y.dtype) == (half, torch.float32, torch.float32)
    assert y.any()
    assert torch.equal(y.float(), expected)
    assert torch.equal(state.s, last.s)
    grads, exact = (torch.autograd.grad(out.float().sum(), (x, h)) for out in (y, expected))
    assert [grad.dtype for grad in grads] == [half, torch.float32]
    place = 8 * torch.finfo(half).eps  # every step rounds what it hands to the one before
    torch.testing.assert_close(
        [g.float() for g in grads], [g.float() for g in exact], rtol=place, atol=place
    )


@pytest.fixture
def a_gpu_as_far_as_torch_can_tell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors without numbers, so that they may be on a GPU that is not here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=9))
    with FakeTensorMode():
        yield


@recurrent_or_not
@pytest.mark.usefixtures("a_gpu_as_far_as_torch_can_tell")
def test_the_front_door_leads_tensors_on_a_gpu_to_the_operators(recurrent: bool) -> None:
    x = torch.ones(5, 2, 3, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    h = torch.eye(3, device="cuda", requires_grad=True) if recurrent else None
    y, state = snu_scan(x, SOFT, recurrent=h, impl="triton")
    assert (y.device.type, y.dtype, y.shape) == ("cuda", torch.bfloat16, (5, 2, 3))
    assert (state.s.dtype, state.y.dtype) == (torch.float32, torch.float32)
    assert y.requires_grad


@pytest.mark.usefixtures("a_gpu_as_far_as_torch_can_tell")
def test_a_tracer_refuses_another_surrogate() -> None:
    x = torch.ones(3, 2, 4, device="cuda")
    with pytest.raises(ValueError, match="tanh_derivative is fused in eager torch only"):
        snu_scan(x, SNUConfig(surrogate=bell), impl="triton")


@pytest.mark.usefixtures("a_gpu_as_far_as_torch_can_tell")
def test_a_gpu_that_triton_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=6))
    available, reason = implementations(torch.ones(3, 2, 4, device="cuda"))["triton"]
    assert not available
    assert reason == "cuda:0 has compute capability 6, Triton needs 7 or higher"
