"""Who is timed beside the product alone, by name, on layers of which sizes.

Other people's neurons are those nearest to the SNU: decay 0.8, threshold 1, reset to zero. Written
for snntorch 1.0, norse 1.1, spikingjelly 2.0, sinabs 3.1 and jax 0.10; each is imported only when
it is timed.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from snu_plugin import simulators
from snu_plugin.accepted import hint
from snu_plugin.neuron import SNU, SNUConfig, State, implementations, snu_step, sSNU

PRODUCT = "product alone"
COPIES = "three copies"
COMPILED = "torch.compile of the reference"
ALONE = ", no product"
DECAY = 0.8

Call = Callable[[], object]
"""One forward and backward pass."""
Layer = Callable[[int], nn.Module]
"""What comes after a product: for a number of features, ``(T, B, N)`` to ``(T, B, N)``."""
Cell = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""``y, state = cell(x, state)`` for one step; ``None`` starts a state."""


class Workload(NamedTuple):
    """Sizes of linear layers with neurons, and where they run."""

    steps: int
    batch: int
    sizes: tuple[int, ...]
    """Inputs, then the neurons of each layer."""
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.steps} x {self.batch}, {' -> '.join(map(str, self.sizes))}"

    @property
    def tensor_bytes(self) -> int:
        """Bytes of one float32 tensor ``(T, B, N)`` of the last layer."""
        return 4 * self.steps * self.batch * self.sizes[-1]

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return seeded inputs in [0, 1) and a gradient of the outputs, both float32."""
        random = torch.Generator().manual_seed(0)
        x = torch.rand(self.steps, self.batch, self.sizes[0], generator=random)
        gradient = torch.randn(self.steps, self.batch, self.sizes[-1], generator=random)
        return x.to(self.device), gradient.to(self.device)

    def train(self, net: nn.Module) -> Call:
        """Return a pass through ``net`` with the gradients of all its parameters."""
        x, gradient = self.draw()
        return self.passing(net.to(self.device), x, gradient)

    def train_stack(self, layer: Layer | None) -> Call:
        """Return the same for linear layers, each followed by ``layer`` where there is one."""
        parts: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(self.sizes):
            parts += [nn.Linear(inputs, outputs), *([layer(outputs)] if layer else [])]
        return self.train(nn.Sequential(*parts))

    def train_alone(self, layer: Layer) -> Call:
        """Return a pass through the last layer's neurons alone, with the gradient of the input."""
        _, gradient = self.draw()
        net = layer(self.sizes[-1]).to(self.device)
        x = gradient.clone().requires_grad_()
        return self.passing(net, x, gradient)

    def passing(self, net: nn.Module, x: Tensor, gradient: Tensor) -> Call:
        """Return a pass with the gradients of all parameters, and of ``x`` where it has one."""
        wanted = [value for value in (x, *net.parameters()) if value.requires_grad]

        def forward_and_backward() -> None:
            torch.autograd.grad(net(x), wanted, gradient)
            if self.device != "cpu":
                torch.cuda.synchronize()

        return forward_and_backward


Maker = Callable[[Workload], Call]
"""Gets a candidate ready; raises ``ImportError`` or ``ValueError`` where it cannot run here."""


def candidates(only: Iterable[str] = ()) -> dict[str, Maker]:
    """Return everybody who may be timed, installed or not.

    ``three copies`` of ``(T, B, N)`` move six tensors, which is what a neuron cannot but move:
    input and output forward; both gradients, and input and output again, backward.

    Args:
        only: Parts of the names wanted besides the product and the copies; none: all.

    Raises:
        LookupError: For a part that is in no name.
    """
    always: dict[str, Maker] = {PRODUCT: lambda work: work.train_stack(None), COPIES: _copies}
    known, wanted = {**always, **_ours(), **_others()}, tuple(only)
    for part in wanted:
        if not any(part.lower() in name.lower() for name in known):
            near = hint(part, (word for name in known for word in (name, *name.split())))
            raise LookupError(f"no candidate {part!r}; the candidates: {', '.join(known)}{near}")
    if not wanted:
        return known
    found = [name for name in known if any(part.lower() in name.lower() for part in wanted)]
    return {name: make for name, make in known.items() if name in always or name in found}


def ready(work: Workload, makers: Mapping[str, Maker], absent: dict[str, str]) -> dict[str, Call]:
    """Return who can run a workload, after a first run; adds to ``absent`` who cannot, and why.

    In a stack of layers nobody runs without its products.
    """
    calls: dict[str, Call] = {}
    for name, make in makers.items():
        if name in absent or (ALONE in name and len(work.sizes) > 2):
            continue
        try:
            call = make(work)
            call()
        except ImportError as error:
            absent[name] = f"{error.name} is not installed" if error.name else str(error)
        except Exception as error:  # a host may raise anything: that is what is told
            if name not in _others():
                raise
            absent[name] = " ".join(f"{type(error).__name__}: {error}".split())
        else:
            calls[name] = call
    return calls


def _copies(work: Workload) -> Call:
    _, tensor = work.draw()
    return lambda: [tensor.clone() for _ in range(3)]


def _layer(make: Layer) -> Maker:
    """Return who times layers of this kind after their products."""
    return lambda work: work.train_stack(make)


def _ours() -> dict[str, Maker]:
    found: dict[str, Maker] = {}
    units = {"SNU": SNU, "sSNU": sSNU}
    for impl, name in itertools.product(implementations(), units):
        layer = functools.partial(_unit, units[name], impl)
        found[f"{name} ({impl})"] = _layer(layer)
        if impl != "reference":
            found[f"{name} ({impl}){ALONE}"] = functools.partial(Workload.train_alone, layer=layer)
    found["snu_snntorch.SNUSequence"] = _layer(snu_sequence)
    found["snu_snntorch.SNU by steps"] = lambda work: _by_steps(
        work, lambda: Remembered(simulators.adapter("snntorch").SNU(beta=DECAY))
    )
    return found


def _others() -> dict[str, Maker]:
    return {
        "nn.ReLU": _layer(lambda features: nn.ReLU()),
        "snnTorch Leaky": _layer(leaky),
        "snnTorch Leaky by steps": lambda work: _by_steps(work, _leaky_cell),
        "Norse LIFBoxCell": _layer(
            lambda features: Stepped(import_module("norse.torch").LIFBoxCell())
        ),
        "SpikingJelly LIFNode": _layer(lambda features: _SpikingJelly()),
        "sinabs LIF": _layer(_sinabs),
        "sinabs-EXODUS LIF": _layer(_exodus),
        "JAX scan": _jax_scan,
        f"JAX scan{ALONE}": _jax_alone,
        COMPILED: _layer(_compiled),
        "nn.LSTM": functools.partial(_gated, nn.LSTM),
        "nn.GRU": functools.partial(_gated, nn.GRU),
    }


def _unit(kind: Callable[..., nn.Module], impl: str, features: int) -> nn.Module:
    found = implementations()[impl]
    if not found.available:
        raise ImportError(found.reason)
    return First(kind(features, impl=impl))


def _gated(kind: type[nn.LSTM] | type[nn.GRU], work: Workload) -> Call:
    layers = (First(kind(i, o)) for i, o in itertools.pairwise(work.sizes))
    return work.train(nn.Sequential(*layers))


def _by_steps(work: Workload, neuron: Callable[[], nn.Module]) -> Call:
    """Time a network as snnTorch's tutorials write it: the loop over time holds every layer."""
    cells: list[Cell] = []
    for inputs, outputs in itertools.pairwise(work.sizes):
        cells += [Stateless(nn.Linear(inputs, outputs)), neuron()]
    return work.train(Stepped(*cells))


class First(nn.Module):
    """The outputs of a layer that returns outputs and state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[0]
        return y


class Stepped(nn.Module):
    """Cells in a row, run over time by Python: all of them in each step."""

    def __init__(self, *cells: Cell) -> None:
        super().__init__()
        self.cells = cells
        self.parts = nn.ModuleList(cell for cell in cells if isinstance(cell, nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        states: list[Any] = [None] * len(self.cells)
        outputs = []
        for y in x:
            for place, cell in enumerate(self.cells):
                y, states[place] = cell(y, states[place])
            outputs.append(y)
        return torch.stack(outputs)


class Stateless(First):
    """A module as a cell that has no state."""

    def forward(self, x: Tensor, state: None = None) -> Any:
        return self.layer(x), None


class Remembered(First):
    """A snnTorch neuron, which returns spikes and potential, as a cell."""

    def forward(self, x: Tensor, state: Any = None) -> Any:
        return self.layer(x, self.layer.reset_mem() if state is None else state)  # type: ignore[operator]


def snu_sequence(features: int) -> nn.Module:
    """Return this plugin's ``snu_snntorch.SNUSequence``."""
    layer: nn.Module = simulators.adapter("snntorch").SNUSequence(beta=DECAY)
    return layer


def leaky(features: int) -> nn.Module:
    """Return snnTorch's ``Leaky``, stepped after one product for all steps."""
    return Stepped(_leaky_cell())


def _leaky_cell() -> nn.Module:
    return Remembered(import_module("snntorch").Leaky(beta=DECAY, reset_mechanism="zero"))


class _SpikingJelly(nn.Module):
    """SpikingJelly's ``LIFNode`` over all steps; it picks its own fused kernels."""

    def __init__(self) -> None:
        super().__init__()
        neuron = import_module("spikingjelly.activation_based.neuron")
        self.reset = import_module("spikingjelly.activation_based.functional").reset_net
        self.node = neuron.LIFNode(
            tau=1 / (1 - DECAY), decay_input=False, v_reset=0.0, step_mode="m"
        )

    def forward(self, x: Tensor) -> Tensor:
        self.reset(self.node)
        y: Tensor = self.node(x)
        return y


class _Sinabs(nn.Module):
    """A ``LIF`` in the way of sinabs, which takes batch first, then time."""

    def __init__(self, LIF: Callable[..., Any], *, copied: bool = False, **settings: Any) -> None:
        super().__init__()
        self.layer = LIF(tau_mem=-1 / math.log(DECAY), norm_input=False, **settings)
        self.copied = copied

    def forward(self, x: Tensor) -> Tensor:
        self.layer.reset_states()
        x = x.transpose(0, 1)
        y: Tensor = self.layer(x.contiguous() if self.copied else x).transpose(0, 1)
        return y


def _sinabs(features: int) -> nn.Module:
    """Return sinabs's own, with a reset to zero and one spike a step at most."""
    layers, activation = (import_module(f"sinabs.{name}") for name in ("layers", "activation"))
    to_zero = activation.MembraneReset()
    return _Sinabs(layers.LIF, spike_fn=activation.SingleSpike, reset_fn=to_zero)


def _exodus(features: int) -> nn.Module:
    """Return that of sinabs-exodus, one kernel of CUDA, which resets by subtraction alone."""
    return _Sinabs(import_module("sinabs.exodus.layers").LIF, copied=True)


class _CompiledCell(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.ones(features))
        self.config = SNUConfig(decay=DECAY)
        self.step = torch.compile(snu_step, dynamic=False)

    def forward(self, x: Tensor, state: Any) -> Any:
        if state is None:
            state = State(torch.zeros_like(x), torch.zeros_like(x))
        return self.step(x, state, self.config, threshold=self.threshold)


def _compiled(features: int) -> nn.Module:
    """Return the reference step compiled by ``torch.compile``, stepped."""
    return Stepped(_CompiledCell(features))


def _jax_scan(work: Workload) -> Call:
    """Time products and SNU in JAX: ``lax.scan`` over time, compiled whole by XLA."""
    jax, (x, gradient) = import_module("jax"), _drawn_for_jax(work)
    draw = np.random.default_rng(0)
    layers = [
        (
            jax.numpy.asarray(draw.normal(0, i**-0.5, (i, o)), dtype="float32"),
            jax.numpy.zeros(o, "float32"),
            jax.numpy.ones(o, "float32"),
        )
        for i, o in itertools.pairwise(work.sizes)
    ]

    def net(layers: Any, x: Any) -> Any:
        for weight, bias, threshold in layers:
            x = _jax_snu(jax, x @ weight + bias, threshold)
        return x

    both = jax.jit(lambda layers, x, gradient: jax.vjp(net, layers, x)[1](gradient)[0])
    return lambda: jax.block_until_ready(both(layers, x, gradient))


def _jax_alone(work: Workload) -> Call:
    """Time the SNU alone in JAX, with the gradients of input and thresholds."""
    jax, (_, gradient) = import_module("jax"), _drawn_for_jax(work)
    threshold, layer = jax.numpy.ones(work.sizes[-1], "float32"), functools.partial(_jax_snu, jax)
    both = jax.jit(lambda x, threshold, gradient: jax.vjp(layer, x, threshold)[1](gradient))
    return lambda: jax.block_until_ready(both(gradient, threshold, gradient))


def _drawn_for_jax(work: Workload) -> list[Any]:
    return [import_module("jax.numpy").asarray(value.numpy(force=True)) for value in work.draw()]


def _jax_snu(jax: Any, x: Any, threshold: Any) -> Any:
    fire = jax.custom_jvp(lambda z: (z > 0).astype(z.dtype))

    @fire.defjvp  # type: ignore[untyped-decorator]
    def _(primal: Any, tangent: Any) -> Any:
        return fire(primal[0]), (1 - jax.numpy.tanh(primal[0]) ** 2) * tangent[0]

    def step(v: Any, x_t: Any) -> Any:
        s = x_t + DECAY * v
        y = fire(s - threshold)
        return s * (1 - y), y

    return jax.lax.scan(step, jax.numpy.zeros_like(x[0]), x)[1]
