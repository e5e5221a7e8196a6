"""The strict reference against a plain NumPy interpreter, over random graphs.

All numbers are short binary fractions and stay exact in float64 over a few steps, so both must
agree to the last bit, whatever the order of their sums; states land on thresholds all the time.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nir
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from snu_plugin.graph import SNU, network, read, stamp, write

Array = NDArray[np.float64]
Shape = tuple[int, ...]
DT = 2.0**-7
STEPS = 6
NAMES = ["9", "10", "lif", "a.b", "a_b", "fc.1", "Δ", "in put", "weight", "z-1", "training", "b"]


class Sample(NamedTuple):
    """A graph, the edges that carry the last step, and inputs for it."""

    graph: nir.NIRGraph
    delayed: set[tuple[str, str]]
    inputs: dict[str, Array]


# ---- the interpreter: one step at a time, one node at a time, straight from the ODEs ----


def interpret(sample: Sample, dt: float) -> dict[str, Array]:
    """Run a flat graph; returns the outputs of all nodes, (T, B, ...)."""
    nodes, edges = sample.graph.nodes, sample.graph.edges
    order = in_order(list(nodes), [e for e in edges if e not in sample.delayed])
    memory: dict[str, dict[str, Any]] = {name: {} for name in nodes}
    last: dict[str, Array] = {}
    trace: dict[str, list[Array]] = {name: [] for name in nodes}
    for t in range(len(next(iter(sample.inputs.values())))):
        now: dict[str, Array] = {}
        for name in order:
            parts = [now[a] for a, b in edges if b == name and (a, b) not in sample.delayed]
            parts += [last[a] for a, b in edges if (a, b) in sample.delayed and b == name and last]
            x = sample.inputs[name][t] if name in sample.inputs else sum(parts[1:], parts[0])
            now[name] = advance(nodes[name], x, memory[name], dt)
            trace[name].append(now[name])
        last = now
    return {name: np.stack(values) for name, values in trace.items()}


def in_order(names: list[str], edges: list[tuple[str, str]]) -> list[str]:
    done: list[str] = []
    while len(done) < len(names):
        done += [n for n in names if n not in done and all(a in done for a, b in edges if b == n)]
    return done


def advance(node: nir.NIRNode, x: Array, memory: dict[str, Any], dt: float) -> Array:
    kind = type(node).__name__
    if kind in ("LIF", "IF", "LI", "I", "CubaLIF", "CubaLI"):
        return membrane(node, x, memory, dt)
    if kind == "SNU":
        s, y = memory.get("s", 0.0), memory.get("y", 0.0)
        a = x + node.decay * s * (1 - y)
        slope = {"identity": 1.0, "relu": 0.0, "leaky_relu": node.slope}[node.g]
        memory["s"] = np.where(a > 0, a, slope * a)
        memory["y"] = (memory["s"] - node.threshold > 0).astype(float)
        return np.asarray(memory["y"])
    if kind in ("Affine", "Linear"):
        y = np.einsum("...oi,b...i->b...o", node.weight, x)
        return np.asarray(y + node.bias if kind == "Affine" else y)
    if kind == "Delay":
        line = memory.setdefault("line", [])
        line.append(x)
        y = np.zeros_like(x)
        for index in np.ndindex(node.delay.shape):
            back = round(float(node.delay[index]) / dt)
            if back < len(line):
                y[(slice(None), *index)] = line[-1 - back][(slice(None), *index)]
        return y
    plain: dict[str, Callable[[], Any]] = {
        "Scale": lambda: x * node.scale,
        "Threshold": lambda: (x > node.threshold).astype(float),
        "Flatten": lambda: x.reshape(len(x), -1),
        "Conv1d": lambda: convolve(node, x[..., None], 1)[..., 0],
        "Conv2d": lambda: convolve(node, x, 2),
        "SumPool2d": lambda: pooled(node, x),
        "AvgPool2d": lambda: pooled(node, x) / np.prod(node.kernel_size),
    }
    return np.asarray(plain[kind]()) if kind in plain else x


def membrane(node: nir.NIRNode, x: Array, memory: dict[str, Any], dt: float) -> Array:
    v = memory.get("v", np.zeros_like(x))
    if hasattr(node, "tau_syn"):
        i = memory.get("i", np.zeros_like(x))
        x = memory["i"] = i + dt / node.tau_syn * (node.w_in * x - i)
    if hasattr(node, "tau") or hasattr(node, "tau_mem"):
        tau = node.tau if hasattr(node, "tau") else node.tau_mem
        v = v + dt / tau * (node.v_leak - v + node.r * x)
    else:
        v = v + dt * node.r * x
    if not hasattr(node, "v_threshold"):
        memory["v"] = v
        return np.asarray(v)
    z = v > node.v_threshold
    memory["v"] = np.where(z, node.v_reset, v)
    return np.asarray(z.astype(float))


def in_two(value: Any, rest: int) -> tuple[int, int]:
    """Return a setting of a convolution in two dimensions, also for one dimension."""
    return (int(value), rest) if np.ndim(value) == 0 else (int(value[0]), int(value[1]))


def convolve(node: nir.NIRNode, x: Array, dims: int) -> Array:
    weight = node.weight.reshape(*node.weight.shape[:3], -1)
    stride, dilation = in_two(node.stride, 1), in_two(node.dilation, 1)
    if isinstance(node.padding, str):
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        pads = [(n // 2, n - n // 2) for n in total] if node.padding == "same" else [(0, 0)] * 2
    else:
        pads = [(p, p) for p in in_two(node.padding, 0)]
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    height = (x.shape[2] - dilation[0] * (weight.shape[2] - 1) - 1) // stride[0] + 1
    width = (x.shape[3] - dilation[1] * (weight.shape[3] - 1) - 1) // stride[1] + 1
    y = np.zeros((len(x), len(weight), height, width))
    each_out, each_in = len(weight) // node.groups, weight.shape[1]
    for out, row, column in np.ndindex(y.shape[1:]):
        first = out // each_out * each_in
        patch = x[
            :,
            first : first + each_in,
            row * stride[0] : row * stride[0] + dilation[0] * (weight.shape[2] - 1) + 1 : dilation[
                0
            ],
            column * stride[1] : column * stride[1]
            + dilation[1] * (weight.shape[3] - 1)
            + 1 : dilation[1],
        ]
        y[:, out, row, column] = (patch * weight[out]).sum((1, 2, 3)) + node.bias[out]
    return y


def pooled(node: nir.NIRNode, x: Array) -> Array:
    (kh, kw), (sh, sw), (ph, pw) = node.kernel_size, node.stride, node.padding
    x = np.pad(x, [(0, 0), (0, 0), (ph, ph), (pw, pw)])
    rows, columns = (x.shape[2] - kh) // sh + 1, (x.shape[3] - kw) // sw + 1
    y = np.zeros((*x.shape[:2], rows, columns))
    for r, c in np.ndindex(rows, columns):
        y[:, :, r, c] = x[:, :, r * sh : r * sh + kh, c * sw : c * sw + kw].sum((2, 3))
    return y


# ---- the graphs ----


class Builder:
    """Grows a random graph node by node; every choice is hypothesis's or the seed's."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.delayed: set[tuple[str, str]] = set()
        self.gives: dict[str, Shape] = {}
        self.names = list(draw(st.permutations(NAMES)))
        self.unbounded = 0

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def fractions(self, shape: Shape, low: int, high: int, unit: float) -> Array:
        return np.asarray(self.random.integers(low, high + 1, shape) * unit, dtype=np.float64)

    def add(self, node: nir.NIRNode, shape: Shape, source: str | None, name: str = "") -> str:
        name = name or self.names.pop()
        self.nodes[name], self.gives[name] = node, shape
        if source is not None:
            self.edges.append((source, name))
        return name

    def neuron(self, shape: Shape) -> nir.NIRNode:
        kinds = ["LIF", "IF", "CubaLIF", "SNU", "Threshold"]
        kinds += ["LI", "I", "CubaLI"] if self.unbounded < 1 else []
        kind = self.pick(*kinds)
        self.unbounded += kind in ("LI", "I", "CubaLI", "CubaLIF")
        tau = DT * 2.0 ** self.random.integers(0, 3, shape)
        leak, threshold, reset = (self.fractions(shape, -2, 4, 0.25) for _ in range(3))
        r = 2.0 ** self.random.integers(-1, 3, shape)
        syn = DT * 2.0 ** self.random.integers(0, 2, shape)
        make: dict[str, Callable[[], nir.NIRNode]] = {
            "LIF": lambda: nir.LIF(tau, r, leak, threshold, reset),
            "IF": lambda: nir.IF(r / DT, threshold, reset),
            "LI": lambda: nir.LI(tau, r, leak),
            "I": lambda: nir.I(r / DT),
            "CubaLIF": lambda: nir.CubaLIF(syn, tau, r, leak, threshold, reset, r[::-1].copy()),
            "CubaLI": lambda: nir.CubaLI(syn, tau, r, leak, r[::-1].copy()),
            "SNU": lambda: SNU(
                1 - DT / tau, threshold, self.pick("identity", "relu", "leaky_relu"), 0.25
            ),
            "Threshold": lambda: nir.Threshold(threshold),
        }
        return make[kind]()

    def grow(self, source: str) -> str:
        """Add one or two nodes after ``source`` that fit its shape."""
        shape = self.gives[source]
        kinds = ["neuron", "Scale", "Delay", *(["loop"] if len(shape) == 1 else [])]
        kinds += {1: ["Affine", "Linear"], 2: ["Conv1d", "Flatten", "Affine"]}.get(
            len(shape), ["Conv2d", "SumPool2d", "AvgPool2d", "Flatten"]
        )
        kind = self.pick(*kinds)
        if kind == "neuron":
            return self.add(self.neuron(shape), shape, source)
        if kind == "loop":
            return self.loop(source, shape)
        if kind == "Scale":
            return self.add(nir.Scale(self.fractions(shape, -2, 2, 0.5)), shape, source)
        if kind == "Delay":
            return self.add(nir.Delay(self.fractions(shape, 0, 3, DT)), shape, source)
        if kind == "Flatten":
            node = nir.Flatten(input_type={"input": np.array(shape)}, start_dim=0, end_dim=-1)
            return self.add(node, (int(np.prod(shape)),), source)
        if kind in ("Affine", "Linear"):
            out = (*shape[:-1], self.pick(1, 2, 3))
            weight = self.fractions((*out, shape[-1]), -2, 2, 0.5)
            bias = self.fractions(out, -1, 1, 0.25)
            node = nir.Affine(weight, bias) if kind == "Affine" else nir.Linear(weight)
            return self.add(node, out, source)
        return self.spatial(kind, source, shape)

    def loop(self, source: str, shape: Shape) -> str:
        """Add a neuron with a way back to itself, direct, through weights, or through two nodes."""
        name = self.add(self.neuron(shape), shape, source)
        if isinstance(self.nodes[name], nir.Threshold):
            self.nodes[name] = nir.LIF(*(np.full(shape, v) for v in (DT, 1.0, 0.0, 0.5, 0.0)))
        way = self.pick("direct", "Linear", "Affine", "two")
        square = self.fractions(shape * 2, -1, 1, 0.5)
        back = name
        if way in ("Linear", "two"):
            back = self.add(nir.Linear(square), shape, back)
        if way == "Affine":
            back = self.add(nir.Affine(square, self.fractions(shape, -1, 1, 0.25)), shape, back)
        if way == "two":
            back = self.add(nir.Scale(self.fractions(shape, -1, 1, 1)), shape, back)
        self.edges.append((back, name))
        self.delayed.add((back, name))
        return name

    def spatial(self, kind: str, source: str, shape: Shape) -> str:
        size = [min(self.pick(1, 2, 3), n) for n in shape[1:]]
        if kind in ("SumPool2d", "AvgPool2d"):
            size = [min(2, n) for n in shape[1:]]
            stride = [self.pick(1, 2), self.pick(1, 2)]
            node = getattr(nir, kind)(np.array(size), np.array(stride), np.zeros(2, int))
            out = [(n - k) // s + 1 for n, k, s in zip(shape[1:], size, stride, strict=True)]
            return self.add(node, (shape[0], *out), source)
        groups = self.pick(*(g for g in (1, 2) if shape[0] % g == 0))
        channels = groups * self.pick(1, 2)
        weight = self.fractions((channels, shape[0] // groups, *size), -1, 1, 0.5)
        padding = self.pick("same", "valid", 0, 1)
        jump = 1 if padding == "same" else self.pick(1, 2)
        pads = {"same": [(k - 1) / 2 for k in size], "valid": [0] * len(size)}.get(
            padding, [padding] * len(size)
        )
        out = [
            int((n + 2 * p - k) // jump + 1) for n, p, k in zip(shape[1:], pads, size, strict=True)
        ]
        bias = self.fractions((channels,), -1, 1, 0.25)
        maker = nir.Conv1d if kind == "Conv1d" else nir.Conv2d
        node = maker(None, weight, jump, padding, 1, groups, bias)
        return self.add(node, (channels, *out), source)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Flat graphs: a chain with loops, skips, several Inputs and Outputs, in any order."""
    b = Builder(draw)
    shape = b.pick((1,), (3,), (2, 3), (2, 5, 4), (1, 3, 3))
    port = {"input": np.array(shape)}
    chain = [b.add(nir.Input(input_type=port), shape, None, "0 input")]
    for _ in range(draw(st.integers(1, 5))):
        chain.append(b.grow(chain[-1]))
    if draw(st.booleans()):
        second = b.add(nir.Input(input_type=port), shape, None, "1 input")
        b.edges.append((second, chain[1]))
    for a, later in [(a, c) for i, a in enumerate(chain) for c in chain[i + 2 :]][:3]:
        takes = next(b.gives[s] for s, t in b.edges if t == later)
        if takes == b.gives[a] and draw(st.booleans()):
            b.edges.append((a, later))
    ends = {chain[-1], *(n for n in chain[1:-1] if draw(st.integers(0, 3)) == 0)}
    for i, end in enumerate(sorted(ends)):
        b.add(
            nir.Output(output_type={"output": np.array(b.gives[end])}),
            b.gives[end],
            end,
            f"out {i}",
        )
    names = draw(st.permutations(list(b.nodes)))
    nodes = {name: b.nodes[name] for name in names}
    graph = stamp(nir.NIRGraph(nodes, b.edges, {}, type_check=False), DT)
    inputs = {
        name: b.fractions((STEPS, 2, *shape), 0, 1, 1.0)
        for name, node in nodes.items()
        if isinstance(node, nir.Input)
    }
    return Sample(graph, b.delayed, inputs)


def run(graph: nir.NIRGraph, inputs: dict[str, Array]) -> dict[str, torch.Tensor]:
    net = network(graph, dtype=torch.float64)
    values, _ = net.run({name: torch.tensor(x) for name, x in inputs.items()})
    return {name: value.detach() for name, value in values.items()}


QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
)
MANY = settings(QUICK, max_examples=4000)


EVEN = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
"""torch says so of its own convolutions; the values are right."""
SILENT = pytest.mark.filterwarnings("ignore:no neuron of .* could be made to fire")
"""Some random graphs have a neuron that nothing reaches."""


def check(sample: Sample) -> None:
    expected = interpret(sample, DT)
    got = run(sample.graph, sample.inputs)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], torch.tensor(value, dtype=torch.float64)), name


@given(samples())
@QUICK
def test_random_graphs_run_as_the_interpreter_runs_them(sample: Sample) -> None:
    check(sample)


@pytest.mark.slow
@given(samples())
@MANY
def test_thousands_of_random_graphs_run_as_the_interpreter_runs_them(sample: Sample) -> None:
    check(sample)


@given(samples())
@settings(QUICK, max_examples=30)
def test_random_graphs_survive_a_file(sample: Sample) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.nir"
        before = run(sample.graph, sample.inputs)
        write(path, sample.graph)
        after = run(read(path), sample.inputs)
    assert all(torch.equal(before[name], after[name]) for name in before)


@given(samples(), st.integers(1, STEPS - 1))
@settings(QUICK, max_examples=30)
def test_two_halves_of_a_sequence_equal_the_whole(sample: Sample, cut: int) -> None:
    net = network(sample.graph, dtype=torch.float64)
    x = {name: torch.tensor(value) for name, value in sample.inputs.items()}
    whole, _ = net.run(x)
    first, state = net.run({name: value[:cut] for name, value in x.items()})
    second, _ = net.run({name: value[cut:] for name, value in x.items()}, state)
    for name, value in whole.items():
        assert torch.equal(value, torch.cat([first[name], second[name]])), name


@given(samples(), st.data())
@settings(QUICK, max_examples=30)
def test_a_part_put_into_a_subgraph_changes_nothing(sample: Sample, data: st.DataObject) -> None:
    inner = [n for n, node in sample.graph.nodes.items() if n not in sample.inputs]
    inner = [n for n in inner if not isinstance(sample.graph.nodes[n], nir.Output)]
    chosen = data.draw(st.sampled_from(inner))
    members = {chosen, *(a for a, b in sample.delayed if b == chosen)}
    if any((a in members) != (b in members) for a, b in sample.delayed):
        return
    edges = sample.graph.edges
    if any(a in members and b not in members and a != chosen for a, b in edges):
        return
    fed = {b for a, b in edges if b in members and a not in members}
    if fed != {chosen}:
        return
    expected = run(sample.graph, sample.inputs)
    graph = nested(sample.graph, members, chosen)
    got = run(graph, sample.inputs)
    for name in expected.keys() - members:
        assert torch.equal(got[name], expected[name]), name


@EVEN
@SILENT
@pytest.mark.parametrize("adapter", ["snu_snntorch", "snu_norse"])
@given(samples())
@settings(QUICK, max_examples=15)
def test_adapters_run_random_graphs_and_give_them_back(adapter: str, sample: Sample) -> None:
    compare(pytest.importorskip(adapter), sample)


@EVEN
@SILENT
@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["snu_snntorch", "snu_norse"])
@given(samples())
@settings(MANY, max_examples=1500)
def test_adapters_run_thousands_of_random_graphs(adapter: str, sample: Sample) -> None:
    compare(pytest.importorskip(adapter), sample)


def compare(adapter: Any, sample: Sample) -> None:
    """Hold an adapter's network, and the graph that it leaves as, against the strict reference."""
    x = {name: torch.tensor(value).float() for name, value in sample.inputs.items()}
    expected = outputs(network(sample.graph)(x)[0])
    net = adapter.from_nir(sample.graph)
    signal = x if len(x) > 1 else next(iter(x.values()))
    assert_equal(stepped(net, signal), expected)
    if {type(node) for node in sample.graph.nodes.values()} <= {nir.Input, nir.Flatten, nir.Output}:
        return  # a network without a module is refused
    first = next(iter(x.values()))[0] if len(x) == 1 else None
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "again.nir", adapter.to_nir(net, first))
        again = network(read(Path(folder) / "again.nir"))
    assert_equal(outputs(again(signal)[0]), expected)


def stepped(net: Any, x: Any) -> list[torch.Tensor]:
    """Run a host's network step by step, whether it keeps its state or hands it out."""
    state, steps = None, []
    hands_out = "state" in inspect.signature(net.forward).parameters
    for t in range(STEPS):
        x_t = {n: v[t] for n, v in x.items()} if isinstance(x, dict) else x[t]
        y = net(x_t, state) if hands_out else net(x_t)
        y, state = y if isinstance(y, tuple) else (y, None)
        steps.append(outputs(y))
    return [torch.stack(parts) for parts in zip(*steps, strict=True)]


def outputs(y: Any) -> list[torch.Tensor]:
    return [y[name].detach() for name in sorted(y)] if isinstance(y, dict) else [y.detach()]


def assert_equal(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(got) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def nested(graph: nir.NIRGraph, members: set[str], chosen: str) -> nir.NIRGraph:
    inside: dict[str, nir.NIRNode] = {name: graph.nodes[name] for name in members}
    inside["in"] = nir.Input(input_type={"input": None})
    inside["out"] = nir.Output(output_type={"output": None})
    edges = [(a, b) for a, b in graph.edges if a in members and b in members]
    edges = [("in", chosen), *edges, (chosen, "out")]
    sub = nir.NIRGraph(inside, edges, {}, type_check=False)
    outside = {n: node for n, node in graph.nodes.items() if n not in members}
    crossing = [
        ("part" if a in members else a, "part" if b in members else b)
        for a, b in graph.edges
        if not (a in members and b in members)
    ]
    return nir.NIRGraph({**outside, "part": sub}, crossing, dict(graph.metadata), type_check=False)
