"""What a convolution of spikes promises: that of torch, up to the order of its sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradients import per_sample_gradients_agree
from snu_plugin import Conv1d, Conv2d
from snu_plugin.neuron import convolution, spike_conv2d
from snu_plugin.neuron.engine import Engine
from snu_plugin.neuron.scan import find

spike_product = pytest.importorskip("snu_plugin.neuron.numba_scan.spike_product")

Case = tuple[tuple[int, ...], int, dict[str, Any]]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spikes(*shape: int, share: float = 0.1, seed: int = 0) -> Tensor:
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn < share).double()


def layers(kind: type[Any], host: type[Any], *args: Any, **settings: Any) -> tuple[Any, Any]:
    """Return a layer of ours that walks and one of torch with the same weights."""
    ours, stock = kind(*args, impl="numba", **settings).double(), host(*args, **settings).double()
    stock.load_state_dict(ours.state_dict())
    return ours, stock


def results(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Return outputs and the gradients of input and parameters."""
    x = x.detach().requires_grad_()
    y = layer(x)
    g = draw(*y.shape, seed=3).to(x.dtype)
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], g)]


def assert_alike(ours: nn.Module, stock: nn.Module, x: Tensor) -> None:
    for found, expected in zip(results(ours, x), results(stock, x), strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-11)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Small convolutions count as large ones; says whether each that was asked for was walked."""
    for name in ("LEAST", "ROWS", "INPUTS", "OUTPUTS", "WEIGHTS"):
        monkeypatch.setattr(convolution, name, 1)
    engine = find("numba")
    assert isinstance(engine, Engine)
    assert engine.spikes is not None
    calls: list[bool] = []
    real = spike_product.pack_images

    def pack_images(x: Tensor, most: float) -> Tensor | None:
        words: Tensor | None = real(x, most)
        calls.append(words is not None)
        return words

    own = {**vars(engine.spikes), "most": lambda *sizes: 0.25, "pack_images": pack_images}
    patched = Engine(**{**vars(engine), "spikes": type(engine.spikes)(**own)})
    monkeypatch.setattr(convolution, "find", lambda name: patched)
    monkeypatch.setattr("snu_plugin.neuron.scan.find", lambda name: patched)
    return calls


CASES: list[Case] = [
    ((1, 1, 1, 1), 1, {"kernel_size": 1}),
    ((3, 5, 7, 9), 4, {"kernel_size": (3, 2), "padding": 1}),
    ((2, 64, 8, 8), 64, {"kernel_size": 3, "padding": 1}),
    ((2, 63, 6, 5), 65, {"kernel_size": 3, "padding": (0, 2), "bias": False}),
    ((2, 65, 5, 6), 63, {"kernel_size": 2, "stride": 2}),
    ((2, 6, 9, 11), 9, {"kernel_size": 3, "stride": (2, 3), "dilation": (1, 2), "groups": 3}),
    ((3, 2, 34, 34), 16, {"kernel_size": 5, "padding": 2}),
    ((2, 130, 5, 5), 200, {"kernel_size": 3, "dilation": 2}),
    ((2, 8, 6, 6), 8, {"kernel_size": 3, "groups": 8, "padding": "same"}),
    ((2, 3, 6, 7), 5, {"kernel_size": (2, 4), "padding": "same"}),
    ((2, 3, 6, 7), 5, {"kernel_size": 3, "padding": "valid"}),
    ((2, 3, 6, 7), 5, {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}),
    ((1, 1, 1, 1000), 1, {"kernel_size": (1, 64)}),
    ((4, 3, 65, 1), 2, {"kernel_size": (7, 1), "stride": (3, 1), "padding": (5, 0)}),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("shape", "outputs", "settings"), CASES)
def test_outputs_and_gradients_are_those_of_torch_in_its_order_in_memory(
    shape: tuple[int, ...], outputs: int, settings: dict[str, Any], order: torch.memory_format
) -> None:
    ours, stock = layers(Conv2d, nn.Conv2d, shape[1], outputs, **settings)
    x = spikes(*shape, share=0.3).contiguous(memory_format=order)
    assert_alike(ours, stock, x)
    if min(shape) > 1:
        assert ours(x).stride() == stock(x).stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_any_share_of_spikes_is_as_exact_as_torch(share: float, dtype: torch.dtype) -> None:
    x, weight = spikes(4, 20, 9, 9, share=share), draw(30, 20, 3, 3, seed=1)
    exact = F.conv2d(x, weight, padding=1)
    given = x.to(dtype), weight.to(dtype), None, (1, 1), (1, 1)
    error, usual = (
        float((spike_conv2d(*given, impl=impl) - exact).abs().max()) for impl in ("numba", None)
    )
    assert error <= 2 * usual + 4 * torch.finfo(dtype).eps * float(exact.abs().max())


@pytest.mark.parametrize(
    "settings", [{"padding": 2}, {"stride": 3}, {"dilation": 4}, {"padding": "same"}]
)
def test_signals_are_convolved_as_images_are(settings: dict[str, Any]) -> None:
    ours, stock = layers(Conv1d, nn.Conv1d, 6, 9, 5, **settings)
    assert_alike(ours, stock, spikes(3, 6, 70))
    assert_alike(ours, stock, spikes(6, 70))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, ::2],
        lambda x: x[:, :, 1:-1, ::3],
        lambda x: x.flip(0).transpose(2, 3),
        lambda x: x[:1].expand(5, -1, -1, -1),
        lambda x: x.permute(3, 2, 1, 0),
    ],
)
def test_inputs_need_not_lie_side_by_side(view: Callable[[Tensor], Tensor]) -> None:
    x = view(spikes(4, 8, 10, 12))
    ours, stock = layers(Conv2d, nn.Conv2d, x.shape[1], 7, 3, padding=1)
    assert_alike(ours, stock, x)


def test_no_image_gives_what_torch_gives() -> None:
    ours, stock = layers(Conv2d, nn.Conv2d, 3, 5, 3)
    assert_alike(ours, stock, torch.zeros(0, 3, 8, 8).double())
    with pytest.raises(RuntimeError):
        stock(torch.zeros(2, 3, 1, 1).double())
    with pytest.raises(ValueError, match="x has shape"):
        ours(torch.zeros(2, 3, 1, 1).double())
    with pytest.raises(ValueError, match="4 along axis -3; the layer takes 3"):
        Conv2d(3, 5, 3)(torch.zeros(2, 4, 8, 8))


def test_minus_zero_is_no_spike_and_true_is_one() -> None:
    x, weight = spikes(3, 5, 8, 8), draw(7, 5, 3, 3)
    expected = spike_conv2d(x, weight, impl="numba")
    minus = torch.where(x == 0, -torch.zeros_like(x), x)
    assert minus.signbit().any()
    assert torch.equal(spike_conv2d(minus, weight, impl="numba"), expected)
    layer = Conv2d(5, 7, 3, bias=False, impl="numba").double()
    assert torch.equal(layer(x.bool()), layer(x))


@pytest.mark.parametrize("value", [2.0, -1.0, float("nan"), float("inf")])
def test_one_input_that_is_neither_0_nor_1_leaves_it_to_torch(
    value: float, watched: list[bool]
) -> None:
    layer = Conv2d(5, 7, 3).double()
    for order in (torch.contiguous_format, torch.channels_last):
        x = spikes(3, 5, 8, 8).contiguous(memory_format=order)
        x[2, 4, 7, 7] = value
        expected = F.conv2d(x, layer.weight, layer.bias)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0, equal_nan=True)
        with pytest.raises(ValueError, match="x is not 0 and 1 alone"):
            spike_conv2d(x, layer.weight, impl="numba")
    assert not any(watched)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_spreads_as_in_torch(value: float, watched: list[bool]) -> None:
    x = spikes(3, 5, 8, 8).requires_grad_()
    layer, stock = Conv2d(5, 7, 3).double(), nn.Conv2d(5, 7, 3).double()
    stock.load_state_dict(layer.state_dict())
    gradient = draw(3, 7, 6, 6)
    gradient[1, 2, 3, 4] = value
    for broken in (False, True):
        with torch.no_grad():
            for each in (layer, stock):
                each.weight[2, 3, 1, 1] = value if broken else 0.5
        found, expected = (
            (y := each(x), *torch.autograd.grad(y, [x, *each.parameters()], gradient))
            for each in (layer, stock)
        )
        for got, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(got, wanted, equal_nan=True)
        assert found[2].isnan().any()
    assert watched == [True, True]


@pytest.mark.parametrize(("share", "taken"), [(0.0, True), (0.2, True), (0.3, False), (1, False)])
def test_spikes_are_walked_where_they_are_few(
    share: float, taken: bool, watched: list[bool]
) -> None:
    layer = Conv2d(6, 9, 3).double()
    for order in (torch.contiguous_format, torch.channels_last):
        x = spikes(20, 6, 30, 30, share=share).contiguous(memory_format=order)
        torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias))
    assert watched == [taken] * 2


def test_a_small_convolution_is_that_of_torch_bit_by_bit() -> None:
    layer, x = Conv2d(3, 5, 3), spikes(2, 3, 8, 8).float()
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias))


def test_any_number_of_threads_gives_the_same() -> None:
    x, before = spikes(30, 20, 12, 12).float(), torch.get_num_threads()
    layer = Conv2d(20, 33, 3, padding=1, impl="numba")
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(layer, x))
    finally:
        torch.set_num_threads(before)
    for y, _, of_weights, _ in found[1:]:  # what torch computes may differ
        assert torch.equal(y, found[0][0])
        assert torch.equal(of_weights, found[0][2])


def test_derivatives_go_to_any_order_though_bits_are_kept(watched: list[bool]) -> None:
    x = spikes(3, 5, 8, 8).requires_grad_()
    layer, stock = Conv2d(5, 7, 3).double(), nn.Conv2d(5, 7, 3).double()
    stock.load_state_dict(layer.state_dict())
    for given in (x, x.detach()):
        found = []
        for each in (layer, stock):
            leaves = [*each.parameters(), *([given] if given is x else [])]
            y = each(1 * given).square().sum()
            first = torch.autograd.grad(y, leaves, create_graph=True)
            total = torch.stack([g.square().sum() for g in first]).sum()
            found.append([*first, *torch.autograd.grad(total, leaves)])
        for got, wanted in zip(*found, strict=True):
            torch.testing.assert_close(got, wanted)
    assert watched == [True, True]


def test_transforms_see_what_torch_convolves(watched: list[bool]) -> None:
    layer, x = Conv2d(5, 7, 3).double(), spikes(4, 2, 5, 8, 8)
    per_sample_gradients_agree(layer, x)
    y, grads = layer(x[0]), draw(2, 2, 7, 6, 6)
    (found,) = torch.autograd.grad(y, layer.weight, grads, is_grads_batched=True)
    for n in range(2):
        wanted = torch.autograd.grad(layer(x[0]), layer.weight, grads[n])[0]
        torch.testing.assert_close(found[n], wanted)
    assert True in watched


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_those_of_torch(dtype: torch.dtype) -> None:
    x, layer = spikes(2, 5, 8, 8).float(), Conv2d(5, 7, 3)
    with torch.autocast("cpu", dtype):
        assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias))
    assert layer.to(dtype)(x.to(dtype)).dtype == dtype


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_compiled_network_is_one_graph_with_the_same_results(order: torch.memory_format) -> None:
    torch.compiler.reset()  # a network more may be one too many for it
    for impl in (None, "numba"):
        net = nn.Sequential(Conv2d(3, 8, 3, padding=1, impl=impl), nn.Conv2d(8, 5, 3)).double()
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        for images in (3, 5):
            x = spikes(images, 3, 9, 9).contiguous(memory_format=order).requires_grad_()
            found, expected = compiled(x), net(x)
            torch.testing.assert_close(found, expected)
            leaves = x, *net.parameters()
            got, wanted = (torch.autograd.grad(y.sum(), leaves) for y in (found, expected))
            torch.testing.assert_close(got, wanted)


def test_the_operators_keep_what_torch_asks_of_them() -> None:
    x, weight, bias = spikes(3, 6, 8, 8), draw(8, 3, 3, 3), draw(8)
    given = [t.clone().requires_grad_() for t in (x, weight, bias)]
    how = [1, 2], [1, 0], [1, 1], 2, True
    checks = "test_schema", "test_faketensor", "test_autograd_registration"
    torch.library.opcheck(torch.ops.snu_plugin.spike_conv2d, (*given, *how), test_utils=checks)
    g = draw(*F.conv2d(x, weight, None, *how[:4]).shape)
    grads = torch.ops.snu_plugin.spike_conv2d_weight_grad
    torch.library.opcheck(grads, (g, x, weight, *how), test_utils=checks[:2])


def test_a_named_implementation_runs_or_raises() -> None:
    x, weight = spikes(2, 3, 5, 5), draw(4, 3, 3, 3)
    assert torch.equal(spike_conv2d(x, weight, impl="reference"), F.conv2d(x, weight))
    with pytest.raises(LookupError, match="impl is 'cuda'"):
        spike_conv2d(x, weight, impl="cuda")
    with pytest.raises(ValueError, match="must all be float32 or all float64"):
        spike_conv2d(x.half(), weight.half(), impl="numba")
    with pytest.raises(ValueError, match="on meta"):
        spike_conv2d(x.to("meta"), weight.to("meta"), impl="numba")
    with pytest.raises(ValueError, match="groups are 2"):
        spike_conv2d(x, weight, groups=2, impl="numba")


def test_the_layer_is_made_saved_and_named_as_that_of_torch() -> None:
    layer = Conv2d(4, 6, (3, 2), 2, 1, 1, 2, False, "zeros", "cpu", torch.float64)
    stock = nn.Conv2d(4, 6, (3, 2), 2, 1, 1, 2, False, "zeros", "cpu", torch.float64)
    assert isinstance(layer, nn.Conv2d)
    assert issubclass(Conv1d, nn.Conv1d)
    assert layer.state_dict().keys() == stock.state_dict().keys()
    torch.manual_seed(0)
    one = nn.Conv2d(4, 6, 3)
    torch.manual_seed(0)
    assert all(map(torch.equal, one.parameters(), Conv2d(4, 6, 3).parameters()))


@pytest.mark.parametrize("inputs", [1, 63, 64, 65, 130])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_few_weights_have_the_gradients_of_a_product_in_any_number_of_threads(
    share: float, inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snu_plugin.neuron.numba_scan.jit.GRAIN", 1)
    x, g = spikes(5000, inputs, share=share), draw(5000, 16, seed=1)
    words, before = spike_product.pack(x, 1.0), torch.get_num_threads()
    expected = torch.cat((g.t() @ x, g.sum(0)[:, None]), 1)
    found = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(spike_product.weight_grad(words, g, inputs, None, True))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0], expected, rtol=1e-11, atol=1e-11)
    assert all(torch.equal(found[0], other) for other in found)
    assert torch.equal(spike_product.weight_grad(words, g, inputs), found[0][:, :-1])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_gradients_of_few_weights_that_are_not_finite_are_left_to_torch(value: float) -> None:
    words, g = spike_product.pack(spikes(3000, 70), 1.0), draw(3000, 16)
    g[1500, 3] = value
    assert spike_product.weight_grad(words, g, 70, None, True) is None


@pytest.mark.parametrize(("share", "walked"), [(0.05, True), (0.2, False)])
def test_few_weights_are_walked_on_one_thread_where_few_spikes_are(
    share: float, walked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    engine = find("numba")
    assert isinstance(engine, Engine)
    assert engine.spikes is not None
    real = engine.spikes.unfold

    def unfold(*given: Any) -> Tensor:
        calls.append(1)
        return real(*given)

    own = {**vars(engine.spikes), "most": lambda *sizes: 0.25, "unfold": unfold}
    patched = Engine(**{**vars(engine), "spikes": type(engine.spikes)(**own)})
    monkeypatch.setattr(convolution, "find", lambda name: patched)
    monkeypatch.setattr("snu_plugin.neuron.scan.find", lambda name: patched)
    x, weight = spikes(120, 2, 34, 34, share=share).float(), draw(16, 2, 5, 5).float()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            spike_conv2d(x, weight, padding=(2, 2))
    finally:
        torch.set_num_threads(before)
    assert calls == [1] * walked
