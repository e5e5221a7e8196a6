"""The fused scan of recurrent units agrees with the reference and behaves as an operator should."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from torch import Tensor

from snu_plugin import SNU, SNUConfig, State, snu_scan, sSNU
from snu_plugin.neuron.config import Activation

pytest.importorskip("numba")

CONFIGS = {
    f"{'soft' if soft else 'hard'}-{g}{'-detached' if detach else ''}": SNUConfig(
        soft=soft, g=g, detach_reset=detach
    )
    for soft, g, detach in itertools.product((False, True), get_args(Activation), (False, True))
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def arguments(steps: int, batch: int, units: int, seed: int = 0) -> list[Tensor]:
    """Draw x, H, decay, threshold, s and y in float32, so that precisions start alike."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    h = normal(units, units) / units**0.5
    decay = 0.5 + 0.5 * torch.rand(units, generator=random)
    y = (torch.rand(batch, units, generator=random) > 0.5).float()
    state = [normal(batch, units), y]
    return [0.6 * normal(steps, batch, units) + 0.3, h, decay, 1 + 0.1 * normal(units), *state]


def results(impl: str, config: SNUConfig, given: list[Tensor]) -> list[Tensor]:
    """Return outputs, last state and every gradient of a loss that weighs all of them."""
    leaves = [value.clone().requires_grad_() for value in given]
    x, h, decay, threshold, s, y = leaves
    constants = {"decay": decay, "threshold": threshold, "recurrent": h}
    out, last = snu_scan(x, config, **constants, state=State(s, y), impl=impl)
    random = torch.Generator().manual_seed(9)
    loss = sum(
        (found * torch.randn(found.shape, generator=random).to(found)).sum()
        for found in (out, *last)
    )
    assert isinstance(loss, Tensor)
    return [out.detach(), last.s.detach(), *torch.autograd.grad(loss, leaves)]


@every_config
def test_outputs_states_and_gradients_are_the_references(config: SNUConfig) -> None:
    given = [value.double() for value in arguments(13, 3, 7)]
    actual, expected = (results(impl, config, given) for impl in ("numba", "reference"))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("soft", [False, True])
def test_float32_errs_at_most_twice_as_much_as_the_reference(soft: bool) -> None:
    """Over ten calls: the largest errors of one scatter from machine to machine."""
    config = SNUConfig(soft=soft)
    errors = []
    for seed in range(10):
        given = arguments(30, 3, 20, seed)
        exact = results("reference", config, [value.double() for value in given])
        own, fused = (results(impl, config, given) for impl in ("reference", "numba"))
        assert soft or torch.equal(own[0].double(), exact[0]), "draw another call"
        unit = [torch.finfo(torch.float32).eps * max(float(t.abs().max()), 1.0) for t in exact]
        errors.append(
            [
                [float((a - t).abs().max()) / u for a, t, u in zip(found, exact, unit, strict=True)]
                for found in (own, fused)
            ]
        )
    reference, numba = torch.tensor(errors).square().mean(0).sqrt()
    assert bool((numba <= 2 * reference.clamp_min(0.5)).all()), (numba, reference)


def test_weights_on_a_grid_give_the_same_spikes_to_the_last_bit() -> None:
    random = torch.Generator().manual_seed(5)
    x = torch.randint(-8, 9, (100, 8, 64), generator=random) / 8
    h = torch.randint(-4, 5, (64, 64), generator=random) / 8
    config = SNUConfig(decay=0.5)
    y, state = snu_scan(x, config, recurrent=h, impl="numba")
    expected, last = snu_scan(x, config, recurrent=h, impl="reference")
    assert y.any()
    assert torch.equal(y, expected)
    assert torch.equal(state.s, last.s)


@pytest.mark.parametrize("soft", [False, True])
def test_chunks_equal_the_whole(soft: bool) -> None:
    x, h, *_ = arguments(20, 2, 5)
    config = SNUConfig(soft=soft)
    whole, end = snu_scan(x, config, recurrent=h, impl="numba")
    first, state = snu_scan(x[:7], config, recurrent=h, impl="numba")
    second, last = snu_scan(x[7:], config, recurrent=h, state=state, impl="numba")
    torch.testing.assert_close(torch.cat((first, second)), whole)
    torch.testing.assert_close(last.s, end.s)


def test_a_soft_unit_passes_gradcheck() -> None:
    x, h, decay, threshold, s, y = (v.double().requires_grad_() for v in arguments(6, 2, 3))

    def scan(
        x: Tensor, h: Tensor, decay: Tensor, threshold: Tensor, s: Tensor, y: Tensor
    ) -> Tensor:
        config = SNUConfig(soft=True, g="leaky_relu")
        constants = {"decay": decay, "threshold": threshold, "recurrent": h}
        out, _ = snu_scan(x, config, **constants, state=State(s, y), impl="numba")
        return out

    assert torch.autograd.gradcheck(scan, (x, h, decay, threshold, s, y))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 3, 7), (9, 0, 4), (0, 2, 3), (5, 3), (4, 2, 3, 5)], ids=str
)
def test_odd_shapes_agree(shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=random, dtype=torch.float64)
    h = torch.randn(shape[-1], shape[-1], generator=random, dtype=torch.float64)
    found = []
    for impl in ("numba", "reference"):
        leaves = x.clone().requires_grad_(), h.clone().requires_grad_()
        y, state = snu_scan(leaves[0], SNUConfig(soft=True), recurrent=leaves[1], impl=impl)
        loss = y.square().sum() + state.s.sum()
        grads = (
            torch.autograd.grad(loss, leaves, materialize_grads=True) if loss.requires_grad else ()
        )
        found.append((y.detach(), state.s.detach(), *grads))
    torch.testing.assert_close(found[0], found[1])


def test_nothing_is_kept_without_gradients() -> None:
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    layer = SNU(4, recurrent=True, impl="numba")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.no_grad():
            layer(torch.ones(5, 2, 4))
        assert not kept
        layer(torch.ones(5, 2, 4))
    assert kept


@pytest.mark.parametrize("kind", [SNU, sSNU])
def test_layers_with_recurrence_train_fused(kind: type[SNU] | type[sSNU]) -> None:
    layer = kind(6, recurrent=True, impl="numba")
    y, _ = layer(torch.rand(8, 2, 6, generator=torch.Generator().manual_seed(0)))
    (y * torch.linspace(0, 1, 6)).sum().backward()
    assert layer.recurrent is not None
    assert layer.recurrent.grad is not None
    assert layer.recurrent.grad.isfinite().all()


def test_it_compiles_and_exports() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = SNU(3, recurrent=True, impl="numba")

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.unit(x)[0]
            return y

    net, x = Net(), torch.rand(6, 2, 3)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    found = [torch.autograd.grad(run(x).sum(), list(net.parameters())) for run in (net, compiled)]
    torch.testing.assert_close(found[1], found[0])
    exported = torch.export.export(net, (x,)).module()
    assert torch.equal(exported(x), net(x))


def test_the_operator_passes_torchs_own_checks() -> None:
    x, h, decay, threshold, s, y = (value.requires_grad_() for value in arguments(3, 2, 3))
    given = (x, h, s.detach(), y.detach(), decay, threshold, 1.0, False, True, False, True)
    operator = torch.ops.snu_plugin.recurrent_scan.default
    torch.library.opcheck(operator, given, test_utils=("test_schema", "test_faketensor"))
