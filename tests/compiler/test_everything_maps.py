"""Whatever the strict reference runs, an ideal chip runs too, to the last bit."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin import graph
from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Chip, crossbar
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu
from snu_plugin.neuron import SNUConfig

DT = 2.0**-10
STEPS, BATCH = 9, 3

Build = Callable[[np.random.Generator], nir.NIRGraph]


def chip_of(g: nir.NIRGraph, chip: Chip, seed: int = 0) -> Accelerator:
    made = Accelerator(compile(g, chip, dt=DT), seed)
    made.program()
    return made


def events(g: nir.NIRGraph, seed: int = 0) -> Any:
    """Inputs of 0, 1 and a few values between, for every Input of a graph."""
    generator = Generator().manual_seed(seed)

    def drawn(node: nir.Input) -> Tensor:
        x = torch.rand(STEPS, BATCH, *node.input_type["input"].tolist(), generator=generator)
        return torch.where(x < 0.1, 5 * x, (x < 0.45).float())

    inputs = {name: drawn(n) for name, n in g.nodes.items() if isinstance(n, nir.Input)}
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def chain(shape: tuple[int, ...], **nodes: nir.NIRNode) -> nir.NIRGraph:
    names = ["in", *nodes, "out"]
    ends = {"in": nir.Input({"input": np.array(shape)}), "out": nir.Output({"output": None})}
    return nir.NIRGraph(ends | nodes, list(pairwise(names)), type_check=False)


def linear(draw: np.random.Generator, *shape: int) -> nir.Linear:
    return nir.Linear(draw.normal(0, 0.5, shape))


def conv2d(
    draw: np.random.Generator,
    out: int,
    channels: int,
    kernel: tuple[int, int] = (3, 3),
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> nir.Conv2d:
    weight = draw.normal(0, 0.6, (out, channels // groups, *kernel))
    bias = draw.normal(0, 0.2, out)
    return nir.Conv2d(None, weight, stride, padding, dilation, groups, bias)


def lif(draw: np.random.Generator, *shape: int) -> nir.LIF:
    tau = DT / draw.uniform(0.1, 0.9, shape)
    return nir.LIF(
        tau=tau,
        r=draw.uniform(0.5, 2, shape) * tau / DT,
        v_leak=draw.uniform(-0.2, 0.2, shape),
        v_threshold=draw.uniform(0.3, 1, shape),
        v_reset=draw.uniform(-0.3, 0.1, shape),
    )


NEURONS: dict[str, Callable[[np.random.Generator, int], nir.NIRNode]] = {
    "I": lambda d, n: nir.I(r=d.uniform(0.1, 1, n) / DT),
    "IF": lambda d, n: nir.IF(
        r=d.uniform(0.1, 1, n) / DT, v_threshold=d.uniform(0.3, 1, n), v_reset=np.zeros(n)
    ),
    "LI": lambda d, n: nir.LI(
        tau=DT / d.uniform(0.1, 0.9, n), r=d.uniform(1, 3, n), v_leak=d.uniform(-1, 1, n)
    ),
    "LIF": lif,
    "CubaLI": lambda d, n: nir.CubaLI(
        tau_mem=DT / d.uniform(0.1, 0.9, n),
        tau_syn=DT / d.uniform(0.1, 0.9, n),
        r=d.uniform(1, 3, n),
        v_leak=d.uniform(-1, 1, n),
        w_in=d.uniform(0.5, 2, n),
    ),
    "CubaLIF": lambda d, n: nir.CubaLIF(
        tau_mem=DT / d.uniform(0.1, 0.9, n),
        tau_syn=DT / d.uniform(0.1, 0.9, n),
        r=d.uniform(1, 3, n),
        v_leak=d.uniform(-1, 1, n),
        v_threshold=d.uniform(0.2, 0.8, n),
        v_reset=d.uniform(-0.2, 0, n),
        w_in=d.uniform(0.5, 2, n),
    ),
    "SNU": lambda d, n: encode_snu(
        SNUConfig(g="relu"), d.uniform(0.3, 0.9, n), d.uniform(0.3, 1, n), dt=DT
    ),
    "sSNU": lambda d, n: encode_snu(
        SNUConfig(soft=True), d.uniform(0.3, 0.9, n), d.uniform(0.3, 1, n), dt=DT
    ),
}


def conv1d(draw: np.random.Generator) -> nir.NIRGraph:
    weight = draw.normal(0, 0.6, (6, 2, 4))
    node = nir.Conv1d(None, weight, 2, 3, 2, 2, draw.normal(0, 0.2, 6))
    return chain((4, 17), conv=node, flat=nir.Flatten({"input": None}, 0, -1))


def stacked(draw: np.random.Generator) -> nir.NIRGraph:
    weight = draw.normal(0, 0.5, (2, 3, 4, 5))
    return chain((2, 3, 5), fc=nir.Affine(weight, draw.normal(size=(2, 3, 4))))


def image_classifier(draw: np.random.Generator) -> nir.NIRGraph:
    return chain(
        (2, 12, 12),
        conv1=conv2d(draw, 4, 2, padding=1),
        lif1=lif(draw, 4, 12, 12),
        pool1=nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        conv2=conv2d(draw, 6, 4, stride=(1, 2), padding=(0, 1)),
        lif2=lif(draw, 6, 4, 3),
        pool2=nir.AvgPool2d(np.array([3, 2]), np.array([2, 1]), np.array([1, 0])),
        flat=nir.Flatten({"input": None}, 0, 2),
        fc=nir.Affine(draw.normal(0, 0.4, (5, 24)), draw.normal(size=5)),
    )


def digital_parts(draw: np.random.Generator) -> nir.NIRGraph:
    return chain(
        (6,),
        scale=nir.Scale(draw.uniform(0.5, 2, 6)),
        fc=linear(draw, 6, 6),
        delay=nir.Delay(draw.integers(0, 4, 6) * DT),
        step=nir.Threshold(draw.normal(0, 0.3, 6)),
        fc2=linear(draw, 4, 6),
    )


def recurrent(draw: np.random.Generator) -> nir.NIRGraph:
    g = chain((5,), fc=linear(draw, 7, 5), lif=lif(draw, 7), fc2=linear(draw, 3, 7))
    g.nodes["rec"] = linear(draw, 7, 7)
    g.edges += [("lif", "rec"), ("rec", "lif")]
    return g


def recurrent_convolution(draw: np.random.Generator) -> nir.NIRGraph:
    g = chain((1, 6, 6), conv=conv2d(draw, 3, 1, padding=1), lif=lif(draw, 3, 6, 6))
    g.nodes["rec"] = conv2d(draw, 3, 3, padding="same", groups=3)
    g.edges += [("lif", "rec"), ("rec", "lif")]
    return g


def nested(draw: np.random.Generator) -> nir.NIRGraph:
    inner = chain((6,), fc=linear(draw, 6, 6), lif=lif(draw, 6))
    return chain((4,), fc=linear(draw, 6, 4), inner=inner, fc2=linear(draw, 2, 6))


def two_eyes(draw: np.random.Generator) -> nir.NIRGraph:
    nodes = {
        "left": nir.Input({"input": np.array([4])}),
        "right": nir.Input({"input": np.array([3])}),
        "a": linear(draw, 5, 4),
        "b": linear(draw, 5, 3),
        "lif": lif(draw, 5),
        "potential": linear(draw, 2, 5),
        "spikes": nir.Output({"output": np.array([5])}),
        "sum": nir.Output({"output": np.array([2])}),
    }
    edges = [("left", "a"), ("right", "b"), ("a", "lif"), ("b", "lif"), ("lif", "spikes")]
    return nir.NIRGraph(nodes, [*edges, ("lif", "potential"), ("potential", "sum")])


GRAPHS: dict[str, Build] = {
    **{
        kind: lambda d, make=make: chain((5,), fc=linear(d, 8, 5), unit=make(d, 8))  # type: ignore[misc]
        for kind, make in NEURONS.items()
    },
    "conv1d": conv1d,
    "conv2d": lambda d: chain((2, 7, 8), conv=conv2d(d, 4, 2)),
    "conv2d same": lambda d: chain((2, 7, 8), conv=conv2d(d, 3, 2, (2, 3), padding="same")),
    "conv2d odd": lambda d: chain(
        (4, 9, 11),
        conv=conv2d(d, 6, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 3), groups=2),
    ),
    "depthwise": lambda d: chain((5, 6, 6), conv=conv2d(d, 10, 5, groups=5)),
    "one pixel": lambda d: chain((1, 3, 3), conv=conv2d(d, 1, 1)),
    "stacked": stacked,
    "image classifier": image_classifier,
    "digital parts": digital_parts,
    "recurrent": recurrent,
    "recurrent convolution": recurrent_convolution,
    "nested": nested,
    "two eyes": two_eyes,
}

graphs = pytest.mark.parametrize("build", GRAPHS.values(), ids=GRAPHS)


def made_of(build: Build) -> nir.NIRGraph:
    return build(np.random.default_rng(3))


def as_dict(value: Any) -> dict[str, Tensor]:
    return value if isinstance(value, dict) else {"": value}


@graphs
def test_an_ideal_chip_equals_the_strict_reference(build: Build) -> None:
    g = made_of(build)
    x = events(g)
    expected = as_dict(graph.network(g, DT)(x)[0])
    found = as_dict(chip_of(g, IDEAL).run(x)[0])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert bool(value.any())
        assert torch.equal(found[name], value.detach())


@graphs
def test_weights_come_back_in_the_shapes_of_the_graph(build: Build) -> None:
    g = made_of(build)
    flat = graph.flatten(g)
    seen = chip_of(g, IDEAL).read_weights()
    assert seen.keys() == {name for name, node in flat.nodes.items() if hasattr(node, "weight")}
    for name, weight in seen.items():
        assert torch.equal(weight, torch.from_numpy(flat.nodes[name].weight).float())


@graphs
def test_the_graph_read_back_runs_as_the_one_given(build: Build) -> None:
    g = made_of(build)
    x = events(g)
    back = chip_of(g, IDEAL).to_nir(reads=1)
    expected = as_dict(graph.network(g, DT)(x)[0])
    for name, value in as_dict(graph.network(back, DT)(x)[0]).items():
        assert torch.equal(value, expected[name])


@graphs
@pytest.mark.filterwarnings("ignore:more than 1%")
def test_small_tiles_and_converters_see_the_same_products(build: Build) -> None:
    """The path through patches, groups, row blocks and 16-bit converters is the same product."""
    g = made_of(build)
    fine = replace(
        IDEAL, tile_rows=7, tile_columns=3, tiles=10_000, adc_bits=16, adc_bound=30.0, dac_bits=16
    )
    x = events(g)
    # 16 bits over 30: a step of 1e-3 of the largest weight, in each of at most six row blocks.
    values, _ = graph.network(g, DT).run(x)
    made = chip_of(g, fine)
    inputs = {name: values[name] for name in made.layout.inputs}
    _, trace = made.run(inputs, record=True)
    wiring = made.layout.wiring
    for name, seen in trace.products.items():
        if all(source in inputs for source in wiring.sources[name]):
            torch.testing.assert_close(seen, values[name].detach(), atol=0.02, rtol=0)


@graphs
@pytest.mark.filterwarnings("ignore:more than 1%")
def test_a_real_chip_gives_finite_outputs_of_the_right_shape(build: Build) -> None:
    g = made_of(build)
    made = chip_of(g, PCM)
    made.wait(1000)
    made.calibrate()
    expected = as_dict(graph.network(g, DT)(events(g))[0])
    for name, value in as_dict(made.run(events(g))[0]).items():
        assert value.shape == expected[name].shape
        assert bool(value.isfinite().all())


@graphs
@pytest.mark.filterwarnings("ignore:more than 1%")
def test_how_many_steps_are_worked_on_at_once_changes_no_result(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = made_of(build)
    expected = as_dict(chip_of(g, PCM).run(events(g))[0])
    monkeypatch.setattr(crossbar, "CHUNK", 1)
    for name, value in as_dict(chip_of(g, PCM).run(events(g))[0]).items():
        assert torch.equal(value, expected[name])


def test_a_kernel_lies_on_the_chip_once_and_is_counted_at_every_position() -> None:
    draw = np.random.default_rng(0)
    g = chain((2, 6, 5), conv=conv2d(draw, 4, 2))
    made = chip_of(g, PCM)
    assert made.layout.devices == 2 * 4 * 2 * 9
    x = torch.ones(STEPS, BATCH, 2, 6, 5)
    _, trace = made.run(x)
    positions, samples = 4 * 3, STEPS * BATCH
    assert trace.counts["conv"].active_rows == samples * positions * 2 * 9
    assert trace.counts["conv"].conversions == samples * positions * 4
    assert trace.cost.latency_us == pytest.approx(positions * 0.133)
    assert trace.seconds == pytest.approx(samples * positions * 133e-9)


def test_zeros_that_a_convolution_pads_with_drive_no_row() -> None:
    draw = np.random.default_rng(0)
    made = chip_of(chain((1, 3, 3), conv=conv2d(draw, 1, 1, padding=1)), PCM)
    x = torch.zeros(1, 1, 1, 3, 3)
    x[..., 1, 1] = 1
    x[..., 0, 0] = 1
    _, trace = made.run(x)
    assert trace.counts["conv"].active_rows == 9 + 4


def test_calibration_undoes_the_drift_of_grouped_kernels() -> None:
    draw = np.random.default_rng(0)
    g = chain((8, 9, 9), conv=conv2d(draw, 32, 8, (5, 5), groups=2))
    made = chip_of(g, PCM)
    target = torch.from_numpy(g.nodes["conv"].weight).float()

    def scale() -> float:
        seen = torch.stack([made.read_weights()["conv"] for _ in range(8)]).mean(0)
        return float((seen * target).sum() / target.square().sum())

    made.wait(86_400.0)
    assert scale() < 0.75
    made.calibrate()
    assert scale() == pytest.approx(1, abs=0.03)


def test_input_gains_and_scales_stay_digital_and_the_program_says_so() -> None:
    said = compile(made_of(digital_parts), PCM, dt=DT).notes
    assert "the Scale 'scale' stays digital, exact" in said
    steps = made_of(digital_parts).nodes["delay"].delay / DT
    assert f"the Delay 'delay' keeps {steps.sum():.0f} values a sequence in digital memory" in said
    said = compile(made_of(GRAPHS["CubaLIF"]), PCM, dt=DT).notes
    assert any("the input gain of 'unit' (r, w_in, dt) stays in its digital" in s for s in said)
