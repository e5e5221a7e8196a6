"""What a linear layer of spikes promises: that of ``nn.Linear``, up to the order of its sums."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.multiprocessing.reductions import StorageWeakRef

from gradients import per_sample_gradients_agree
from snu_plugin import SNU, Conv2d, Linear, SNUConfig, State, snu_step
from snu_plugin.neuron import EventLinear, linear, spike_linear
from snu_plugin.neuron.engine import Engine
from snu_plugin.neuron.scan import find

spike_product = pytest.importorskip("snu_plugin.neuron.numba_scan.spike_product")

Results = tuple[Tensor, ...]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spikes(*shape: int, share: float = 0.1, seed: int = 0) -> Tensor:
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn < share).double()


def step(x: Tensor, outputs: int, dtype: torch.dtype, impl: str | None) -> Results:
    """Return outputs and the gradients of input, weights and bias."""
    leaves = x.to(dtype), draw(outputs, x.shape[-1], seed=1).to(dtype), draw(outputs, seed=2)
    x, weight, bias = (leaf.to(dtype).detach().requires_grad_() for leaf in leaves)
    y = spike_linear(x, weight, bias, impl=impl)
    found = torch.autograd.grad(y, (x, weight, bias), draw(*y.shape, seed=3).to(dtype))
    return y.detach(), *found


def assert_as_exact_as_dense(x: Tensor, outputs: int, dtype: torch.dtype) -> None:
    """Hold errors against float64 to twice those of the dense product and one rounding.

    What is added up is of order 1: where it cancels, roundings are those of 1. In float64 itself
    both are sums of at most a thousand numbers. Gradients of input and bias are torch's own.
    """
    expected = step(x, outputs, torch.float64, "reference")
    found, dense = (step(x, outputs, dtype, impl) for impl in ("numba", "reference"))
    torch.testing.assert_close(found, dense)
    for got, usual, exact in ((found[n], dense[n], expected[n]) for n in (0, 2)):
        if dtype == torch.float64:
            torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-12)
            continue
        rounding = torch.finfo(dtype).eps * max(1.0, float(exact.abs().max()))
        error, its = (float((each - exact).abs().max()) for each in (got, usual))
        assert error <= 2 * (its + rounding)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Small products count as large ones; says whether each that was asked for was walked."""
    for name in ("LEAST", "ROWS", "COLUMNS"):
        monkeypatch.setattr(linear, name, 1)
    engine = find("numba")
    assert not isinstance(engine, str)
    calls: list[bool] = []
    real = spike_product.pack

    def pack(x: Tensor, most: float, spikes: bool) -> Tensor | None:
        words: Tensor | None = real(x, most, spikes)
        calls.append(words is not None)
        return words

    own = {**vars(spike_product.SPIKES), "most": lambda *sizes: 0.25, "pack": pack}
    watching = spike_product.SpikeProduct(**own)
    patched = Engine(**{**vars(engine), "spikes": watching})
    monkeypatch.setattr(linear, "find", lambda name: patched)
    monkeypatch.setattr("snu_plugin.neuron.scan.find", lambda name: patched)
    return calls


SHAPES = (
    *itertools.product((1, 63, 64, 65), repeat=3),
    *((1000, 1000, 1000), (1000, 1, 65), (65, 1000, 1), (1, 65, 1000)),
)


@pytest.mark.parametrize(("samples", "inputs", "outputs"), SHAPES)
def test_outputs_and_gradients_are_as_exact_as_dense_ones(
    samples: int, inputs: int, outputs: int
) -> None:
    dtype = torch.float32 if (samples + inputs + outputs) % 2 else torch.float64
    assert_as_exact_as_dense(spikes(samples, inputs), outputs, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_any_share_of_spikes_will_do(share: float, dtype: torch.dtype) -> None:
    assert_as_exact_as_dense(spikes(30, 7, 100, share=share), 170, dtype)


def test_no_step_and_no_sample_give_what_torch_gives() -> None:
    for shape, impl in itertools.product(((0, 5, 64), (5, 0, 64), (0, 64)), (None, "numba")):
        x, layer = torch.zeros(shape, requires_grad=True), Linear(64, 65, impl=impl)
        y = layer(x)
        assert torch.equal(y, F.linear(x, layer.weight, layer.bias))
        y.sum().backward()
        assert layer.weight.grad is not None
        assert not layer.weight.grad.any()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(0, 1),
        lambda x: x[:, :, ::2],
        lambda x: x[:, :, 3:70],
        lambda x: x[::3].flip(0),
        lambda x: x[:1, :1].expand(20, 8, -1),
        lambda x: x.permute(2, 1, 0),
    ],
)
def test_inputs_need_not_lie_side_by_side(view: Callable[[Tensor], Tensor]) -> None:
    given = view(spikes(20, 9, 130))
    copied = given.contiguous()
    for strided, plain in zip(
        step(given, 33, torch.float64, "numba"),
        step(copied, 33, torch.float64, "numba"),
        strict=True,
    ):
        assert torch.equal(strided, plain)


def test_a_transposed_weight_and_a_repeated_gradient_are_taken() -> None:
    x, weight = spikes(50, 70), draw(70, 40).t().requires_grad_()
    for impl in ("numba", "reference"):
        y = spike_linear(x, weight, impl=impl)
        (found,) = torch.autograd.grad(y.sum(), weight)
        torch.testing.assert_close(y, x @ weight.t())
        torch.testing.assert_close(found, x.sum(0).expand(40, 70))


def test_minus_zero_is_no_spike() -> None:
    x = spikes(50, 70)
    assert torch.equal(
        spike_linear(-(1 - x).clamp(max=0) - 0.0 * x + x, draw(9, 70), impl="numba"),
        spike_linear(x, draw(9, 70), impl="numba"),
    )
    minus = torch.where(x == 0, -torch.zeros_like(x), x)
    assert minus.signbit().any()
    assert torch.equal(
        spike_linear(minus, draw(9, 70), impl="numba"), spike_linear(x, draw(9, 70), impl="numba")
    )


@pytest.mark.parametrize("value", [2.0, 0.5, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("place", [(0, 0), (39, 69), (20, 64)])
def test_one_input_that_is_neither_0_nor_1_makes_the_product_dense(
    value: float, place: tuple[int, int], watched: list[bool]
) -> None:
    x, layer = spikes(40, 70), Linear(70, 9).double()
    x[place] = value
    expected = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0, equal_nan=True)
    assert watched == [False]
    with pytest.raises(ValueError, match="x is not 0 and 1 alone"):
        spike_linear(x, layer.weight, impl="numba")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_spreads_as_in_the_dense_product(
    value: float, watched: list[bool]
) -> None:
    x, layer = spikes(40, 70).requires_grad_(), Linear(70, 9).double()
    x.data[:, 5] = 0  # so that no spike meets the weight: 0 times it is NaN all the same
    dense = nn.Linear(70, 9).double()
    dense.load_state_dict(layer.state_dict())
    gradient = draw(40, 9)
    gradient[3, 4] = value
    for broken in (False, True):
        with torch.no_grad():
            for each in (layer, dense):
                each.weight[2, 5] = value if broken else 0.5
        found, expected = (
            (y := each(x), *torch.autograd.grad(y, [x, *each.parameters()], gradient))
            for each in (layer, dense)
        )
        for got, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(got, wanted, equal_nan=True)
        assert found[2].isnan().any()
    assert watched == [True, True]
    with pytest.raises(ValueError, match="a weight is not finite"):
        spike_linear(x, layer.weight, impl="numba")


@pytest.mark.parametrize(("share", "taken"), [(0.0, True), (0.2, True), (0.3, False), (1, False)])
def test_spikes_are_walked_where_they_are_few(
    share: float, taken: bool, watched: list[bool]
) -> None:
    x, layer = spikes(200, 4, 256, share=share), Linear(256, 5).double()
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    assert watched == [taken]


@pytest.mark.parametrize(
    ("kind", "sizes", "share"),
    [
        (("x86_64-unknown-linux-gnu", "skylake-avx512"), (784, 256), 0.25),
        (("x86_64-unknown-linux-gnu", "znver4"), (784, 256), 0.75),
        (("x86_64-unknown-linux-gnu", "znver4"), (88, 150), 0.25),
        (("x86_64-unknown-linux-gnu", "znver5"), (88, 150), 0.75),
        (("aarch64-apple-darwin", "apple-m1"), (784, 256), 0.0),
    ],
)
def test_the_kind_of_processor_and_the_size_say_how_many_spikes_are_few(
    kind: tuple[str, str],
    sizes: tuple[int, int],
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spike_product, "_processor", lambda: kind)
    monkeypatch.setattr(spike_product, "register_bytes", lambda: 64)
    monkeypatch.setattr(torch._C, "has_mkl", True)
    assert spike_product.most(*sizes) == share


def test_what_the_first_look_does_not_show_is_seen_all_the_same(watched: list[bool]) -> None:
    x, layer = spikes(1000, 70, share=0.2), Linear(70, 9).double()
    apart = len(x) // spike_product.LOOK | 1
    unseen = [row for row in range(len(x)) if row % apart]
    x[unseen] = 1
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    x[unseen] = 0.5
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert watched == [False, False]


def test_a_small_product_is_that_of_torch_bit_by_bit() -> None:
    layer, x = Linear(20, 5), spikes(3, 2, 20).float()
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert torch.equal(layer(x.bool()), layer(x))
    with pytest.raises(ValueError, match="the layer takes 20"):
        layer(x[..., :7])


def test_true_and_false_are_spikes() -> None:
    x, weight = spikes(40, 70), draw(9, 70)
    assert torch.equal(
        spike_linear(x.bool(), weight, impl="numba"), spike_linear(x, weight, impl="numba")
    )


def test_any_number_of_threads_gives_the_same() -> None:
    x, before = spikes(3000, 100), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results += [step(x, 150, torch.float32, "numba")]
    finally:
        torch.set_num_threads(before)
    for each in zip(*results, strict=True):
        assert torch.equal(each[1], each[2])
        if each[0].shape != x.shape and each[0].dim() > 1:  # what torch multiplies may differ
            assert torch.equal(each[0], each[1])


def test_the_layer_is_made_saved_and_named_as_that_of_torch() -> None:
    layer, dense = Linear(7, 5, False, "cpu", torch.float64), nn.Linear(7, 5, False)
    assert layer.bias is None
    assert layer.weight.dtype == torch.float64
    assert isinstance(layer, nn.Linear)
    assert issubclass(EventLinear, Linear)
    assert layer.state_dict().keys() == dense.state_dict().keys()
    torch.manual_seed(0)
    one = nn.Linear(7, 5)
    torch.manual_seed(0)
    other = Linear(7, 5)
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_a_named_implementation_runs_or_raises() -> None:
    x, weight = spikes(4, 7), draw(3, 7)
    torch.testing.assert_close(spike_linear(x, weight, impl="numba"), x @ weight.t())
    assert torch.equal(spike_linear(x, weight, impl="reference"), F.linear(x, weight))
    with pytest.raises(LookupError, match="impl is 'cuda'"):
        spike_linear(x, weight, impl="cuda")
    with pytest.raises(ValueError, match="must all be float32 or all float64"):
        spike_linear(x.half(), weight.half(), impl="numba")
    with pytest.raises(ValueError, match="on meta"):
        spike_linear(x.to("meta"), weight.to("meta"), impl="numba")
    with pytest.raises(ValueError, match="a tracer or transform"):
        torch.vmap(lambda row: spike_linear(row, weight, impl="numba"))(x)
    with pytest.raises(ValueError, match="autocast"), torch.autocast("cpu"):
        spike_linear(x, weight, impl="numba")


def test_derivatives_go_to_any_order(watched: list[bool]) -> None:
    x, layer = spikes(30, 70).requires_grad_(), Linear(70, 9).double()
    dense = nn.Linear(70, 9).double()
    dense.load_state_dict(layer.state_dict())
    for given in (x, x.detach()):
        results = []
        for each in (layer, dense):
            leaves = [*each.parameters(), *([x] if given is x else [])]
            first = torch.autograd.grad(each(given).square().sum(), leaves, create_graph=True)
            total = torch.stack([g.square().sum() for g in first]).sum()
            results.append([*first, *torch.autograd.grad(total, leaves)])
        for got, wanted in zip(*results, strict=True):
            torch.testing.assert_close(got, wanted)
    assert watched == [True, True]


def test_an_inner_layer_keeps_bits_of_its_input_and_lets_it_go() -> None:
    begin = spikes(200, 70).requires_grad_()
    for layer, shape in (
        (Linear(70, 9, impl="numba"), (200, 70)),
        (Conv2d(7, 9, 3, impl="numba"), (8, 7, 5, 50)),
    ):
        x = (1 * begin).view(shape)
        y = layer.double()(x)
        kept = StorageWeakRef(x.untyped_storage())  # type: ignore[no-untyped-call]
        del x
        assert kept.expired()  # type: ignore[no-untyped-call]
        (found,) = torch.autograd.grad(y.square().sum(), layer.weight, create_graph=True)
        (second,) = torch.autograd.grad(found.square().sum(), begin)
        assert second.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x[:, ::2], lambda x: x.transpose(0, 1)])
def test_numbers_of_which_few_are_not_0_are_walked_on_request(
    dtype: torch.dtype, view: Callable[[Tensor], Tensor], watched: list[bool]
) -> None:
    x = view((spikes(90, 11, 170, share=0.08) * draw(90, 11, 170)).to(dtype))
    layer, dense = EventLinear(170, 130).to(dtype), nn.Linear(170, 130).to(dtype)
    dense.load_state_dict(layer.state_dict())
    for given in (x.detach(), x.clone().requires_grad_()):
        results = []
        for each in (layer, dense):
            leaves = [*each.parameters(), *([given] if given.requires_grad else [])]
            y = each(given)
            first = torch.autograd.grad(y, leaves, draw(*y.shape).to(dtype), create_graph=True)
            results.append([y, *first])
            y = each(given)
            results[-1] += torch.autograd.grad(y, leaves, draw(*y.shape).to(dtype))
        for got, wanted in zip(*results, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-4)
    assert watched == [False, True] * 4
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), dense(x), rtol=1e-5, atol=1e-4)
    x = x + 1
    assert torch.equal(layer(x), dense(x))
    x = x - 1
    x[3, 4, 5] = float("nan")
    assert torch.equal(layer(x).isnan(), dense(x).isnan())


def test_transforms_and_batched_gradients_see_the_dense_product(watched: list[bool]) -> None:
    x, layer = spikes(12, 40, 70), Linear(70, 9).double()
    per_sample_gradients_agree(layer, x)
    tangent = torch.func.jvp(layer, (x[0],), (draw(40, 70),))[1]
    torch.testing.assert_close(tangent, draw(40, 70) @ layer.weight.t())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x[0], draw(40, 70))  # type: ignore[no-untyped-call]
        found = forward_ad.unpack_dual(layer(dual)).tangent  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, tangent)
    y, grads = layer(x[0]), draw(2, 40, 9)
    (found,) = torch.autograd.grad(y, layer.weight, grads, is_grads_batched=True)
    torch.testing.assert_close(found, grads.transpose(1, 2) @ x[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_those_of_torch(dtype: torch.dtype) -> None:
    x, layer = spikes(40, 70), Linear(70, 9)
    with torch.autocast("cpu", dtype):
        found = layer(x.float())
        assert torch.equal(found, F.linear(x.float(), layer.weight, layer.bias))
    assert found.dtype == dtype
    assert layer.to(dtype)(x.to(dtype)).dtype == dtype


def test_a_compiled_network_is_one_graph_with_the_same_results() -> None:
    net = nn.Sequential(Linear(100, 80), nn.Linear(80, 5)).double()
    walked = nn.Sequential(Linear(100, 80, impl="numba"), nn.Linear(80, 5)).double()
    walked.load_state_dict(net.state_dict())
    for each in (net, walked):
        compiled = torch.compile(each, fullgraph=True, backend="aot_eager")
        for samples in (30, 50):
            x = spikes(samples, 4, 100).requires_grad_()
            found, expected = compiled(x), each(x)
            torch.testing.assert_close(found, expected)
            leaves = x, *each.parameters()
            got, wanted = (torch.autograd.grad(y.sum(), leaves) for y in (found, expected))
            torch.testing.assert_close(got, wanted)
        values = draw(30, 4, 100)
        if each is net:
            torch.testing.assert_close(compiled(values), each(values))
        else:
            with pytest.raises(ValueError, match="not 0 and 1 alone"):
                compiled(values)


def test_the_operators_keep_what_torch_asks_of_them() -> None:
    x, weight, bias = (t.clone().requires_grad_() for t in (spikes(20, 70), draw(9, 70), draw(9)))
    checks = "test_schema", "test_faketensor", "test_autograd_registration"
    for given in ((x, weight, bias, True, False), (x, weight, None, False, True)):
        torch.library.opcheck(torch.ops.snu_plugin.spike_linear, given, test_utils=checks)
    grads = torch.ops.snu_plugin.spike_linear_weight_grad
    torch.library.opcheck(grads, (draw(20, 9), x.detach(), True, False), test_utils=checks[:2])


def test_spikes_differ_only_where_a_state_lies_on_its_threshold() -> None:
    """Each step starts from the state of the dense product in float64."""
    x, weight = spikes(100, 20, 300), draw(64, 300) / 6
    exact, dense = (F.linear(x.to(t), weight.to(t)) for t in (torch.float64, torch.float32))
    walked = spike_linear(x.float(), weight.float(), impl="numba")
    budget = 2 * (float((dense - exact).abs().max()) + torch.finfo(torch.float32).eps * 4)
    state: State | None = None
    left_out = compared = 0
    for drive, ours in zip(exact, walked, strict=True):
        before = None if state is None else State(*(part.float() for part in state))
        fired, _ = snu_step(ours, before)
        y, state = snu_step(drive, state)
        clear = (state.s - 1).abs() > budget
        assert torch.equal(fired[clear].double(), y[clear])
        left_out, compared = left_out + int((~clear).sum()), compared + clear.numel()
    assert left_out < 1e-3 * compared


def test_layers_of_spiking_units_train_alike(watched: list[bool]) -> None:
    results = []
    for kind in (Linear, nn.Linear):
        torch.manual_seed(0)
        units = (SNU(64, SNUConfig(threshold=0.1)) for _ in range(2))
        parts = kind(70, 64), next(units), kind(64, 64), next(units)
        layers = nn.ModuleList(parts).double()
        y = spikes(20, 8, 70)
        for layer in layers:
            y = layer(y)[0] if isinstance(layer, SNU) else layer(y)
        y.square().sum().backward()  # type: ignore[no-untyped-call]
        assert 0 < y.mean() < 1
        results.append([y, *(p.grad for p in layers.parameters() if p.grad is not None)])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)
    assert watched[0]


WALK = """
import torch
from snu_plugin.neuron import spike_linear
from snu_plugin.neuron.numba_scan import simd, spike_kernels
x = (torch.rand(200, 130, generator=torch.Generator().manual_seed(0)) < 0.1).float()
weight = torch.randn(70, 130, generator=torch.Generator().manual_seed(1), requires_grad=True)
y = spike_linear(x, weight, impl="numba")
y.sum().backward()
torch.testing.assert_close(y, x @ weight.t())
torch.testing.assert_close(weight.grad, x.sum(0).expand(70, -1))
(code,) = spike_kernels.multiply.part.inspect_asm().values()
print(simd.register_bytes(), *(f"%{kind}mm" in code for kind in "zyx"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("needed", "features", "found"),
    [
        ("avx512f", None, ["64", "True"]),
        ("avx2", "+sse2,+avx,+avx2,+bmi,+popcnt", ["32", "False", "True"]),
        ("sse2", "+sse2", ["16", "False", "False", "True"]),
    ],
)
def test_sums_stay_in_the_widest_registers_of_a_processor(
    needed: str, features: str | None, found: list[str], tmp_path: Path
) -> None:
    binding = pytest.importorskip("llvmlite.binding")
    if not binding.get_host_cpu_features().get(needed):
        pytest.skip(f"this processor has no {needed}")
    path = os.pathsep.join(sys.path)
    own = {**os.environ, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(tmp_path)}
    if features is not None:
        own |= {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-c", WALK]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
    assert done.stdout.split()[: len(found)] == found
