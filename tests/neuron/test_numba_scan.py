"""The fused scan agrees with the reference and behaves as a torch operator should."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, get_args

import pytest
import torch
from torch import Tensor

from snu_plugin import SNUConfig, State, snu_scan
from snu_plugin.neuron.config import Activation

pytest.importorskip("numba")

GS: tuple[Activation, ...] = get_args(Activation)
CONFIGS = {
    f"{'soft' if soft else 'hard'}-{g}{'-detached' if detach else ''}": SNUConfig(
        soft=soft, g=g, detach_reset=detach
    )
    for soft, g, detach in itertools.product((False, True), GS, (False, True))
}
CONFIGS |= {
    f"{name}-inhibited": replace(config, lateral_inhibition="sample")
    for name, config in CONFIGS.items()
} | {
    f"{name}-inhibited-batch": replace(CONFIGS[name], lateral_inhibition="batch")
    for name in ("hard-identity", "soft-relu-detached")
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
ODD_SHAPES = [(1, 1, 1), (1, 3, 7), (7, 1, 63), (63, 2, 5), (64, 1, 9), (65, 3, 1), (130, 1, 1000)]


class Call(NamedTuple):
    """Arguments of one call and weights that make its loss."""

    x: Tensor
    decay: Tensor
    threshold: Tensor
    state: State
    weights: list[Tensor]

    def inputs(self) -> tuple[Tensor, ...]:
        return self.x, self.decay, self.threshold, self.state.s, self.state.y

    def to(self, dtype: torch.dtype) -> Call:
        def moved(value: Tensor) -> Tensor:
            return value.detach().to(dtype).requires_grad_()

        x, decay, threshold, s, y = (moved(value) for value in self.inputs())
        weights = [weight.to(dtype) for weight in self.weights]
        return Call(x, decay, threshold, State(s, y), weights)


def call(steps: int, batch: int, units: int, *, soft: bool, seed: int = 0) -> Call:
    """Draw a call in float32, so that both precisions start from the same numbers."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    last = torch.rand(batch, units, generator=random)
    return Call(
        0.6 * normal(steps, batch, units) + 0.3,
        0.5 + 0.5 * torch.rand(units, generator=random),
        1 + 0.1 * normal(units),
        State(normal(batch, units), last if soft else (last > 0.5).float()),
        [normal(steps, batch, units), normal(batch, units), normal(batch, units)],
    )


def results(impl: str, config: SNUConfig, given: Call) -> dict[str, Tensor]:
    """Return outputs, last state and every gradient of a loss that weighs all of them."""
    y, state = snu_scan(
        given.x,
        config,
        decay=given.decay,
        threshold=given.threshold,
        state=given.state,
        impl=impl,
    )
    loss = sum((a * w).sum() for a, w in zip((y, *state), given.weights, strict=True))
    assert isinstance(loss, Tensor)
    grads = torch.autograd.grad(loss, given.inputs(), materialize_grads=True)
    names = ("x", "decay", "threshold", "s0", "y0")
    return {
        "y": y.detach(),
        "s": state.s.detach(),
        "last y": state.y.detach(),
        **{f"gradient of {name}": grad for name, grad in zip(names, grads, strict=True)},
    }


def assert_within_twice_the_reference_error(
    config: SNUConfig, steps: int, batch: int, units: int
) -> None:
    """Compare in float32 against float64: the fused error may be twice the reference's own.

    Errors are the largest of four draws, as that of a single number says little. Spike trains that
    differ are no rounding error: the draws keep clear of states that float32 cannot decide.
    """
    allowed: dict[str, float] = {}
    errors: dict[str, float] = {}
    for seed in range(4):
        given = call(steps, batch, units, soft=config.soft, seed=seed)
        exact = results("reference", config, given.to(torch.float64))
        expected = results("reference", config, given.to(torch.float32))
        actual = results("numba", config, given.to(torch.float32))
        if not config.soft:
            assert torch.equal(exact["y"], expected["y"].double()), "draw another call"
        for name, truth in exact.items():
            band = torch.finfo(torch.float32).eps * max(float(truth.abs().max()), 1.0)
            own = float((expected[name] - truth).abs().max())
            allowed[name] = max(allowed.get(name, 0.0), 2 * (own + band))
            errors[name] = max(errors.get(name, 0.0), float((actual[name] - truth).abs().max()))
    for name, error in errors.items():
        assert error <= allowed[name], f"{name}: error {error:.2e}, allowed {allowed[name]:.2e}"


@every_config
def test_outputs_states_and_gradients_are_the_references(config: SNUConfig) -> None:
    assert_within_twice_the_reference_error(config, 70, 3, 37)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
def test_odd_sizes_agree(shape: tuple[int, int, int], soft: bool) -> None:
    assert_within_twice_the_reference_error(SNUConfig(soft=soft), *shape)


@every_config
def test_float64_agrees_to_its_last_digits(config: SNUConfig) -> None:
    given = call(70, 2, 19, soft=config.soft).to(torch.float64)
    torch.testing.assert_close(
        results("numba", config, given), results("reference", config, given), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("g", GS)
def test_hard_forward_passes_are_bit_by_bit_the_references(g: Activation) -> None:
    given = call(200, 4, 300, soft=False, seed=3)
    config = SNUConfig(g=g)
    expected, actual = (
        results("reference", config, given.to(torch.float32)),
        results("numba", config, given.to(torch.float32)),
    )
    for name in ("y", "s", "last y"):
        assert torch.equal(actual[name], expected[name])


def test_weights_on_a_grid_tie_as_in_the_reference() -> None:
    random = torch.Generator().manual_seed(5)
    x = torch.randint(-8, 9, (100, 8, 64), generator=random) / 8
    config = SNUConfig(decay=0.5, threshold=1.0)
    y, state = snu_scan(x, config, impl="numba")
    expected, last = snu_scan(x, config, impl="reference")
    assert torch.equal(y, expected)
    assert torch.equal(state.s, last.s)
    tie, _ = snu_scan(torch.ones(1, 1, 1), config, impl="numba")
    assert tie.item() == 0


@every_config
def test_chunks_equal_the_whole_bit_by_bit(config: SNUConfig) -> None:
    x = 0.6 * torch.randn(150, 2, 33, generator=torch.Generator().manual_seed(1)) + 0.3
    whole, end = snu_scan(x, config, impl="numba")
    state, parts = None, []
    for start, stop in itertools.pairwise((0, 1, 64, 128, 150)):
        y, state = snu_scan(x[start:stop], config, state=state, impl="numba")
        parts.append(y)
    assert torch.equal(torch.cat(parts), whole)
    assert state is not None
    assert torch.equal(state.s, end.s)
    assert torch.equal(state.y, end.y)


def test_gradients_flow_through_a_carried_state() -> None:
    given = call(20, 2, 5, soft=True).to(torch.float64)
    config = SNUConfig(soft=True)
    first, state = snu_scan(given.x[:8], config, state=given.state, impl="numba")
    second, _ = snu_scan(given.x[8:], config, state=state, impl="numba")
    (actual,) = torch.autograd.grad((torch.cat((first, second)) * given.weights[0]).sum(), given.x)
    whole, _ = snu_scan(given.x, config, state=given.state, impl="numba")
    (expected,) = torch.autograd.grad((whole * given.weights[0]).sum(), given.x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_soft_unit_passes_gradcheck() -> None:
    given = call(66, 1, 2, soft=True).to(torch.float64)

    def scan(
        x: Tensor, decay: Tensor, threshold: Tensor, s: Tensor, y: Tensor
    ) -> tuple[Tensor, ...]:
        out, last = snu_scan(
            x,
            SNUConfig(soft=True),
            decay=decay,
            threshold=threshold,
            state=State(s, y),
            impl="numba",
        )
        return out, last.s, last.y

    assert torch.autograd.gradcheck(scan, given.inputs())


@every_config
def test_empty_sequences_and_batches_work(config: SNUConfig) -> None:
    for shape in (0, 2, 3), (5, 0, 3), (0, 0, 1), (5, 2, 0):  # no step, no sequence, no unit
        x = torch.ones(shape, requires_grad=True)
        y, state = snu_scan(x, config, impl="numba")
        assert y.shape == shape
        assert state.s.shape == state.y.shape == shape[1:]
        if y.requires_grad:
            assert torch.autograd.grad(y.sum(), x)[0].shape == shape


def test_no_step_leaves_the_state_as_it_is() -> None:
    state = State(torch.randn(2, 3), torch.rand(2, 3))
    _, last = snu_scan(torch.empty(0, 2, 3), state=state, impl="numba")
    assert torch.equal(last.s, state.s)
    assert torch.equal(last.y, state.y)


def permuted(x: Tensor) -> Tensor:
    return x.permute(2, 0, 1)


def strided(x: Tensor) -> Tensor:
    return x[::2, :, ::3]


def expanded(x: Tensor) -> Tensor:
    return x[:1].expand(40, -1, -1)


@pytest.mark.parametrize("view", [permuted, strided, expanded], ids=lambda view: view.__name__)
def test_input_and_gradient_need_not_be_contiguous(view: Callable[[Tensor], Tensor]) -> None:
    base = torch.randn(20, 12, 30, generator=torch.Generator().manual_seed(2))
    found = {}
    for impl in ("numba", "reference"):
        leaf = base.clone().requires_grad_()
        y, _ = snu_scan(view(leaf), impl=impl)
        found[impl] = (y.detach(), *torch.autograd.grad(y.mean(0).sum(), leaf))
    assert torch.equal(found["numba"][0], found["reference"][0])
    torch.testing.assert_close(found["numba"][1], found["reference"][1])


@pytest.mark.parametrize(
    "shape", [(), (1,), (6,), (4, 1, 1), (1, 5, 1), (4, 5, 6), (3, 1, 1, 1), (3, 4, 5, 6)], ids=str
)
def test_maps_take_every_shape_of_constants_that_broadcasts(shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(4)
    x = torch.randn(9, 3, 4, 5, 6, generator=random, dtype=torch.float64)
    decay = torch.rand(shape, generator=random, dtype=torch.float64)
    found = {}
    for impl in ("numba", "reference"):
        l, theta = decay.clone().requires_grad_(), (1 - decay).requires_grad_()
        y, _ = snu_scan(x, SNUConfig(g="relu"), decay=l, threshold=theta, impl=impl)
        found[impl] = (y.detach(), *torch.autograd.grad(y.square().sum(), (l, theta)))
    torch.testing.assert_close(found["numba"], found["reference"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("units", [1, 5, 63, 65])
def test_gradients_of_few_units_are_summed_over_more_samples_than_a_tile(units: int) -> None:
    given = call(6, 17_000 // units, units, soft=True).to(torch.float64)
    found = [results(impl, SNUConfig(soft=True), given) for impl in ("numba", "reference")]
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_infinite_and_undefined_inputs_spread_as_in_the_reference() -> None:
    x = torch.zeros(4, 1, 4)
    x[1, 0, :3] = torch.tensor([float("inf"), -float("inf"), float("nan")])
    for config in CONFIGS.values():
        actual, last = snu_scan(x, config, impl="numba")
        expected, end = snu_scan(x, config, impl="reference")
        torch.testing.assert_close(actual, expected, equal_nan=True)
        torch.testing.assert_close(last.s, end.s, equal_nan=True)


@pytest.mark.parametrize("soft", [False, True])
def test_nothing_is_kept_without_gradients(soft: bool) -> None:
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    threshold = torch.ones(4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.no_grad():
            y, _ = snu_scan(torch.ones(5, 2, 4), SNUConfig(soft=soft), threshold=threshold)
        assert not y.requires_grad
        assert not kept
        snu_scan(torch.ones(5, 2, 4), SNUConfig(soft=soft), threshold=threshold, impl="numba")
    assert kept


@pytest.mark.parametrize("soft", [False, True])
def test_training_keeps_a_quarter_of_the_input_beyond_it_and_a_soft_output(soft: bool) -> None:
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = torch.ones(600, 2, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y, _ = snu_scan(x, SNUConfig(soft=soft), impl="numba")
    known = (x.data_ptr(), y.data_ptr() if soft else 0)
    beyond = [t for t in kept if t.data_ptr() not in known]
    assert sum(t.numel() for t in beyond) <= x.numel() / 4 + 2  # and decay and threshold


def test_the_caller_s_state_and_input_are_not_written_to() -> None:
    given = call(10, 2, 3, soft=False)
    before = [value.clone() for value in given.inputs()]
    snu_scan(given.x, state=given.state, threshold=given.threshold, impl="numba")
    for value, old in zip(given.inputs(), before, strict=True):
        assert torch.equal(value, old)


@pytest.mark.parametrize("soft", [False, True])
def test_it_compiles_into_a_graph_without_breaks(soft: bool) -> None:
    def loss(x: Tensor, threshold: Tensor) -> Tensor:
        y, state = snu_scan(2 * x, SNUConfig(soft=soft), threshold=threshold, impl="numba")
        return (y * y).sum() + state.s.sum()

    found = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        x = torch.linspace(0, 1, 60).view(5, 3, 4).requires_grad_()
        threshold = torch.ones(4, requires_grad=True)
        value = function(x, threshold)
        found.append((value.detach(), *torch.autograd.grad(value, (x, threshold))))
    torch.testing.assert_close(found[1], found[0])


def test_it_exports() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y, _ = snu_scan(x, impl="numba")
            return y

    x = torch.rand(6, 2, 3)
    program = torch.export.export(Net(), (x,))
    assert torch.equal(program.module()(x), Net()(x))


scan = pytest.importorskip("snu_plugin.neuron.numba_scan")
SOFT, HARD, LINEAR = (True, True), (False, True), (False, False)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    ("soft", "fires"),
    [SOFT, *(pytest.param(*kind, marks=pytest.mark.slow) for kind in (HARD, LINEAR))],
)
def test_the_operator_passes_torchs_own_checks(soft: bool, fires: bool) -> None:
    given = call(5, 2, 3, soft=True)
    threshold = given.threshold if fires else None
    arguments = (given.x.requires_grad_(), given.state.s, given.decay, threshold, None)
    settings = (1.0, False, soft, False, True)
    torch.library.opcheck(torch.ops.snu_plugin.scan.default, (*arguments, *settings))
