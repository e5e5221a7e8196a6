"""Chips on other devices: whatever they do happens there, and a seed is the same chip.

Where no GPU is at hand, ``pretended`` stands in for one: its tensors say that they are on
``cuda:0``, are computed on the processor, and refuse to meet tensors of the processor, as those of
a GPU do. Tests marked ``gpu`` do the same on a real one.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import small_chips
from few import few_of
from snu_plugin.accelerator import HERMES, IDEAL, PCM, PCM_PULSED, Accelerator, noise
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.hil import fine_tune
from snu_plugin.neuron import SNUConfig

DT = 2.0**-10
GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
SCALARS = {"add", "sub", "mul", "div", "truediv", "rsub", "pow", "where", "maximum", "minimum"}
"""Functions that take a single number from the processor beside tensors of a GPU."""
SCALARS |= {f"{name}_" for name in SCALARS} | {f"__{n}__" for n in ("lt", "gt", "le", "ge", "eq")}
SCALARS |= {"__rsub__", "__rmul__", "__radd__", "__rtruediv__", "__rpow__", "lt", "gt", "le", "ge"}
INDEXED = {"__getitem__", "__setitem__"}


class There(Tensor):
    """A tensor on the pretended GPU."""


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in tuples, lists and dicts; torch's own walks take most of these tests."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def each(value: Any, one: type[Tensor], other: type[Tensor]) -> Any:
    """Return a structure in which tensors of one kind are of another."""
    if isinstance(value, one):
        return value.as_subclass(other)
    if type(value) in (tuple, list) or type(value).__module__ == "torch.return_types":
        return type(value)([each(item, one, other) for item in value])
    if isinstance(value, dict):
        return {key: each(item, one, other) for key, item in value.items()}
    return value


def there(value: Any) -> Any:
    """Return a tensor, or all tensors of a structure, as ones on the pretended GPU."""
    return each(value, Tensor, There)


def here(value: Any) -> Any:
    """Return tensors as they are computed."""
    return each(value, There, Tensor)


class Pretended(TorchFunctionMode):
    """Pretends that ``cuda:0`` is there, and holds tensors to it."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.__name__
        with torch._C.DisableTorchFunction():
            tensors = list(tensors_in((args, kwargs)))
            away = any(isinstance(v, There) for v in tensors)
            if name == "__get__":
                what = getattr(func.__self__, "__name__", "")
                if away and what in ("device", "is_cpu", "is_cuda"):
                    return {"device": GPU, "is_cpu": False, "is_cuda": True}[what]
            if away and name in ("numpy", "__array__", "data_ptr"):
                raise TypeError(f"can't convert cuda:0 device type tensor to numpy: {name}")
            if away and name == "_has_compatible_shallow_copy_type":
                return False
            target, args, kwargs = _target(name, args, kwargs, tensors)
            if target is None:
                target = GPU if away else CPU
                strangers = [v for v in tensors if not isinstance(v, There)]
                if away and name in INDEXED:
                    value = args[2] if name == "__setitem__" else None
                    strangers = [v for v in (value,) if type(v) is Tensor and v.dim()]
                elif away and name in SCALARS:
                    strangers = [v for v in strangers if v.dim()]
                if away and strangers:
                    raise RuntimeError(f"{name}: expected all tensors on one device, cuda:0 or cpu")
            found = func(*here(args), **here(kwargs))
            in_place = name.endswith("_") and not name.endswith("__")
            if in_place and tensors and found is not None:
                return args[0]
            return there(found) if target.type == GPU.type else found


def _target(
    name: str, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]
) -> tuple[torch.device | None, Any, dict[str, Any]]:
    """Return on which device a call's result has to be, if it says so, and the call without it."""
    if name == "cpu":
        return CPU, args, kwargs
    if name == "to":
        places = Tensor | torch.device | str
        rest = [a for a in args[1:] if a is not None and not isinstance(a, places)]
        found = next((a for a in args[1:] if isinstance(a, places)), None)
        found = kwargs.pop("device", found)
        if isinstance(found, Tensor):
            rest.append(found.dtype)
            found = GPU if isinstance(found, There) else CPU
        if found is None:
            return None, args, kwargs
        if not rest and not kwargs:
            kwargs = {"copy": torch.device(found).type != args[0].device.type}
        return torch.device(found), (args[0], *(rest or [args[0].dtype])), kwargs
    if kwargs.get("device") is not None:
        return torch.device(kwargs.pop("device")), args, kwargs
    return None, args, kwargs


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        noise, "device_generator", lambda device, seed: torch.Generator().manual_seed(seed)
    )
    # Moved parameters are new ones: those of torch would take over numbers, not who holds them.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with Pretended():
        yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def network() -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([11])}),
        "fc1": nir.Affine(draw.normal(0, 0.6, (9, 11)), draw.normal(0, 0.1, 9)),
        "snu": encode_snu(SNUConfig(), 0.7, draw.uniform(0.5, 1.2, 9), dt=DT),
        "rec": nir.Linear(draw.normal(0, 0.5, (9, 9))),
        "fc2": nir.Linear(draw.normal(0, 0.6, (5, 9))),
        "out": nir.Output({"output": np.array([5])}),
    }
    edges = [("in", "fc1"), ("fc1", "snu"), ("snu", "fc2"), ("fc2", "out")]
    edges += [("snu", "rec"), ("rec", "snu")]
    return stamp(nir.NIRGraph(nodes, edges), DT)


def images() -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    conv = nir.Conv2d((6, 6), draw.normal(size=(4, 2, 3, 3)), 1, 1, 1, 1, draw.normal(size=4))
    nodes = {
        "in": nir.Input({"input": np.array([2, 6, 6])}),
        "conv": conv,
        "pool": nir.AvgPool2d((2, 2), (2, 2), (0, 0)),
        "flat": nir.Flatten({"input": np.array([4, 3, 3])}, 0, -1),
        "scale": nir.Scale(draw.uniform(0.5, 1, 36)),
        "fc": nir.Linear(draw.normal(size=(3, 36))),
        "out": nir.Output({"output": np.array([3])}),
    }
    names = list(nodes)
    return stamp(nir.NIRGraph(nodes, list(pairwise(names))), DT)


EVERYTHING = replace(
    small_chips.EVERYTHING,
    endurance=1000.0,
    sticking=0.5,
    activation_ev=0.2,
    input_nonlinearity=0.1,
    dac_offset_spread=0.01,
    open_rows=0.05,
    dead_tiles=0.1,
    bound_management=True,
    nu_after_set="follows",
    wire_ohm=0.35,
)
CHIPS = {
    "PCM": PCM,
    "IDEAL": IDEAL,
    "HERMES": HERMES,
    "PCM_PULSED": PCM_PULSED,
    "one device": replace(PCM, devices_per_weight=1),
    "everything": EVERYTHING,
    "wan2022": replace(PCM, device="wan2022"),
    "exponential": replace(PCM, device="exponential", pulse="own"),
}


def life(chip: Accelerator, x: Tensor) -> Iterator[Tensor]:
    """Do all that a host can do with a chip, and yield what can be seen."""
    chip.program()
    yield from chip.read_conductances().values()
    weights = chip.layout.products.items()
    yield chip.run(x)[0]
    chip.wait(3600.0)
    if chip.layout.chip.activation_ev is not None:
        chip.set_temperature(330.0)
        chip.wait(1e7)
    chip.calibrate()
    yield from chip.registers.values()
    if chip.layout.chip.devices_per_weight > 1:
        chip.pulse({n: op.weight.sign().int() for n, op in weights})
    chip.reset({n: op.weight > 1 for n, op in weights})
    name, op = next(iter(weights))
    chip.write({name: op.weight * 0.5}, {name: op.weight < 0})
    chip.remember(2)
    chip.calibrate("tile", method="mean")
    yield from chip.read_weights().values()
    yield chip.run(x, step_by_step=True)[0]


def held_alike(found: Any, expected: Any) -> None:
    """Hold devices' conductances, exponents and histories of two chips equal within rounding."""
    for name, cells in expected.state.cells.items():
        for field, value in cells._asdict().items():
            other = here(getattr(found.state.cells[name], field)).cpu()
            torch.testing.assert_close(
                other, value, rtol=2e-5, atol=1e-5, equal_nan=True, msg=f"{name} {field}"
            )


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("graph", [network, images])
@pytest.mark.filterwarnings("ignore:more than 1%", "ignore:.*end short of their targets")
@pytest.mark.covering(1)
def test_all_of_a_chip_s_life_happens_on_its_device(
    name: str, graph: Callable[[], nir.NIRGraph], pretended: None
) -> None:
    program = compile(graph(), CHIPS[name])
    shape = (4, 2, *program.shapes["in"])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    chip = Accelerator(program, 3, device="cuda")
    assert chip.device == GPU
    for seen in life(chip, x.to("cuda")):
        assert isinstance(seen, There)
        assert bool(here(seen).isfinite().all())


@pytest.mark.parametrize("graph", [network, images])
@pytest.mark.filterwarnings("ignore:more than 1%")
def test_outliers_go_with_the_chip(graph: Callable[[], nir.NIRGraph], pretended: None) -> None:
    program = compile(graph(), PCM, outliers=0.05)
    x = torch.rand(4, 2, *program.shapes["in"], device="cuda")
    assert all(isinstance(seen, There) for seen in life(Accelerator(program, device="cuda"), x))


@pytest.mark.parametrize("name", few_of(CHIPS, "PCM", "everything", "wan2022", "exponential"))
def test_a_seed_is_the_same_devices_on_every_device(name: str, pretended: None) -> None:
    program = compile(network(), CHIPS[name])
    chips = [Accelerator(program, 3, device=device) for device in ("cpu", "cuda")]
    for chip in chips:
        chip.program()
        chip.wait(1e6)
    held_alike(chips[1], chips[0])


def test_a_chip_that_moves_takes_its_devices_and_its_clock_with_it(
    pretended: None, tmp_path: Path
) -> None:
    chip = Accelerator(compile(network(), EVERYTHING), 3)
    chip.program()
    chip.wait(1e6)
    chip.set_temperature(320.0)
    chip.read_weights()
    before = Accelerator(chip.layout, 3)
    before.state = chip.state
    assert chip.to("cuda") is chip
    assert chip.device == GPU
    held_alike(chip, before)
    assert (chip.clock_s, chip.temperature_k) == (before.clock_s, 320.0)
    assert [len(s.values) for s in chip.state.slow.values()] == [
        len(s.values) for s in before.state.slow.values()
    ]
    chip.save(tmp_path / "chip.npz")
    again = Accelerator.load(tmp_path / "chip.npz")
    assert again.device == CPU
    held_alike(again, before)


def test_a_chip_on_a_device_gives_its_graph_back(pretended: None) -> None:
    chip = Accelerator(compile(network(), PCM), 3, device="cuda")
    chip.program()
    given = chip.to_nir(2)
    assert given.nodes["fc1"].weight.shape == (9, 11)


def test_fine_tuning_a_chip_on_a_gpu_is_refused(pretended: None) -> None:
    chip = Accelerator(compile(network(), PCM), 3, device="cuda")
    chip.program()
    batches = [(torch.zeros(2, 4, 11), torch.zeros(2, 4, 5))] * 4
    with pytest.raises(ValueError, match=r"the chip is on cuda:0; .* chip.to\('cpu'\)"):
        fine_tune(chip, batches, loss=nn.functional.mse_loss)


def test_inputs_elsewhere_are_refused_with_what_to_do(pretended: None) -> None:
    chip = Accelerator(compile(network(), PCM), 3)
    chip.program()
    x = torch.zeros(2, 1, 11)
    with pytest.raises(ValueError, match=r"on cuda:0, the chip on cpu; .*chip.to\('cuda:0'\)"):
        chip.run(x.to("cuda"))
    chip.to("cuda")
    with pytest.raises(ValueError, match=r"on cpu, the chip on cuda:0; give x.to\('cuda:0'\)$"):
        chip.run(x)
    out, _ = chip.run(np.zeros((2, 1, 11)))
    assert isinstance(out, There)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("gpu", "device is 'gpu'; it must be 'cpu' or 'cuda'"),
        ("meta", "chips are computed on 'cpu' or 'cuda'"),
        ("mps", "chips are computed on 'cpu' or 'cuda'"),
        ("cuda:7", r"torch sees \d NVIDIA GPUs here"),
    ],
)
def test_a_device_that_is_not_here_or_cannot_is_refused(device: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Accelerator(compile(network(), PCM), 3, device=device)


def test_a_chip_on_the_processor_is_the_one_without_a_device() -> None:
    x = torch.rand(4, 2, 11)
    for chip in (
        (plain := Accelerator(compile(network(), PCM), 3)),
        (named := Accelerator(compile(network(), PCM), 3, device="cpu").to("cpu")),
    ):
        chip.program()
    assert torch.equal(plain.run(x)[0], named.run(x)[0])


def test_the_pretended_gpu_refuses_to_meet_the_processor(pretended: None) -> None:
    """Else the tests above could not fail."""
    x = torch.zeros(3, device="cuda")
    for wrong in (
        lambda: x + torch.zeros(3),
        lambda: torch.where(x > 0, x, torch.zeros(3)),
        lambda: x.numpy(),
        lambda: torch.stack((x, torch.zeros(3))),
        lambda: x.addcmul_(x, torch.zeros(())),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            wrong()
    assert (x + torch.tensor(1.0)).device == x[torch.tensor([0])].device == GPU


def test_noise_of_a_device_is_normal_and_moves_with_a_stream() -> None:
    """The method of a GPU, on the processor: torch's generators are alike."""
    stream = torch.Generator().manual_seed(1)
    drawn = noise.normals(stream, 100, 1000)
    assert float(drawn.std()) == pytest.approx(1, rel=5 / np.sqrt(2e5))
    first, second = (noise.moved_stream(stream, CPU) for _ in range(2))
    assert isinstance(first, noise.Bits)
    assert torch.equal(noise.normals(first, 1, 50), noise.normals(second, 1, 50))
    stream.manual_seed(2)
    other = noise.moved_stream(stream, CPU)
    assert not torch.equal(noise.normals(other, 1, 50), noise.normals(first, 1, 50))


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("graph", [network, images])
@pytest.mark.filterwarnings("ignore:more than 1%", "ignore:.*end short of their targets")
def test_a_gpu_does_all_of_it(name: str, graph: Callable[[], nir.NIRGraph]) -> None:
    program = compile(graph(), CHIPS[name])
    shape = (4, 2, *program.shapes["in"])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    chips = [Accelerator(program, 3, device=device) for device in ("cpu", "cuda")]
    for chip in chips:
        chip.program()
    held_alike(chips[1], chips[0])
    for seen in life(chips[1], x.cuda()):
        assert seen.is_cuda
        assert bool(seen.isfinite().all())


@pytest.mark.gpu
@gpu
def test_a_gpu_gives_the_products_of_the_processor_where_nothing_is_drawn() -> None:
    quiet = replace(PCM, read_noise=None, output_noise=None)
    for graph in (network, images):
        program = compile(graph(), quiet)
        x = torch.randn(20, 4, *program.shapes["in"]).clamp(-1, 1)
        outs = []
        for device in ("cpu", "cuda"):
            chip = Accelerator(program, 3, device=device)
            chip.program()
            _, trace = chip.run(x.to(device), record=True)
            first = next(iter(trace.products.values()))
            outs.append(first.cpu())
        unequal = (outs[0] - outs[1]).abs() > 1e-4
        assert float(unequal.float().mean()) < 0.01  # sums next to half a step round otherwise


@pytest.mark.gpu
@gpu
def test_noise_of_a_gpu_has_the_deviation_of_the_chip() -> None:
    program = compile(network(), replace(PCM, adc_bits=None, skip_idle=False, read_noise=None))
    chip = Accelerator(program, 3, device="cuda")
    chip.program()
    _, trace = chip.run(torch.zeros(4000, 4, 11, device="cuda"), record=True)
    op = program.products["fc1"]
    full = op.weight_per_us[:, 0].float() * 25
    bias = op.bias
    assert bias is not None
    seen = (trace.products["fc1"].cpu() - bias) / full
    assert float(seen.std()) == pytest.approx(0.04, rel=5 / np.sqrt(2 * seen.numel()))
