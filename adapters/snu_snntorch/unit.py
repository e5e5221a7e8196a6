"""What a neuron has to be to pass for one of snnTorch's: its states, and its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import snntorch
import torch
from torch import Tensor, nn

from snu_plugin.accepted import by_known_names, shown
from snu_plugin.neuron import (
    Inhibition,
    SNUConfig,
    State,
    activate,
    hold_decay,
    remaining,
    step,
    tanh_derivative,
    wide,
)

SpikeGrad = Callable[[Tensor], Tensor]
"""A surrogate as snnTorch has them: ``spikes = spike_grad(mem - threshold)``."""


exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)
"""Whether torch.export traces, which keeps no state that outgrows its buffer; since torch 2.7."""

spike = step
"""The default surrogate: 1 where ``v > 0``, with the paper's slope ``1 - tanh²(v)``."""


class Slope:
    """The slope that a surrogate of snnTorch shows in the backward pass, as a function."""

    def __init__(self, spike_grad: SpikeGrad) -> None:
        self.spike_grad = spike_grad

    def __call__(self, v: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            slope: Tensor = _TransformedSlope.apply(v, self.spike_grad)
            return slope
        return _TransformedSlope.forward(v, self.spike_grad)  # without the cost of a function


class _Elementwise(torch.autograd.Function):
    """A function of numbers under ``torch.vmap``: the same for whatever shape they have.

    The transforms of ``torch.func`` refuse the surrogates of snnTorch, whose ``forward`` takes
    ``ctx``; they unwrap the tensors of a function like this before they run it.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, SpikeGrad], output: Tensor) -> None:
        v, ctx.spike_grad = inputs
        ctx.save_for_backward(v)

    @classmethod
    def vmap(
        cls, info: Any, dims: tuple[int | None, None], v: Tensor, spike_grad: SpikeGrad
    ) -> tuple[Tensor, int | None]:
        return cls.apply(v, spike_grad), dims[0]


class TransformedSpike(_Elementwise):
    """A surrogate of snnTorch inside the transforms of ``torch.func``."""

    @staticmethod
    def forward(v: Tensor, spike_grad: SpikeGrad) -> Tensor:
        return spike_grad(v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (v,) = ctx.saved_tensors
        return grad * _TransformedSlope.apply(v, ctx.spike_grad), None


class _TransformedSlope(_Elementwise):
    @staticmethod
    def forward(v: Tensor, spike_grad: SpikeGrad) -> Tensor:
        with torch.enable_grad():
            v = v.detach().requires_grad_()
            (slope,) = torch.autograd.grad(spike_grad(v).sum(), v)
        return slope

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise RuntimeError("the slope of a surrogate of snnTorch has no derivative")


class _Stored(NamedTuple):
    """The states after a neuron's last step, and whether gradients ran through ``mem``."""

    states: tuple[Tensor, ...]
    has_grad: bool


class Stateful(snntorch.Lapicque):
    """A neuron whose states snnTorch zeroes and cuts from their gradients.

    snnTorch 1.0 looks for neurons of its own classes: ``utils.reset`` and ``backprop`` replace
    their ``mem`` by zeros or call its ``detach_()``. Nothing else is taken from ``Lapicque``, not
    its constructor either. It is ``Lapicque`` and not ``Leaky`` because snnTorch's own export
    writes every ``Leaky`` as a plain LIF; a ``Lapicque`` it cannot export, and fails.
    """

    states: ClassVar[tuple[str, ...]] = ("mem",)
    """Names of the states, ``mem`` among them; buffers that no checkpoint has."""

    mem: Tensor

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self._init_mem()
        self.instances.append(self)

    def _init_mem(self) -> None:
        for name in self.states:
            self.register_buffer(name, torch.zeros(0), persistent=False)
        self._stored: _Stored | None = None

    def reset_mem(self) -> Any:
        """Set the states to zero and return them.

        >>> from snu_snntorch import SNU
        >>> unit = SNU(init_hidden=True)
        >>> _ = unit(0.5 * torch.ones(1, 2))
        >>> unit.reset_mem()
        tensor([[0., 0.]])
        """
        for name in self.states:
            old = getattr(self, name)  # zeros_like would fail on one that torch.vmap left here
            setattr(self, name, torch.zeros(old.shape, dtype=old.dtype, device=old.device))
        return self.mem if len(self.states) == 1 else self._read_states()

    def _read_states(self) -> tuple[Any, ...]:
        buffers = self._buffers  # asked directly: attributes of modules take their time
        return tuple([buffers[name] for name in self.states])

    def _mem_was_replaced(self) -> bool:
        """Tell whether ``mem``, and it alone, is another tensor than after the last step."""
        if self._stored is None:
            return False
        pairs = zip(self.states, self._read_states(), self._stored.states, strict=True)
        return [name for name, now, stored in pairs if now is not stored] == ["mem"]

    def _last_states(self) -> tuple[Tensor, ...]:
        """Return the states to go on from: what snnTorch did to ``mem`` holds for the others too.

        Others that were set since the last step stay as they are.
        """
        now = self._read_states()
        if self._stored is None:
            return now
        if self._mem_was_replaced():
            return tuple(state if state is self.mem else torch.zeros_like(state) for state in now)
        cut = self._stored.has_grad and not self.mem.requires_grad
        return tuple(state.detach() for state in now) if cut else now

    def _store(self, *states: Tensor) -> None:
        """Keep the states after a step, in the order of their names."""
        self._buffers.update(zip(self.states, states, strict=True))
        self._stored = _Stored(states, self.mem.requires_grad)

    @classmethod
    def reset_hidden(cls) -> None:
        """Zero the states of every neuron of this class, as those of snnTorch do.

        >>> from snu_snntorch import SNU
        >>> unit = SNU(init_hidden=True)
        >>> _ = unit(0.5 * torch.ones(1, 2))
        >>> SNU.reset_hidden()
        >>> unit.mem
        tensor([[0., 0.]])
        """
        for neuron in cls.instances:
            if isinstance(neuron, cls):
                neuron.reset_mem()

    @classmethod
    def detach_hidden(cls) -> None:
        """Cut the states of every neuron of this class from their gradients, likewise.

        >>> from snu_snntorch import SNU
        >>> unit = SNU(init_hidden=True)
        >>> _ = unit(torch.ones(1, 2, requires_grad=True))
        >>> SNU.detach_hidden()
        >>> unit.mem.requires_grad
        False
        """
        for neuron in cls.instances:
            if isinstance(neuron, cls):
                for state in neuron._read_states():
                    state.detach_()

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle states without their graph of gradients, which neither could take."""
        buffers = {k: None if b is None else b.detach() for k, b in self._buffers.items()}
        return {**vars(self), "_buffers": buffers, "_stored": None}


def reset(net: nn.Module) -> None:
    """Zero the states of every snnTorch neuron in ``net``, nested ones too, and of no other.

    Calls ``reset_mem()`` on each module of ``net`` that has it: on snnTorch's own neurons too.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net is {shown(net)}; it must be a torch module")
    for module in net.modules():
        zero = getattr(module, "reset_mem", None)
        if callable(zero):
            zero()


@partial(by_known_names, otherwise={"decay": "decay is beta here, as in snn.Leaky"}.get)
class Unit(snntorch.LIF):
    """What the neurons of this package share; use one of these.

    One that keeps states makes room for them in ``_init_mem``.
    """

    soft: ClassVar[bool] = False

    beta: Tensor
    threshold: Tensor
    foreign: bool
    """Whether the surrogate is one of snnTorch's or of the user's."""

    _init_mem: Callable[[], None]

    def __init__(
        self,
        beta: float | Tensor = 0.8,
        threshold: float | Tensor = 1.0,
        spike_grad: SpikeGrad | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "zero",
        state_quant: Callable[[Tensor], Tensor] | bool = False,
        output: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        learn_graded_spikes_factor: bool = False,
        reset_delay: bool = True,
        *,
        g: str = "identity",
        slope: float = 0.1,
        detach_reset: bool = False,
        lateral_inhibition: Inhibition | bool | None = None,
    ) -> None:
        if self.soft and (spike_grad is not None or surrogate_disable or inhibition):
            raise ValueError(
                f"{type(self).__name__} takes no spike_grad, surrogate_disable or inhibition: "
                "its output is a smooth number, not a spike"
            )
        self._reset_cases(reset_mechanism)
        if not reset_delay:
            raise ValueError(
                f"reset_delay is {reset_delay!r}; an SNU resets in the step after it fires: "
                "leave it True, snntorch's own neurons have the other"
            )
        if spike_grad is not None and not callable(spike_grad):
            raise TypeError(
                f"spike_grad is {spike_grad!r}; it must be a function of a tensor, such as "
                "snntorch.surrogate.atan() returns"
            )
        settings = SNUConfig(
            g=g,  # type: ignore[arg-type]  # SNUConfig checks the name
            slope=slope,
            soft=self.soft,
            lateral_inhibition=lateral_inhibition,
            learn_threshold=learn_threshold,
            learn_decay=learn_beta,
            detach_reset=detach_reset,
        )
        count = len(self.instances)
        try:
            snntorch.LIF.__init__(
                self,
                validated("beta", beta),
                validated("threshold", threshold),
                spike_grad=spike_grad or spike,
                surrogate_disable=surrogate_disable,
                init_hidden=init_hidden,
                inhibition=inhibition,
                learn_beta=learn_beta,
                learn_threshold=learn_threshold,
                reset_mechanism=reset_mechanism,
                state_quant=state_quant,
                output=output,
                graded_spikes_factor=validated("graded_spikes_factor", graded_spikes_factor),
                learn_graded_spikes_factor=learn_graded_spikes_factor,
            )
        except BaseException:
            del self.instances[count:]  # snnTorch lists a neuron before it is complete
            raise
        self.foreign = self.spike_grad is not spike and not surrogate_disable
        slope_of = torch.zeros_like if surrogate_disable else tanh_derivative
        surrogate = Slope(self.spike_grad) if self.foreign else slope_of
        self.settings = replace(settings, surrogate=surrogate)
        self.register_load_state_dict_pre_hook(_check_checkpoint)
        self._init_mem()

    @property
    def decay(self) -> Tensor:
        """``beta`` held inside [0, 1], inside [0, 1) where it is trained."""
        trained = self.settings.learn_decay or isinstance(self.beta, nn.Parameter)
        return hold_decay(self.beta) if trained else self.beta.clamp(0, 1)

    @property
    def config(self) -> SNUConfig:
        """The settings as the core has them; of a decay or threshold per neuron, the mean."""
        return replace(
            self.settings,
            decay=float(self.decay.detach().mean()),
            threshold=float(self.threshold.detach().mean()),
        )

    def _reset_cases(self, reset_mechanism: str) -> None:
        """Refuse what is not an SNU; snnTorch's base calls this at birth and on assignment."""
        if reset_mechanism != "zero":
            raise ValueError(
                f"reset_mechanism is {reset_mechanism!r}; an SNU resets to 'zero', "
                "snntorch.Leaky has the others"
            )

    def fire_output(self, mem: Tensor) -> Tensor:
        """Return the output y for a potential.

        >>> from snu_snntorch import SNU
        >>> SNU(threshold=1.0).fire_output(torch.tensor([[0.5, 1.5]]))
        tensor([[0., 1.]])
        """
        mem = wide(mem)
        if self.soft:
            return torch.sigmoid(mem - self.threshold)
        v = mem - self.threshold
        spikes: Tensor
        if self.inhibition:
            spikes = self.fire_inhibition(mem.size(0), mem)
        elif not self.foreign:
            spikes = self.spike_grad(v)
            return spikes
        elif torch._C._are_functorch_transforms_active():
            spikes = TransformedSpike.apply(v, self.spike_grad)
        else:
            spikes = self.spike_grad(v)
        return torch.where(v.isnan(), v, spikes)  # a comparison of snnTorch's makes NaN a 0

    def advance(self, drive: Tensor, mem: Tensor, y: Tensor) -> Tensor:
        """Return the next potential, ``g(drive + l s (1 - y))``; see ``snu_plugin.snu_step``.

        In float32 where a tensor has half precision.

        >>> from snu_snntorch import SNU
        >>> drive, mem, fired = torch.tensor([[0.3], [2.0], [0.0]])[:, None]
        >>> SNU(beta=0.5).advance(drive, mem, fired)
        tensor([[1.3000]])
        """
        rest = remaining(State(wide(mem), wide(y)), self.settings)
        s = activate(wide(drive) + self.decay * rest, self.settings)
        return self.state_quant(s) if self.state_quant else s

    def extra_repr(self) -> str:
        each = {k: "per neuron" for k in ("beta", "threshold") if getattr(self, k).numel() > 1}
        numbers = {"beta": self.config.decay, "threshold": self.config.threshold}
        shown = {name: f"{number:.7g}" for name, number in numbers.items()} | each
        return ", ".join(f"{k}={v}" for k, v in ({"g": self.settings.g} | shown).items())


def validated(name: str, value: float | Tensor) -> Tensor:
    """Return a setting as a floating-point tensor that the neuron alone owns."""
    if isinstance(value, str) or value is None:
        raise TypeError(f"{name} is {value!r}; it must be a number or a tensor")
    tensor = torch.as_tensor(value)
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    inside = ((tensor >= 0) & (tensor <= 1)) if name == "beta" else tensor.isfinite()
    if not bool(inside.all()):
        worst = tensor[~inside].flatten()[0].item() if tensor.dim() else tensor.item()
        accepted = "lie in [0, 1]" if name == "beta" else "be finite"
        raise ValueError(f"{name} is {worst:g}; it must {accepted}")
    return tensor.detach().clone()


OF_RLEAKY = (
    "an RLeaky's, which an RSNU equals only where that has reset_mechanism='zero' and "
    "reset_delay=False, which no checkpoint tells: if yours has, "
)
OTHERS = {
    "recurrent.bias": OF_RLEAKY + "add it to the bias of the layer before, and delete it here",
    "recurrent.V": OF_RLEAKY + "delete it here; V holds the same",
    "alpha": "a neuron's with a synaptic current, which an SNU has not",
}
"""Whose entries of a checkpoint an SNU has no place for, and what to do."""


def _check_checkpoint(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse a checkpoint of a neuron that computes something else, instead of ignoring what."""
    value = state.get(f"{prefix}reset_mechanism_val")
    if value is not None and int(value) != 1:
        names = {0: "subtract", 2: "none"}
        raise ValueError(
            f"{prefix or 'the checkpoint: '}reset_mechanism is "
            f"{names.get(int(value), int(value))!r}; {type(module).__name__} resets to 'zero' and "
            "computes something else with these values: to train on from them, leave out of the "
            "checkpoint all that ends in 'reset_mechanism_val' and load it with strict=False"
        )
    for name, whose in OTHERS.items():
        if prefix + name in state:
            raise ValueError(f"{prefix}{name} is {whose}")
