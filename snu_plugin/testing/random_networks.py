"""Random networks of what an adapter offers.

The values of half of the networks are short binary fractions: potentials land on thresholds all the
time, every sum is exact, and whoever differs is wrong. Of the others a rounding may decide a spike;
a difference counts where other inputs show one, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.graph.layers import detached_copy

Shape = tuple[int, ...]
Step = Callable[[nn.Module, Tensor, Any], tuple[Tensor, Any]]
Runner = Callable[[nir.NIRGraph, Tensor], Tensor]
"""Outputs ``(T, B, ...)`` of a graph on ``(T, B, ...)``; of several, all flat, by name."""

STEPS, BATCH = 8, 3
"""Few steps, so that fractions stay exact in float32."""


class Choices:
    """Everything that is left to chance, from one seed.

    Args:
        seed: Of what is drawn.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.fractions = self.chance(0.5)
        """Whether numbers are short binary fractions."""
        self.dt = 2.0**-10 if self.fractions else self.pick(1e-3, 5e-4)
        """Seconds per step, of neurons that have a time step of their own."""

    def chance(self, share: float) -> bool:
        """Return True in a ``share`` of the cases."""
        return bool(self.random.random() < share)

    def pick(self, *options: Any) -> Any:
        """Return one of some values."""
        return options[int(self.random.integers(len(options)))]

    def numbers(self, low: float, high: float, shape: Shape = ()) -> Tensor:
        """Return float32 numbers from ``low`` to ``high``; as fractions, multiples of 1/4."""
        if not self.fractions:
            return torch.tensor(self.random.uniform(low, high, shape), dtype=torch.float32)
        first, last = int(np.ceil(4 * low)), int(np.floor(4 * high))
        return torch.tensor(self.random.integers(first, last + 1, shape) / 4, dtype=torch.float32)

    def decay(self, shape: Shape = ()) -> Tensor:
        """Return decays; as fractions, with a time constant of a power of two of steps."""
        if not self.fractions:
            return self.numbers(0.3, 0.97, shape)
        return torch.tensor(1 - 2.0 ** -self.random.integers(1, 3, shape), dtype=torch.float32)

    def per_neuron(self, shape: Shape) -> Shape:
        """Return the shape of a parameter: one number for all, or one for each neuron."""
        return self.pick((), shape)  # type: ignore[no-any-return]


class Neuron(NamedTuple):
    """A neuron that an adapter offers."""

    module: nn.Module
    told: str
    """Its class and settings."""
    step: Step
    """One call as a user writes it: the module, its input and its state, ``None`` at first."""
    holds: bool = False
    """Whether the module keeps its state itself."""
    spikes: bool = True
    membrane: Callable[[Any], Tensor] | None = None
    """Its potential, of the state that it hands out, where NIR can say it."""
    exact: bool = True
    """Whether the table of conformance says that it leaves exactly."""


class RandomNetwork(NamedTuple):
    """A network, and how it is called."""

    model: nn.Module
    run: Callable[[nn.Module, Tensor], list[Tensor]]
    """Its outputs over all steps, each ``(T, B, ...)``."""
    inputs: tuple[Tensor, ...]
    """Inputs to compare on, each ``(T, B, ...)``."""
    whole: bool
    """Whether the model takes a sequence in a call."""
    dt: float | None
    told: str
    exact: bool
    """Whether it is made of layers only that leave exactly."""
    fractions: bool
    """Whether no rounding can decide a spike."""


class _Signal(NamedTuple):
    """What some layer gives."""

    shape: Shape
    binary: bool
    """Whether its values are 0 and 1."""
    origin: int | None = None
    """The signal that it is the same as, behind a layer that changes nothing."""


class _Part(NamedTuple):
    """One thing that a network does in a step."""

    sources: tuple[int, ...]
    act: Callable[..., Tensor] | None
    """A function; None for the module of the part's number, or a membrane."""
    neuron: Neuron | None = None
    membrane: bool = False
    """Whether it is the potential of the part before it."""


class _Wired(nn.Module):
    """Parts in order, each fed by what stands before it; called as users call theirs."""

    def __init__(self, parts: Sequence[_Part], modules: Mapping[int, nn.Module], ends: Shape):
        super().__init__()
        self.parts, self.ends = tuple(parts), ends
        self.layers = nn.ModuleDict({f"layer{i}": module for i, module in modules.items()})

    def advance(self, x: Tensor, states: Sequence[Any]) -> tuple[Any, list[Any]]:
        """Return the outputs of a step and the states after it."""
        signals, after = [x], list[Any]()
        for i, (part, state) in enumerate(zip(self.parts, states, strict=True)):
            given = [signals[source] for source in part.sources]
            if part.neuron is not None and part.membrane:
                assert part.neuron.membrane is not None
                y, new = part.neuron.membrane(after[-1]), None
            elif part.neuron is not None:
                y, new = part.neuron.step(self.layers[f"layer{i}"], given[0], state)
            elif part.act is not None:
                y, new = part.act(*given), None
            else:
                y, new = self.layers[f"layer{i}"](given[0]), None
            signals.append(y)
            after.append(new)
        outputs = tuple(signals[end] for end in self.ends)
        return outputs if len(outputs) > 1 else outputs[0], after

    def begin(self) -> list[Any]:
        return [None] * len(self.parts)


class _Steps(_Wired):
    """One step in a call; its layers keep their states."""

    def forward(self, x: Tensor) -> Any:
        return self.advance(x, self.begin())[0]


class _Handed(_Wired):
    """One step in a call, with the states handed in and out."""

    def forward(self, x: Tensor, states: Any = None) -> tuple[Any, Any]:
        return self.advance(x, self.begin() if states is None else states)


class _Loop(_Wired):
    """A loop over a sequence, ``(T, B, ...)``."""

    def forward(self, x: Tensor) -> Any:
        states, steps = self.begin(), []
        for x_t in x:
            y, states = self.advance(x_t, states)
            steps.append(y)
        if len(self.ends) == 1:
            return torch.stack(steps)
        return tuple(torch.stack(parts) for parts in zip(*steps, strict=True))


def random_network(adapter: ModuleType, seed: int) -> RandomNetwork:
    """Return a random network of torch's layers and the neurons of an adapter.

    Args:
        adapter: Offers ``random_neuron(choices, shape, holds)``.
        seed: Of everything that is drawn.
    """
    return _Builder(adapter, Choices(seed)).build()


class _Builder:
    """Grows a network part by part."""

    def __init__(self, adapter: ModuleType, choices: Choices) -> None:
        self.adapter, self.choices = adapter, choices
        self.parts: list[_Part] = []
        self.modules: dict[int, nn.Module] = {}
        self.told: list[str] = []
        self.exact = True
        self.holds = choices.chance(0.4)
        first: Shape = choices.pick((4,), (6,), (2, 9), (2, 6, 6), (1, 7, 7))
        self.signals = [_Signal(first, choices.chance(0.7))]

    def add(
        self,
        told: str,
        shape: Shape,
        act: Callable[..., Tensor] | nn.Module,
        *sources: int,
        binary: bool = False,
    ) -> None:
        """Add a module or a function, behind the last part unless ``sources`` says otherwise."""
        module = act if isinstance(act, nn.Module) else None
        if module is not None:
            self.modules[len(self.parts)] = module
        sources = sources or (len(self.parts),)
        self.parts.append(_Part(sources, None if module is not None else act))
        self.signals.append(_Signal(shape, binary))
        self.told.append(told)

    def build(self) -> RandomNetwork:
        """Return the network, its values drawn, in one of the ways to call it."""
        choices = self.choices
        for _ in range(choices.pick(1, 2, 2, 3)):
            self.weights()
            self.neuron()
            self.between()
        ends = [len(self.parts)]
        if choices.chance(0.25):
            self.read_out(ends)
        held = all(part.neuron.holds for part in self.parts if part.neuron is not None)
        kind = choices.pick(_Steps if held else _Handed, _Loop)
        model = kind(self.parts, self.modules, tuple(ends)).eval()
        self.draw_values(model)
        inputs = tuple(self.inputs() for _ in range(4))
        dt = choices.pick(None, choices.dt, choices.dt if choices.fractions else 1e-4)
        whole = kind is _Loop
        run = _whole if whole else _stepped
        dtype = torch.float32
        if choices.chance(0.3):
            try:
                double = detached_copy(model).double()
                run(detached_copy(double), inputs[0].double())
                model, dtype = double, torch.float64
            except RuntimeError:  # many neurons of hosts give float32 whatever they take
                pass
        told = f"{kind.__name__[1:].lower()}, {dtype}, dt {dt}: {', '.join(self.told)}"
        inputs = tuple(x.to(dtype) for x in inputs)
        run(detached_copy(model), inputs[0])  # what does not run by itself is no network
        return RandomNetwork(model, run, inputs, whole, dt, told, self.exact, choices.fractions)

    def inputs(self) -> Tensor:
        """Return spikes, or currents of both signs."""
        choices, (shape, binary, _) = self.choices, self.signals[0]
        if binary:
            spikes = choices.random.random((STEPS, BATCH, *shape)) < 0.4
            return torch.tensor(spikes, dtype=torch.float32)
        return choices.numbers(-0.5, 1.5, (STEPS, BATCH, *shape))

    def weights(self) -> None:
        """Add a linear layer or a convolution, perhaps with a batch norm."""
        choices, shape = self.choices, self.signals[-1].shape
        if len(shape) == 1:
            out, bias = choices.pick(3, 4, 6), choices.chance(0.7)
            self.add("Linear", (out,), nn.Linear(shape[0], out, bias=bias))
        else:
            self.convolution(shape)
        if not choices.fractions and choices.chance(0.2):
            shape = self.signals[-1].shape
            kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
            self.add(kind.__name__, shape, kind(shape[0]))

    def convolution(self, shape: Shape) -> None:
        """Add a convolution of one or two dimensions with any of its options."""
        choices = self.choices
        groups = choices.pick(*(g for g in (1, 2) if shape[0] % g == 0))
        channels = groups * choices.pick(1, 2)
        kernel = choices.pick(1, 2, 3)
        stride, dilation = choices.pick(1, 1, 2), choices.pick(1, 1, 2)
        padding = choices.pick(0, 1, "valid", "same" if stride == 1 and kernel != 2 else 0)
        kind = nn.Conv1d if len(shape) == 2 else nn.Conv2d
        reach = dilation * (kernel - 1)
        around = reach if padding == "same" else 0 if padding == "valid" else 2 * padding
        if min(shape[1:]) + around <= reach:
            padding, kernel, reach, around = 0, 1, 0, 0
        out = tuple((n + around - reach - 1) // stride + 1 for n in shape[1:])
        settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        module = kind(shape[0], channels, kernel, bias=choices.chance(0.7), **settings)
        self.add(f"{kind.__name__} {kernel} {settings}", (channels, *out), module)

    def neuron(self) -> None:
        """Add one of the adapter's neurons."""
        found = self.adapter.random_neuron(self.choices, self.signals[-1].shape, self.holds)
        self.modules[len(self.parts)] = found.module
        self.parts.append(_Part((len(self.parts),), None, found))
        self.signals.append(_Signal(self.signals[-1].shape, found.spikes))
        self.told.append(found.told)
        self.exact &= found.exact

    def between(self) -> None:
        """Add some of what stands between layers: pools, branches, what changes nothing."""
        choices, (shape, binary, _) = self.choices, self.signals[-1]
        if choices.chance(0.15):
            module = choices.pick(nn.Dropout(0.5), nn.Identity())
            self.add(type(module).__name__, shape, module, binary=binary)
            self.signals[-1] = _Signal(shape, binary, len(self.signals) - 2)
        if len(shape) > 1 and min(shape[1:]) > 1 and choices.chance(0.4):
            self.pool(shape, binary)
        if choices.chance(0.2):
            scale = float(choices.pick(0.5, 2.0, -1.0))
            self.add(f"times {scale}", self.signals[-1].shape, lambda x: x * scale)
        if choices.chance(0.25):
            self.branch()
        shape, binary, _ = self.signals[-1]
        if len(shape) > 1 and choices.chance(0.5):
            flatten = choices.pick(nn.Flatten(), lambda x: x.flatten(1))
            self.add("flatten", (int(np.prod(shape)),), flatten, binary=binary)

    def pool(self, shape: Shape, binary: bool) -> None:
        """Add a pool of averages, or of spikes their maximum, as a module or a function."""
        out = (shape[0], *(n // 2 for n in shape[1:]))
        two = len(shape) == 3
        options: dict[str, Any] = {
            "AvgPool": nn.AvgPool2d(2) if two else nn.AvgPool1d(2),
            "avg_pool": lambda x: F.avg_pool2d(x, 2) if two else F.avg_pool1d(x, 2),
        }
        if binary:
            options["MaxPool"] = nn.MaxPool2d(2) if two else nn.MaxPool1d(2)
            options["max_pool"] = lambda x: F.max_pool2d(x, 2) if two else F.max_pool1d(x, 2)
        told = self.choices.pick(*options)
        self.add(told, out, options[told], binary=binary and told.lower().startswith("max"))

    def branch(self) -> None:
        """Add an earlier signal to the last, or put it beside it."""
        shape, last = self.signals[-1].shape, len(self.parts)
        fit = [i for i, s in enumerate(self.signals[:-1]) if s.shape[1:] == shape[1:]]
        fit = [i for i in fit if i != self.signals[-1].origin]
        same = [i for i in fit if self.signals[i].shape == shape]
        if same and self.choices.chance(0.6):
            self.add("sum", shape, lambda a, b: a + b, last, self.choices.pick(*same))
        elif fit:
            other = self.choices.pick(*fit)
            width = shape[0] + self.signals[other].shape[0]
            order = (last, other) if self.choices.chance(0.5) else (other, last)
            self.add("cat", (width, *shape[1:]), lambda a, b: torch.cat([a, b], 1), *order)
            self.weights()

    def read_out(self, ends: list[int]) -> None:
        """Give out another signal beside the last: a membrane where there is one, or a layer's."""
        found = self.parts[-1].neuron
        if found is not None and found.membrane is not None and not self.holds:
            self.parts.append(_Part((), None, found, membrane=True))
            self.signals.append(_Signal(self.signals[-1].shape, False))
            self.told.append("membrane")
            ends[:] = self.choices.pick([len(self.parts)], [len(self.parts) - 1, len(self.parts)])
            return
        fired = [i + 1 for i, part in enumerate(self.parts[:-1]) if part.neuron is not None]
        if fired:
            ends.append(self.choices.pick(*fired))
            self.told.append(f"and what part {ends[-1] - 1} gives")

    def draw_values(self, model: nn.Module) -> None:
        """Draw the weights of torch's layers, large enough that neurons fire."""
        choices = self.choices
        for module in model.layers.values():  # type: ignore[operator]
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                module.weight.data = choices.numbers(-0.75, 1, tuple(module.weight.shape))
                if module.bias is not None:
                    module.bias.data = choices.numbers(-0.25, 0.5, tuple(module.bias.shape))
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                for value in (module.weight, module.bias, module.running_mean, module.running_var):
                    assert value is not None
                    value.data = choices.numbers(0.3, 1.2, tuple(value.shape))


def _whole(model: nn.Module, x: Tensor) -> list[Tensor]:
    y = model(x)
    return list(y) if isinstance(y, tuple) else [y]


def _stepped(model: nn.Module, x: Tensor) -> list[Tensor]:
    states, steps = None, []
    for x_t in x:
        if isinstance(model, _Handed):
            y, states = model(x_t, states)
        else:
            y = model(x_t)
        steps.append(y if isinstance(y, tuple) else (y,))
    return [torch.stack(parts) for parts in zip(*steps, strict=True)]
