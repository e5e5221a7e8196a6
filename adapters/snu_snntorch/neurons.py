"""SNU and sSNU as snnTorch neurons: a time step a call, with recurrence, or a whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from snu_plugin.neuron import (
    Inhibition,
    State,
    check_product,
    check_step,
    check_tensor,
    full,
    narrow,
    snu_scan,
    state_dtype,
    wide,
)
from snu_snntorch.unit import SpikeGrad, Stateful, Unit, exporting, validated


class _Fired(NamedTuple):
    """A potential and the output it led to."""

    mem: Tensor
    version: int | None
    y: Tensor


class StepUnit(Unit, Stateful):
    """What ``SNU`` and ``sSNU`` share; use one of these."""

    def _init_mem(self) -> None:
        super()._init_mem()
        self._fired: _Fired | None = None

    def init_leaky(self) -> Tensor:
        """As ``reset_mem``, under the name that ``snntorch.Leaky`` has for it too."""
        mem: Tensor = self.reset_mem()
        return mem

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Advance one step; ``input_`` and ``mem`` are ``(B, ...)``."""
        if mem is not None:
            _check_own_states(self, mem=mem)
        last = self.mem if mem is None else mem
        check_tensor("input_", input_)
        if last.shape != input_.shape:
            check_step(input_, beta=self.beta, threshold=self.threshold)
            last = torch.zeros_like(input_, dtype=state_dtype(input_))
        s = self.advance(input_, last, self._output_of(last))
        y = self.fire_output(s)
        if mem is None or not exporting():
            self.mem = s
        if not torch.compiler.is_compiling():
            self._fired = _Fired(s, _version(s), y)
        spk = narrow(y * self.graded_spikes_factor, input_)
        return spk if self.init_hidden and not self.output else (spk, s)

    def _output_of(self, mem: Tensor) -> Tensor:
        """Return the output y that belongs to a potential.

        It is the one computed last where ``mem`` is what this neuron returned then, as it was:
        neither written to nor cut from its graph of gradients in place.
        """
        last = None if torch.compiler.is_compiling() else self._fired  # compilers see no versions
        if last is None or last.mem is not mem or last.version != _version(mem):
            return self.fire_output(mem)
        same_graph = last.y.requires_grad == mem.requires_grad
        return last.y if same_graph else self.fire_output(mem)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_fired": None}


class SNU(StepUnit):
    """Spiking Neural Unit, called as ``snntorch.Leaky`` is, with its arguments in its order.

    ``mem = g(input_ + beta mem' (1 - y'))``, ``y = 1`` where ``mem > threshold``, with the last
    step's values dashed: ``mem`` is the paper's s, before the reset, which acts in the next step
    (Woźniak et al. 2020, eq. 1). With ``g="identity"`` its spikes are those of
    ``snntorch.Leaky(reset_mechanism="zero")``; its gradient runs through the reset.

    ``spk, mem = neuron(input_, mem)``; with ``init_hidden=True`` ``spk = neuron(input_)``, or
    ``spk, mem`` if ``output=True`` too. All tensors are ``(B, ...)``. ``spk`` has the precision of
    ``input_``; ``mem`` is float32 where that is half, as autocast makes it.

    Args:
        beta: Share of the potential kept, in [0, 1]; a number, or a tensor per neuron.
        threshold: Potential above which the unit fires; a number, or a tensor per neuron.
        spike_grad: A surrogate of ``snntorch.surrogate``. ``None`` is the paper's,
            ``1 - tanh²(mem - threshold)`` (snnTorch's own default is another, atan).
        surrogate_disable: No gradient through spikes, as snnTorch has it.
        init_hidden: Keep ``mem`` in the neuron; ``reset_mem()``, ``snu_snntorch.reset(net)`` or
            ``snntorch.utils.reset(net)`` zeroes it.
        inhibition: Only the unit with the largest potential may fire, as snnTorch has it.
        learn_beta: Train ``beta``, held inside [0, 1).
        learn_threshold: Train ``threshold``.
        reset_mechanism: ``"zero"``; ``"subtract"`` and ``"none"`` are refused.
        state_quant: A quantiser of ``snntorch.quant`` for ``mem``.
        output: With ``init_hidden=True``, return ``mem`` too.
        graded_spikes_factor: Number that spikes are multiplied by on their way out.
        learn_graded_spikes_factor: Train that number.
        reset_delay: ``True``, as the reset acts in the next step; ``False`` is refused.
        g: Activation of the potential: identity, relu or leaky_relu.
        slope: Slope of the leaky ReLU below zero.
        detach_reset: Stop the gradient at the reset, as ``snntorch.Leaky`` does.
        lateral_inhibition: The largest last output resets all units: ``"sample"`` those of its
            sample, ``"batch"`` those of all samples, as IBM/neuroaikit has it.

    Raises:
        ValueError: For a setting outside its range.

    >>> neuron = SNU(init_hidden=True)
    >>> [neuron(torch.tensor([[0.6]])).item() for _ in range(4)]
    [0.0, 1.0, 0.0, 1.0]
    """


class sSNU(StepUnit):
    """Soft SNU: ``spk = sigmoid(mem - threshold)``, and the reset is in proportion to it.

    Called as ``SNU`` is; there is no surrogate to choose, and no ``inhibition``.
    """

    soft: ClassVar[bool] = True


class RecurrentUnit(Unit, Stateful):
    """What ``RSNU`` and ``RsSNU`` share; use one of these."""

    states = "spk", "mem"

    spk: Tensor

    def __init__(
        self,
        beta: float | Tensor = 0.8,
        V: float | Tensor = 1.0,
        all_to_all: bool = True,
        linear_features: int | None = None,
        conv2d_channels: int | None = None,
        kernel_size: int | tuple[int, int] | None = None,
        threshold: float | Tensor = 1.0,
        spike_grad: SpikeGrad | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        learn_recurrent: bool = True,
        reset_mechanism: str = "zero",
        state_quant: Callable[[Tensor], Tensor] | bool = False,
        output: bool = False,
        reset_delay: bool = True,
        *,
        g: str = "identity",
        slope: float = 0.1,
        detach_reset: bool = False,
        lateral_inhibition: Inhibition | bool | None = None,
    ) -> None:
        loop = _loop(all_to_all, linear_features, conv2d_channels, kernel_size)
        weights = validated("V", V)
        super().__init__(
            beta, threshold, spike_grad, surrogate_disable, init_hidden, inhibition,
            learn_beta, learn_threshold, reset_mechanism, state_quant, output,
            reset_delay=reset_delay, g=g, slope=slope, detach_reset=detach_reset,
            lateral_inhibition=lateral_inhibition,
        )  # fmt: skip
        self.all_to_all = all_to_all
        if loop is None:
            self._V_register_buffer(weights, learn_recurrent)
        else:
            self.recurrent = loop
            nn.init.xavier_uniform_(loop.weight)
            loop.weight.requires_grad_(learn_recurrent)

    def init_rleaky(self) -> tuple[Tensor, Tensor]:
        """As ``reset_mem``, under the name that ``snntorch.RLeaky`` has for it too."""
        states: tuple[Tensor, Tensor] = self.reset_mem()
        return states

    def forward(
        self, input_: Tensor, spk: Tensor | None = None, mem: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Advance one step; ``input_``, ``spk`` and ``mem`` are ``(B, ..., units)``."""
        if spk is not None or mem is not None:
            _check_own_states(self, spk=spk, mem=mem)
        if spk is None and mem is None:
            y, last = self._last_states()
        else:
            y, last = self.spk if spk is None else spk, self.mem if mem is None else mem
        check_tensor("input_", input_)
        if last.shape != input_.shape:
            check_step(input_, beta=self.beta, threshold=self.threshold)
            self._check_units(input_)
        y = torch.zeros_like(input_) if y.shape != input_.shape else y
        last = torch.zeros_like(input_) if last.shape != input_.shape else last
        s = self.advance(wide(input_) + self._feedback(wide(y)), last, y)
        y = self.fire_output(s)
        if (spk is None and mem is None) or not exporting():
            self._store(y, s)
        spk = narrow(y, input_)
        return spk if self.init_hidden and not self.output else (spk, s)

    def _check_units(self, x: Tensor) -> None:
        axis = -1 if isinstance(getattr(self, "recurrent", None), nn.Linear) else -3
        if self.all_to_all:
            check_product(wide(x), wide(self.recurrent.weight), axis)

    def _feedback(self, y: Tensor) -> Tensor:
        if not self.all_to_all:
            received: Tensor = self.V * y
            return received
        loop = self.recurrent
        with full(y.device):
            received = loop(y.to(loop.weight.dtype))
        return wide(received)


class RSNU(RecurrentUnit):
    """SNU with trained weights between its units, called as ``snntorch.RLeaky`` is.

    ``mem = g(input_ + H spk' + beta mem' (1 - spk'))``. H is ``recurrent``, an ``nn.Linear``
    without bias (row = receiving unit) or an ``nn.Conv2d`` without bias, or with
    ``all_to_all=False`` the weight ``V`` from each unit to itself. ``spk, mem = neuron(input_, spk,
    mem)``, all ``(B, ..., units)``, for a convolution ``(B, channels, height, width)``; with
    ``init_hidden=True`` as ``SNU``. Its spikes are those of ``RLeaky(reset_mechanism="zero",
    reset_delay=False)`` without recurrent bias; with ``reset_delay=True`` the reset of ``RLeaky``
    takes the input of the step away, too.

    Args:
        beta: As for ``SNU``.
        V: One-to-one weights, a number or a tensor per unit; used where ``all_to_all`` is False.
        all_to_all: Connect units with each other: by ``linear_features``, or by the other two.
        linear_features: Number of units, each connected with every other.
        conv2d_channels: Channels of a layer of maps that a convolution feeds back.
        kernel_size: Size of its kernel, odd, so that maps keep their size.
        learn_recurrent: Train H or V.

    The other arguments are those of ``SNU``, without graded spikes, as ``RLeaky`` has none.

    Raises:
        ValueError: For a setting outside its range, or recurrence that is not supported.
    """


class RsSNU(RecurrentUnit):
    """Soft SNU with trained weights between its units: ``RSNU`` with the outputs of ``sSNU``."""

    soft: ClassVar[bool] = True


class SequenceUnit(Unit):
    """What ``SNUSequence`` and ``sSNUSequence`` share; use one of these."""

    def __init__(
        self,
        beta: float | Tensor = 0.8,
        threshold: float | Tensor = 1.0,
        spike_grad: SpikeGrad | None = None,
        *,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        output: bool = False,
        g: str = "identity",
        slope: float = 0.1,
        detach_reset: bool = False,
        lateral_inhibition: Inhibition | bool | None = None,
        impl: str | None = None,
    ) -> None:
        super().__init__(
            beta, threshold, spike_grad, learn_beta=learn_beta, learn_threshold=learn_threshold,
            output=output, g=g, slope=slope, detach_reset=detach_reset,
            lateral_inhibition=lateral_inhibition,
        )  # fmt: skip
        self.impl = impl

    def _init_mem(self) -> None:
        """Keep nothing."""

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Run ``input_``, ``(T, B, ...)``, from the potential ``mem``, ``(B, ...)``; None: zero."""
        if torch.compiler.is_compiling() and self.impl is None and self.foreign:
            return self._steps(input_, mem)
        state = None if mem is None else State(mem, self.fire_output(mem))
        spk, last = snu_scan(
            input_,
            self.settings,
            decay=self.decay,
            threshold=self.threshold,
            state=state,
            impl=self.impl,
        )
        return (spk, last.s) if self.output else spk

    def _steps(self, input_: Tensor, mem: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        """Do the same step by step, with the surrogate itself: no compiler sees its ``Slope``."""
        if mem is None:
            mem = input_.new_zeros(input_.shape[1:], dtype=state_dtype(input_))
        y, outputs = self.fire_output(mem), []
        for x_t in input_:
            mem = self.advance(x_t, mem, y)
            y = self.fire_output(mem)
            outputs.append(y)
        spk = narrow(torch.stack(outputs), input_)
        return (spk, mem) if self.output else spk


class SNUSequence(SequenceUnit):
    """SNU over a whole sequence, on the fastest implementation: what ``SNU`` gives step by step.

    ``spk = layer(input_)`` with ``input_`` and ``spk`` ``(T, B, ...)``; with ``output=True``
    ``spk, mem = layer(input_, mem)``, where ``mem`` ``(B, ...)`` is the potential after the last
    step, from which a next call can go on. Nothing is kept in the layer. Parameters have the names
    they have in ``SNU``, so a ``state_dict`` moves between the two.

    Args:
        beta: Share of the potential kept, in [0, 1]; a number, or a tensor per neuron.
        threshold: Potential above which the unit fires; a number, or a tensor per neuron.
        spike_grad: A surrogate of ``snntorch.surrogate``; ``None`` is the paper's.
        learn_beta: Train ``beta``, held inside [0, 1).
        learn_threshold: Train ``threshold``.
        output: Return ``mem`` too.
        g: Activation of the potential: identity, relu or leaky_relu.
        slope: Slope of the leaky ReLU below zero.
        detach_reset: Stop the gradient at the reset.
        lateral_inhibition: As for ``SNU``.
        impl: Name from ``snu_plugin.implementations()``; ``None`` takes the fastest.

    Raises:
        ValueError: For a setting outside its range, or an ``impl`` that cannot run the call.
        LookupError: For an unknown ``impl``.
    """


class sSNUSequence(SequenceUnit):
    """Soft SNU over a whole sequence; called as ``SNUSequence`` is."""

    soft: ClassVar[bool] = True


def _loop(
    all_to_all: bool,
    features: int | None,
    channels: int | None,
    kernel_size: int | tuple[int, int] | None,
) -> nn.Linear | nn.Conv2d | None:
    """Return what feeds spikes back, ``None`` for one-to-one."""
    if not all_to_all:
        if features or channels or kernel_size:
            raise ValueError(
                "all_to_all is False, so V is what feeds back; leave out linear_features, "
                "conv2d_channels and kernel_size"
            )
        return None
    if features and not (channels or kernel_size):
        return nn.Linear(features, features, bias=False)
    if features or not (channels and kernel_size):
        raise ValueError(
            f"linear_features is {features!r}, conv2d_channels {channels!r} and kernel_size "
            f"{kernel_size!r}; all_to_all=True needs the first alone, or the other two"
        )
    height, width = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    if not (height % 2 and width % 2):
        raise ValueError(f"kernel_size is {kernel_size!r}; it must be odd, so maps keep their size")
    return nn.Conv2d(
        channels, channels, (height, width), padding=(height // 2, width // 2), bias=False
    )


def _check_own_states(neuron: Unit, **states: Tensor | None) -> None:
    """Refuse states for a neuron that keeps its own, and what is no tensor."""
    if neuron.init_hidden:
        raise TypeError(
            "a state is given to a neuron with init_hidden=True, which keeps its own; "
            "leave it out, or build the neuron with init_hidden=False"
        )
    for name, state in states.items():
        if state is not None:
            check_tensor(name, state)


def _version(tensor: Tensor) -> int | None:
    """Return how often a tensor was written to; inference mode does not count."""
    return None if tensor.is_inference() else tensor._version
