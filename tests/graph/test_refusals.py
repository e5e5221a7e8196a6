"""A refusal is a claim: what is said of NIR in an error is shown here, or it says "not yet"."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snu_plugin import SNU, SNUConfig
from snu_plugin.graph import check, network, to_nir

ROOT = Path(__file__).parents[2]
PLACES = (ROOT / "snu_plugin" / "graph", ROOT / "adapters")
DT = 2.0**-10

CLAIM = re.compile(
    r"\bNIR (can|cannot|could|would|has no|have no|knows|does not|treats)\b|\bin NIR\b|"
    r"\bNIR's [\w ]*\b(no|only|are|is|carry|know|have|takes?|say|pads?|resets?)\b|"
    r"\bof NIR resets?\b|\bno node of NIR\b"
)
"""Words by which an error says something of what NIR is."""


def refusals() -> Iterator[tuple[str, str]]:
    """Every text that is raised, or handed on to be, with the file it stands in."""
    for folder in PLACES:
        for path in sorted(folder.rglob("*.py")):
            tree = ast.parse(path.read_text())
            docs = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
                and node.body
                and isinstance(node.body[0], ast.Expr)
            }
            inside: set[int] = set()
            for node in ast.walk(tree):
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                    docs.add(id(node.value))  # the text beside a field
                if isinstance(node, ast.JoinedStr):
                    inside.update(id(part) for part in ast.walk(node) if part is not node)
            for node in ast.walk(tree):
                text = ""
                if isinstance(node, ast.JoinedStr):
                    parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                    text = "".join(str(part) for part in parts)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    text = "" if id(node) in docs | inside else node.value
                if text:
                    yield path.name, text


def one_slope() -> None:
    """What has no state is a sum of steps and of one linear function.

    So all its pieces have the same slope: rectifiers, products, powers, exponentials do not.
    """
    random = np.random.default_rng(0)
    for _ in range(20):
        names = [f"n{i}" for i in range(6)]
        nodes: dict[str, nir.NIRNode] = {"input": nir.Input(np.array([3]))}
        for name in names:
            nodes[name] = [
                nir.Affine(random.normal(size=(3, 3)), random.normal(size=3)),
                nir.Scale(random.normal(size=3)),
                nir.Threshold(random.normal(size=3)),
            ][random.integers(3)]
        nodes["output"] = nir.Output(np.array([3]))
        every = list(itertools.combinations(nodes, 2))
        edges = [edge for edge in every if random.random() < 0.5] + list(itertools.pairwise(nodes))
        net = network(nir.NIRGraph(nodes, list(dict.fromkeys(edges))), dtype=torch.float64)
        x = torch.tensor(random.normal(size=(1, 40, 3)) * 3)
        move = torch.tensor([1e-7, 2e-7, -1e-7], dtype=torch.float64)
        change = (net(x + move)[0] - net(x)[0])[0]
        smooth = change[change.abs().amax(1) < 1e-3]  # no step lies between
        assert len(smooth) > 30
        assert torch.allclose(smooth, smooth[:1].expand_as(smooth), atol=1e-12)


def spikes_or_states_of_their_own() -> None:
    """A neuron that resets gives 0 or 1 and no potential; one that gives it is linear."""
    x = torch.rand(50, 2, 3, generator=torch.Generator().manual_seed(0))
    full = [np.full(3, v) for v in (4 * DT, 4.0, 0.0, 1.0)]
    for node in (nir.LIF(*full), nir.CubaLIF(full[0], *full), nir.IF(full[1] / DT, full[3])):
        assert set(_run(node, x).flatten().tolist()) == {0.0, 1.0}
    for node in (nir.LI(*full[:3]), nir.CubaLI(full[0], *full[:3]), nir.I(full[1])):
        low, high = _run(node, x), _run(node, 2 * x)
        assert torch.allclose(high, 2 * low, rtol=1e-5)


def no_node_forgets_two_currents() -> None:
    """No comparison of a node does for an Alpha after two numbers of steps since its reset.

    See docs/neurons.md#why-no-graph-is-an-alpha. ``g`` is what a node holds of inputs k steps ago
    if it never resets, ``m`` steps ago it did, ``keeps`` is its decay: coefficients are ``g_k``,
    less ``keeps^(m+1) g_(k-m-1)`` before the reset, and should be those of the Alpha, reset n steps
    ago.
    """
    lags = np.arange(12)
    wanted = 0.9**lags - 0.7**lags
    for own in itertools.product(range(8), repeat=2):
        for keeps in (0.0, 0.3, 0.7, 0.9, 1.0):
            equations = []
            for place, (n, m) in enumerate(zip((1, 2), own, strict=True)):
                for k in lags:
                    row = np.zeros(len(lags) + 2)
                    row[k] = 1
                    if k > m:
                        row[k - m - 1] -= keeps ** (m + 1)
                    row[len(lags) + place] = -wanted[k] if k <= n else 0
                    equations.append(row)
            _, sizes, right = np.linalg.svd(np.array(equations))
            factors = np.abs(right[int((sizes > 1e-9).sum()) :, len(lags) :])
            assert factors.max(0, initial=0).min() < 1e-6  # of one of the two only 0 is left


def _run(node: nir.NIRNode, x: Tensor) -> Tensor:
    shape = tuple(x.shape[2:])
    nodes = {"input": nir.Input(np.array(shape)), "n": node, "output": nir.Output(np.array(shape))}
    out: Tensor = network(nir.NIRGraph(nodes, list(itertools.pairwise(nodes))), DT)(x)[0].detach()
    return out


def each_resets_itself_alone() -> None:
    """A spike of one unit of a layer changes nothing in another."""
    full = [np.full(3, v) for v in (4 * DT, 4.0, 0.0, 1.0)]
    for node in (nir.LIF(*full), nir.CubaLIF(full[0], *full), nir.IF(full[1] / DT, full[3])):
        x = torch.rand(50, 2, 3, generator=torch.Generator().manual_seed(0)) / 2
        louder = x.clone()
        louder[..., 0] = 9
        alone, beside = _run(node, x), _run(node, louder)
        assert not torch.equal(alone[..., 0], beside[..., 0])
        assert torch.equal(alone[..., 1:], beside[..., 1:])


def the_same_in_every_step() -> None:
    """A graph knows no time but its state: from the same state the same inputs give the same."""
    graph = nir.NIRGraph.from_list(nir.Affine(np.eye(3), np.ones(3)), nir.LI(*[np.ones(3)] * 3))
    net = network(graph, 0.5)
    x = torch.rand(8, 2, 3, generator=torch.Generator().manual_seed(0))
    _, state = net(x)
    for _ in range(3):
        again, _ = net(x, state)
        assert torch.equal(again, net(x, state)[0])


def samples_do_not_meet() -> None:
    """What a sequence gives does not depend on those beside it."""
    graph = nir.NIRGraph.from_list(nir.Affine(np.eye(3), np.ones(3)), nir.LI(*[np.ones(3)] * 3))
    x = torch.rand(8, 4, 3, generator=torch.Generator().manual_seed(0))
    net = network(graph, 0.5)
    alone = torch.cat([net(x[:, i : i + 1])[0] for i in range(4)], 1)
    assert torch.allclose(net(x)[0], alone, atol=1e-6)


def by_definition() -> None:
    """Names what NIR's own list of nodes and fields has: nothing is concluded from it."""


CLAIMS: dict[str, tuple[Callable[[], None], ...]] = {
    "padding counts as zeros in the average": (by_definition,),
    "NIR has no hooks": (by_definition,),
    "NIR's graphs carry no indices": (by_definition,),
    "standard NIR cannot say this unit": (one_slope, spikes_or_states_of_their_own),
    "only of these NIR can say it": (one_slope,),  # max(a, b) = a + relu(b - a)
    "receives relu() of …; NIR has no node for that": (one_slope,),
    "NIR has no node that bounds a value": (one_slope,),
    "NIR has no powers": (one_slope,),
    "NIR has no product of two signals": (one_slope,),
    "grows by an exponential of itself": (one_slope, spikes_or_states_of_their_own),
    "grows by its own square": (one_slope, spikes_or_states_of_their_own),
    "has no form in NIR that is exact": (one_slope, spikes_or_states_of_their_own),
    "NIR would have to multiply by the spike": (
        one_slope,
        spikes_or_states_of_their_own,
        no_node_forgets_two_currents,
    ),
    "whose value no node of NIR has": (spikes_or_states_of_their_own,),
    "NIR's neurons that reset to a value give their spikes only": (spikes_or_states_of_their_own,),
    "NIR's neurons with such a reset have a fixed threshold": (spikes_or_states_of_their_own,),
    "a neuron of NIR resets itself alone": (each_resets_itself_alone,),
    "NIR's graph is the same in every step": (the_same_in_every_step,),
    "NIR's nodes are the same in every step": (the_same_in_every_step,),
    "NIR's nodes know no batch": (samples_do_not_meet,),
    "NIR cannot flatten the batch": (samples_do_not_meet,),
    "NIR treats all alike": (samples_do_not_meet,),
}
"""What errors say of NIR, by a part of the text, and what shows it."""


def test_whatever_an_error_says_of_nir_is_shown_here_or_called_not_yet_supported() -> None:
    claims = {f"{place}: {text}" for place, text in refusals() if CLAIM.search(text)}
    assert len(claims) > 15
    unproven = [c for c in claims if "not yet" not in c and not any(one in c for one in CLAIMS)]
    assert not unproven, "show these in CLAIMS, or say 'not yet supported'"
    gone = [one for one in CLAIMS if not any(one in claim for claim in claims)]
    assert not gone, "no error says this any more"


@pytest.mark.parametrize(
    "proof", sorted({p for proofs in CLAIMS.values() for p in proofs}, key=str)
)
def test_what_errors_say_of_nir_is_true(proof: Callable[[], None]) -> None:
    proof()


class Sum(nn.Module):
    """A layer and what a function makes of its output."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.function = nn.Linear(4, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.fc(x))


@pytest.mark.parametrize(
    ("model", "shape", "said"),
    [
        (Sum(lambda x: x.relu()), (2, 4), "receives relu() of 'fc'; NIR has no node for that"),
        (
            Sum(lambda x: x.tanh()),
            (2, 4),
            "it is neither linear nor a threshold, as all that a graph",
        ),
        (Sum(lambda x: x * x.abs()), (2, 4), "not yet supported: use a module that has a rule"),
        (Sum(lambda x: x.diff(dim=1)), (2, 4), "nn.Linear for what is linear"),
        (Sum(lambda x: x.view(-1, 2, 2).sum((1, 2))), (2, 4), "sum_of_features() of 'fc'; not yet"),
        (Sum(lambda x: x.reshape(-1, 2, 2)), (2, 4), "NIR's Flatten joins axes, and no node"),
        (nn.Sequential(nn.Conv2d(1, 1, 2), nn.MaxPool2d(2)), (2, 1, 5, 5), "are no spikes"),
        (
            nn.Upsample(scale_factor=2, mode="bicubic"),
            (2, 1, 5, 5),
            "'bicubic' for (1, 5, 5)",
        ),
        (nn.BatchNorm1d(4, track_running_stats=False), (2, 4), "NIR's nodes know no batch"),
        (nn.LPPool2d(2, 2), (2, 1, 4, 4), "NIR has no powers"),
        (nn.Sequential(nn.Identity()), (2, 4), "the model returns its input"),
    ],
)
def test_a_refusal_says_what_is_true_and_what_to_do(
    model: nn.Module, shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        to_nir(model, torch.rand(shape))
    assert said in str(error.value)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 4), (2, 2, 2, 2)])
def test_a_constant_for_each_value_is_added_whatever_the_shape(shape: tuple[int, ...]) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = SNU(shape, config=SNUConfig(threshold=0.3))
            self.shift, self.gain = torch.rand(shape), torch.rand(shape)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.gain * self.unit(x)[0] + self.shift
            return out

    model, x = Shifted(), torch.rand(5, 3, *shape)
    exported = to_nir(model, x)
    assert torch.allclose(network(exported)(x)[0], model(x), atol=1e-6)
    assert {v.verdict for v in check(exported)} == {"exact"}
