"""The fused scan for GPUs agrees with the reference: on one, or in Triton's interpreter."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from snu_plugin import SNUConfig, State, implementations, snu_scan
from snu_plugin.neuron import Euler, EulerState, euler_scan, reference
from snu_plugin.neuron.config import Activation
from snu_plugin.neuron.engine import SNUScan

triton = pytest.importorskip("triton")
from snu_plugin.neuron.triton_scan import kernels  # noqa: E402
from snu_plugin.neuron.triton_scan.scan import ENGINE, LAUNCH  # noqa: E402

GS: tuple[Activation, ...] = get_args(Activation)
CONFIGS = {
    f"{'soft' if soft else 'hard'}-{g}{'-detached' if detach else ''}": SNUConfig(
        soft=soft, g=g, detach_reset=detach
    )
    for soft, g, detach in itertools.product((False, True), GS, (False, True))
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
Results = dict[str, Tensor]


class Call:
    """Arguments of one call, drawn in float32, and weights that make its loss."""

    def __init__(self, steps: int, batch: int, units: int, *, soft: bool, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random)

        last = torch.rand(batch, units, generator=random)
        self.inputs = (
            0.6 * normal(steps, batch, units) + 0.3,
            0.5 + 0.5 * torch.rand(units, generator=random),
            1 + 0.1 * normal(units),
            normal(batch, units),
            last if soft else (last > 0.5).float(),
        )
        self.weights = (normal(steps, batch, units), normal(batch, units), normal(batch, units))

    def results(
        self, scan: SNUScan, config: SNUConfig, dtype: torch.dtype, device: str = "cpu"
    ) -> Results:
        """Return outputs, last state and every gradient of a loss that weighs all of them."""
        moved = [t.to(device, dtype).requires_grad_() for t in self.inputs]
        x, decay, threshold, s, last = moved
        y, state = scan(x, config, decay=decay, threshold=threshold, state=State(s, last))
        weights = [weight.to(device, dtype) for weight in self.weights]
        loss = sum((a * w).sum() for a, w in zip((y, *state), weights, strict=True))
        assert isinstance(loss, Tensor)
        grads = torch.autograd.grad(loss, moved, materialize_grads=True)
        names = ("x", "decay", "threshold", "s0", "y0")
        named = {f"gradient of {name}": grad for name, grad in zip(names, grads, strict=True)}
        found = {"y": y.detach(), "s": state.s.detach(), "last y": state.y.detach(), **named}
        return {name: value.cpu() for name, value in found.items()}


@every_config
def test_float64_agrees_to_its_last_digits(config: SNUConfig, device: str) -> None:
    call = Call(6, 2, 7, soft=config.soft)
    torch.testing.assert_close(
        call.results(ENGINE.snu, config, torch.float64, device),
        call.results(reference.snu_scan, config, torch.float64),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("soft", [False, True])
def test_float32_errs_at_most_twice_as_much_as_the_reference(soft: bool, device: str) -> None:
    config = SNUConfig(soft=soft)
    allowed: dict[str, float] = {}
    errors: dict[str, float] = {}
    for seed in range(4):
        call = Call(12, 3, 50, soft=config.soft, seed=seed)
        exact = call.results(reference.snu_scan, config, torch.float64)
        expected = call.results(reference.snu_scan, config, torch.float32)
        actual = call.results(ENGINE.snu, config, torch.float32, device)
        if not config.soft:
            assert torch.equal(exact["y"], expected["y"].double()), "draw another call"
        for name, truth in exact.items():
            band = torch.finfo(torch.float32).eps * max(float(truth.abs().max()), 1.0)
            own = float((expected[name] - truth).abs().max())
            allowed[name] = max(allowed.get(name, 0.0), 2 * (own + band))
            errors[name] = max(errors.get(name, 0.0), float((actual[name] - truth).abs().max()))
    for name, error in errors.items():
        assert error <= allowed[name], f"{name}: error {error:.2e}, allowed {allowed[name]:.2e}"


@pytest.mark.parametrize("g", GS)
def test_hard_forward_passes_are_bit_by_bit_the_references(g: Activation, device: str) -> None:
    call = Call(30, 1, 100, soft=False, seed=3)
    actual = call.results(ENGINE.snu, SNUConfig(g=g), torch.float32, device)
    expected = call.results(reference.snu_scan, SNUConfig(g=g), torch.float32)
    for name in ("y", "s", "last y"):
        assert torch.equal(actual[name], expected[name])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 7), (7, 1, 63), (3, 2, 129)], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_odd_sizes_agree(shape: tuple[int, int, int], soft: bool, device: str) -> None:
    call, config = Call(*shape, soft=soft), SNUConfig(soft=soft)
    torch.testing.assert_close(
        call.results(ENGINE.snu, config, torch.float64, device),
        call.results(reference.snu_scan, config, torch.float64),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("shape", [(4, 0, 3), (4, 2, 0)], ids=["B=0", "N=0"])
def test_empty_batches_and_layers_work(shape: tuple[int, ...], device: str) -> None:
    x = torch.ones(shape, device=device, requires_grad=True)
    y, state = ENGINE.snu(x, SNUConfig())
    assert y.shape == shape
    assert state.s.shape == state.y.shape == shape[1:]
    if y.requires_grad:
        assert torch.autograd.grad(y.sum(), x)[0].shape == shape


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_carried_in_float32(half: torch.dtype, soft: bool, device: str) -> None:
    x = torch.randn(9, 2, 9, generator=torch.Generator().manual_seed(0)).to(device, half)
    x.requires_grad_()
    config = SNUConfig(soft=soft, decay=0.9)
    y, state = ENGINE.snu(x, config)
    assert (y.dtype, state.s.dtype, state.y.dtype) == (half, torch.float32, torch.float32)
    (grad,) = torch.autograd.grad(y.sum(), x)
    same = x.detach().float().requires_grad_()
    expected, last = ENGINE.snu(same, config)
    (exact,) = torch.autograd.grad(expected.sum(), same)
    assert torch.equal(state.s, last.s)
    # To the last place only: the interpreter cuts what a GPU rounds.
    place = torch.finfo(half).eps
    torch.testing.assert_close(y, expected.to(half), rtol=place, atol=0)
    torch.testing.assert_close(grad, exact.to(half), rtol=place, atol=0)


@pytest.mark.parametrize("soft", [False, True])
def test_chunks_equal_the_whole_bit_by_bit(soft: bool, device: str) -> None:
    config = SNUConfig(soft=soft)
    x = 0.6 * torch.randn(12, 2, 9, generator=torch.Generator().manual_seed(1)) + 0.3
    x = x.to(device, torch.bfloat16)
    whole, end = ENGINE.snu(x, config)
    first, state = ENGINE.snu(x[:7], config)
    second, last = ENGINE.snu(x[7:], config, state=state)
    assert torch.equal(torch.cat((first, second)), whole)
    assert torch.equal(last.s, end.s)
    assert torch.equal(last.y, end.y)


def permuted(x: Tensor) -> Tensor:
    return x.permute(2, 0, 1)


def strided(x: Tensor) -> Tensor:
    return x[::2, :, ::3]


def expanded(x: Tensor) -> Tensor:
    return x[:1].expand(6, -1, -1)


@pytest.mark.parametrize("view", [permuted, strided, expanded], ids=lambda view: view.__name__)
def test_input_and_gradient_need_not_be_contiguous(
    view: Callable[[Tensor], Tensor], device: str
) -> None:
    base = torch.randn(10, 4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = []
    for scan, place in ((ENGINE.snu, device), (reference.snu_scan, "cpu")):
        leaf = base.to(place, copy=True).requires_grad_()
        y, _ = scan(view(leaf), SNUConfig())
        found.append([t.cpu() for t in (y.detach(), *torch.autograd.grad(y.mean(0).sum(), leaf))])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "shape", [(), (1,), (4,), (3, 1), (1, 3, 1), (2, 3, 4), (5, 1, 1, 1), (5, 2, 3, 4)], ids=str
)
def test_maps_take_every_shape_of_constants_that_broadcasts(
    shape: tuple[int, ...], device: str
) -> None:
    random = torch.Generator().manual_seed(4)
    x = torch.randn(4, 5, 2, 3, 4, generator=random, dtype=torch.float64)
    values = torch.rand(shape, generator=random, dtype=torch.float64)
    found = []
    for scan, place in ((ENGINE.snu, device), (reference.snu_scan, "cpu")):
        decay = values.to(place, copy=True).requires_grad_()
        threshold = (1 - values).to(place).detach().requires_grad_()
        y, _ = scan(x.to(place), SNUConfig(g="relu"), decay=decay, threshold=threshold)
        grads = torch.autograd.grad(y.cumsum(0).sum(), (decay, threshold))
        found.append([t.cpu() for t in (y.detach(), *grads)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


NEURONS = {
    "LIF": Euler(
        decay=row(0.5, 0.9, 0.75),
        gain=row(0.5, 0.1, 0.25),
        threshold=row(0.5, 0.4, 0.6),
        offset=row(0.0, 0.01, -0.02),
        reset=row(-0.3, 0.2, 0.0),
        start=row(0.3, 2.0, -1.0),
    ),
    "LI": Euler(decay=row(0.5, 0.9, 0.75), gain=row(0.5, 0.1, 0.25), offset=row(0.1)),
    "CubaLIF": Euler(
        decay=row(0.5, 0.9, 0.75),
        threshold=row(0.3, 0.2, 0.4),
        synapse_decay=row(0.8, 0.7, 0.6),
        synapse_gain=row(0.2, 0.3, 0.4),
    ),
}


@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
def test_neurons_of_nir_run_on_the_same_kernels(neuron: Euler, device: str) -> None:
    given = torch.randn(12, 2, 3, generator=torch.Generator().manual_seed(0)).double() + 0.5
    found = []
    assert ENGINE.euler is not None
    for scan, place in ((ENGINE.euler, device), (_euler_reference, "cpu")):
        leaves = {
            name: value.to(place, copy=True).requires_grad_(name != "reset")
            for name, value in vars(neuron).items()
            if isinstance(value, Tensor)
        }
        x = given.to(place, copy=True).requires_grad_()
        y, state = scan(x, replace(neuron, **leaves), None)  # type: ignore[arg-type]
        loss = y.cumsum(0).sum() + state.v.square().sum()
        loss = loss if state.i is None else loss + state.i.square().sum()
        wanted = [x, *(leaf for leaf in leaves.values() if leaf.requires_grad)]
        found.append([t.cpu() for t in (y.detach(), *torch.autograd.grad(loss, wanted))])
    assert found[0][0].any()
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


def _euler_reference(
    x: Tensor, neuron: Euler, state: EulerState | None
) -> tuple[Tensor, EulerState]:
    return euler_scan(x, neuron, state, impl="reference")


def test_without_a_gradient_no_states_are_kept(device: str) -> None:
    x = torch.ones(4, 1, 3, device=device, requires_grad=True)
    with torch.no_grad():
        y, _ = ENGINE.snu(x, SNUConfig())
    assert y.grad_fn is None


HALF, SINGLE, WHOLE = "*bf16", "*fp32", "i32"
ARGUMENTS = {
    "forward": {"x": HALF, "y": HALF, "s": SINGLE, "s_last": SINGLE, "y_last": SINGLE},
    "backward": {"gy": HALF, "gx": HALF, "s": SINGLE, "ga": SINGLE, "gtheta": SINGLE},
}
NUMBERS = ("steps", "columns", "decays", "thresholds", "resets")
MORE = {
    "forward": {"v_last": SINGLE},
    "backward": {"slopes": SINGLE, "gs_last": SINGLE, "gy_last": SINGLE, "gl": SINGLE},
}
ONE = dict.fromkeys(("steps", "decays", "resets"), 1)


def compiled(
    name: str, pointers: dict[str, str], settings: Mapping[str, object], target: int
) -> str:
    """Return the code of a kernel for one kind of GPU, for rows that begin at whole 16 bytes."""
    kernel = getattr(kernels, name)
    given = ARGUMENTS[name] | {"v": SINGLE, "decay": SINGLE, "threshold": SINGLE} | pointers
    given |= {number: WHOLE for number in NUMBERS if number not in settings}
    settings = {"BELOW": 1.0, "CUT": False, "DETACHED": False, "ON": False, **settings}
    source = triton.compiler.ASTSource(
        kernel,
        {n: given.get(n, "constexpr") for n in kernel.arg_names},
        {n: (settings | LAUNCH).get(n) for n in kernel.arg_names if n not in given},
        {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if n in given},
    )
    options = {n: LAUNCH[n] for n in ("num_warps", "enable_fp_fusion")}
    gpu = triton.backends.compiler.GPUTarget("cuda", target, 32)
    code: str = triton.compile(source, target=gpu, options=options).asm["ptx"]
    return code


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_kernels_compile_for_a_gpu_that_is_not_here(name: str, soft: bool) -> None:
    """For Hopper: loads run ahead, and no product is fused with its sum."""
    code = compiled(name, {}, {"SOFT": soft}, 90)
    assert "cp.async.c" in code
    assert "fma." not in code


@pytest.mark.slow
@pytest.mark.parametrize("target", [75, 80, 90, 100])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_one_step_of_a_recurrent_unit_compiles_for_gpus_old_and_new(name: str, target: int) -> None:
    settings = {"SOFT": False, "BELOW": 0.1, "ON": True, **ONE}
    assert "fma." not in compiled(name, MORE[name], settings, target)


def test_tensors_on_a_processor_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"impl='triton' cannot run this call: .*cuda|CUDA"):
        snu_scan(torch.ones(2, 1, 3), impl="triton")


def test_the_reason_is_said_where_there_is_no_gpu() -> None:
    found = implementations()["triton"]
    assert found.available == torch.cuda.is_available()
    assert found.available or found.reason == "torch finds no CUDA device"


def test_without_triton_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "snu_plugin.neuron.triton_scan.kernels", None)
    monkeypatch.delattr("snu_plugin.neuron.triton_scan.kernels")
    assert not implementations()["triton"].available
    assert "is not installed" in implementations()["triton"].reason


@pytest.mark.gpu
def test_no_name_takes_the_fused_scan_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    x = torch.randn(50, 4, 33, device="cuda", dtype=torch.bfloat16)
    y, state = snu_scan(x)
    expected, last = snu_scan(x, impl="triton")
    assert torch.equal(y, expected)
    assert torch.equal(state.s, last.s)
