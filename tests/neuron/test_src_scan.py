"""What the fused scan of the Spiking Recurrent Cell promises: the reference's numbers, faster."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from snu_plugin.neuron import SRC, Gate, SRCConfig, SRCState, src_scan

pytest.importorskip("numba")

GATES: tuple[Gate, ...] = ("prev", "cur", "prev_hard", "cur_hard")


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def resting(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> SRCState:
    at_rest = torch.full(shape, -0.9, dtype=dtype)
    return SRCState(drawn(*shape, seed=5, dtype=dtype), at_rest, at_rest.clone())


def everything(
    impl: str, x: Tensor, config: SRCConfig, bias: Tensor, start: SRCState | None
) -> list[Tensor]:
    """Return outputs, last state and, of a weighing of all of them, every gradient."""
    given = [t.clone().requires_grad_() for t in (x, bias, *(start or ()))]
    state = None if start is None else SRCState(*given[2:])
    y, last = src_scan(given[0], config, bias=given[1], state=state, impl=impl)
    # Weighed the other way round in memory, as gradients may come.
    weights = (
        drawn(*t.shape[::-1], seed=k).permute(*range(t.dim())[::-1])
        for k, t in enumerate((y, *last))
    )
    total = sum((w * t).sum() for w, t in zip(weights, (y, *last), strict=True))
    grads = torch.autograd.grad(torch.as_tensor(total), given, allow_unused=True)
    zeros = (torch.zeros_like(t) if g is None else g for g, t in zip(grads, given, strict=True))
    return [y.detach(), *(part.detach() for part in last), *zeros]


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("gate", GATES)
def test_outputs_state_and_every_gradient_are_the_reference_s(gate: Gate, detach: bool) -> None:
    # 32 steps a segment, 512 columns a tile: one fewer, one more, a single one.
    for steps, batch, cells in ((33, 7, 77), (1, 1, 1), (64, 2, 3), (31, 3, 171)):
        config = SRCConfig(gate=gate, detach=detach, z=0.2, rho=2.5, alpha=0.8)
        x, bias = drawn(steps, batch, cells) + 1, drawn(cells, seed=1) - 5
        start = resting((batch, cells))
        expected = everything("reference", x, config, bias, start)
        for found, wanted in zip(
            everything("numba", x, config, bias, start), expected, strict=True
        ):
            torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-7)
    assert (expected[0] > 0.5).any()


@pytest.mark.parametrize("gate", ["prev", "cur"])
def test_the_fused_gradient_is_that_of_finite_differences(gate: Gate) -> None:
    config = SRCConfig(gate=gate, detach=False)
    x, bias = drawn(6, 1, 2, seed=1) + 1, torch.tensor([-6.0, -5.0], dtype=torch.float64)
    start = SRCState(*(0.3 * drawn(1, 2, seed=k) for k in range(3)))

    def potentials(x: Tensor, bias: Tensor, *start: Tensor) -> tuple[Tensor, ...]:
        return src_scan(x, config, bias=bias, state=SRCState(*start), impl="numba")[1]

    given = [t.clone().requires_grad_() for t in (x, bias, *start)]
    assert torch.autograd.gradcheck(potentials, given)


def test_in_single_precision_the_fused_scan_is_as_near_to_double_as_the_reference() -> None:
    # Each step from the exact state: where a cell is about to fire, rounding decides by how much.
    config = SRCConfig()
    x = drawn(60, 4, 50) + 0.5
    bias = torch.full((50,), -6.0, dtype=torch.float64)
    state = resting((4, 50))
    errors: dict[str, list[Tensor]] = {"reference": [], "numba": []}
    for x_t in x:
        after = src_scan(x_t[None], config, bias=bias, state=state)[1]
        single = SRCState(*(part.float() for part in state))
        exact = src_scan(
            x_t[None].float().double(), config, bias=bias,
            state=SRCState(*(part.double() for part in single)), impl="reference",
        )[1]  # fmt: skip
        for impl, error in errors.items():
            near = src_scan(x_t[None].float(), config, bias=bias.float(), state=single, impl=impl)
            error += [(a - b).abs().max() for a, b in zip(near[1], exact, strict=True)]
        state = after
    worst = {impl: float(torch.stack(error).max()) for impl, error in errors.items()}
    band = 2**-24 * 8  # one rounding of the drive, at most 8 large
    assert 0 < worst["numba"] <= 2 * (worst["reference"] + band)


@pytest.mark.parametrize("gate", GATES)
def test_step_by_step_equals_the_whole_bit_by_bit(gate: Gate) -> None:
    layer = SRC(19, SRCConfig(gate=gate), impl="numba")
    x = drawn(40, 3, 19, dtype=torch.float32) + 1
    whole, last = layer(x)
    outputs, state = [], None
    for x_t in x:
        y, state = layer(x_t[None], state)
        outputs.append(y)
    assert torch.equal(torch.cat(outputs), whole)
    assert state is not None
    assert all(torch.equal(a, b) for a, b in zip(state, last, strict=True))


def test_strided_inputs_broadcast_biases_and_several_threads_change_nothing() -> None:
    x, config = drawn(50, 8, 600, dtype=torch.float32) + 1, SRCConfig()
    y, _ = src_scan(x, config, impl="numba")
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(src_scan(strided, config, impl="numba")[0], y)
    bias = torch.full((8, 1), -6.0)
    assert torch.equal(src_scan(x, config, bias=bias, impl="numba")[0], y)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(src_scan(x, config, impl="numba")[0], y)
    finally:
        torch.set_num_threads(before)


def test_the_inputs_stay_as_they_are() -> None:
    x, start = drawn(9, 2, 5), resting((2, 5))
    kept = [t.clone() for t in (x, *start)]
    src_scan(x, state=start, bias=torch.tensor(-6.0).double(), impl="numba")
    assert all(torch.equal(a, b) for a, b in zip((x, *start), kept, strict=True))


def test_empty_sequences_keep_the_state() -> None:
    for impl in ("numba", "reference"):
        start = resting((2, 5))
        y, last = src_scan(drawn(0, 2, 5), bias=torch.tensor(-6.0).double(), state=start, impl=impl)
        assert y.shape == (0, 2, 5)
        assert all(torch.equal(a, b) for a, b in itertools.zip_longest(last, start))


def test_a_named_implementation_runs_or_raises() -> None:
    x = drawn(3, 2, 5)
    with pytest.raises(LookupError, match="impl is 'cuda'; it must be one of numba, reference"):
        src_scan(x, impl="cuda")
    with pytest.raises(ValueError, match="all must have one"):
        src_scan(x.float(), bias=torch.tensor(-6.0).double(), impl="numba")
    with pytest.raises(ValueError, match="bias has shape"):
        src_scan(x, bias=torch.zeros(4))


def test_a_second_derivative_is_refused_not_wrong() -> None:
    x = drawn(3, 2, 5).requires_grad_()
    y, _ = src_scan(x, impl="numba")
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()  # type: ignore[no-untyped-call]


def test_transforms_of_torch_take_the_reference() -> None:
    x = drawn(5, 3, 4) + 1
    bias = torch.full((4,), -6.0, dtype=torch.float64)

    def outputs(x: Tensor) -> Tensor:
        return src_scan(x, bias=bias)[0]

    found = torch.func.vmap(outputs, in_dims=1, out_dims=1)(x[:, :, None])
    torch.testing.assert_close(found[:, :, 0], outputs(x))
    with pytest.raises(ValueError, match="a tracer or transform of torch's sees the call"):
        torch.func.vmap(lambda x: src_scan(x, bias=bias, impl="numba")[0])(x[:, :, None])
