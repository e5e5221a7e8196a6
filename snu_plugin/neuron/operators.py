"""The torch side of the scans of units and NIR's neurons: operator, gradients and transforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.neuron.config import Inhibition, SNUConfig
from snu_plugin.neuron.euler import LINEAR, Euler, EulerState
from snu_plugin.neuron.precision import state_dtype
from snu_plugin.neuron.reference import State, remaining
from snu_plugin.neuron.surrogate import tanh_derivative

PLAIN = "Tensor x, Tensor? v, Tensor decay, Tensor? threshold, Tensor? reset"
RECURRENT = "Tensor x, Tensor weight, Tensor? v, Tensor? y_before, Tensor decay, Tensor? threshold"
SETTINGS = "float below, bool cut, bool soft, bool detach_reset"
Settings = tuple[float, bool, bool, bool]
"""How g and h are told to loops: g's slope below zero, 1 for the identity, and whether g is zero
there, whatever comes; whether h is soft, and whether gradients stop at the reset."""

CONSTANTS = "v", "decay", "threshold", "reset"
"""What broadcasts to a step of ``x``."""

EAGER = frozenset((Tensor, nn.Parameter, type(None)))
"""Types of tensors that no subclass watches over."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScanOperator:
    """A loop over time and a loop back as an operator of torch, registered at birth.

    The loop runs ``s = g(x + decay v)``, ``y = h(s - threshold)``, ``v = s (1 - y) + reset y``; a
    recurrent one has ``x + weight y'`` in place of ``x``. It takes the tensors of ``PLAIN`` or of
    ``RECURRENT``: ``x`` of shape ``(T, B, ..., features)`` with ``T >= 1``, constants that
    broadcast to ``x.shape[1:]``, weights ``(features, features)``, row = receiving unit, and
    ``y_before``, the outputs before the first step. Without ``v`` it starts at zero, without a
    threshold the output is ``s`` and nothing resets, without a reset it goes to zero; a reset is
    not trained. Call the object, not the loops: it finds the form that whoever sees the call needs.
    """

    name: str
    device: str | None
    """Type of the devices that it runs on; ``None``: no operator, it runs in eager torch only."""
    forward: Callable[..., tuple[Tensor, ...]]
    """Called with the tensors, ``Settings`` and whether to keep what the loop back starts from;
    returns all outputs, the last ``s`` and ``y``, and what is kept."""
    backward: Callable[..., tuple[Tensor, ...]]
    """Called with the gradients of outputs and of the last ``s``, what ``saved`` names, weights if
    recurrent, decay, threshold, reset if not recurrent, ``Settings``, whether the gradients of
    decay and threshold are asked for, and, unless they are the published ones, a function from the
    states of some steps to the slopes of h there; returns the gradients of x, and of decay and
    threshold in the form of ``repeated``, empty if not asked for."""
    kept: Mapping[str, Callable[[Tensor, bool], Tensor]]
    """What ``forward`` keeps: names, and an empty tensor of each for ``x`` and whether to keep."""
    saved: tuple[str, ...]
    """Names of inputs, of ``kept``, ``y`` for all outputs or ``soft_y``: ``None`` of hard units."""
    eagerly: Callable[..., tuple[Tensor, ...]] | None = None
    """``forward`` where eager torch alone sees the call, so that it may keep what it likes."""
    recurrent: bool = False
    wide: bool = False
    """Whether states are more precise than ``x`` may be. Then ``backward`` takes the gradient of
    the last ``y``, too, and returns that of the first step's drive besides."""
    _taken_back: Sequence[str] = field(init=False)  # names of the tensors that backward takes
    _places: Sequence[int] = field(init=False)  # of those saved among inputs, soft_y and outputs

    def __post_init__(self) -> None:
        inputs = RECURRENT if self.recurrent else PLAIN
        names = *inputs.replace("?", "").replace("Tensor ", "").split(", "), "soft_y", "y"
        names = *names, "s_last", "y_last", *self.kept
        ends = ("weight", "decay", "threshold") if self.recurrent else CONSTANTS[1:]
        saved = *self.saved, *ends
        object.__setattr__(self, "_places", [names.index(name) for name in saved])
        more = ("gs_last", "gy_last") if self.wide else ("gs_last",)
        object.__setattr__(self, "_taken_back", ("gy", *more, *saved))
        if self.device is None:
            return
        # Not ``torch.library.custom_op``: its first call imports torch's compiler, two seconds.
        name, back = f"snu_plugin::{self.name}", f"snu_plugin::{self.name}_backward"
        outputs = ", ".join(["Tensor"] * (3 + len(self.kept)))
        torch.library.define(name, f"({inputs}, {SETTINGS}, bool keep) -> ({outputs})")
        given = ", ".join(f"Tensor? {name}" for name in self._taken_back[1:])
        learn = "bool learn_decay, bool learn_threshold"
        grads = ", ".join(["Tensor"] * (4 if self.wide else 3))
        torch.library.define(back, f"(Tensor gy, {given}, {SETTINGS}, {learn}) -> ({grads})")
        torch.library.impl(name, self.device)(self.flat_forward)
        torch.library.impl(back, self.device)(self.flat_backward)
        torch.library.register_fake(name)(self._fake)
        torch.library.register_fake(back)(self._fake_backward)
        torch.library.register_autograd(name, self._backward, setup_context=self._setup)
        if not self.recurrent:
            torch.library.register_vmap(name, self.vmap)
            torch.library.register_vmap(back, self._vmap_backward)

    def __call__(self, config: SNUConfig, *tensors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs and the last ``s`` and ``y``; config supplies g, its slope, h, detach."""
        below = config.slope if config.g == "leaky_relu" else 1.0
        settings = below, config.g == "relu", config.soft, config.detach_reset
        needs_grad = torch.is_grad_enabled() and (
            any([t is not None and t.requires_grad for t in tensors])
            or torch._C._are_functorch_transforms_active()  # inside one no tensor knows
        )
        if not is_eager(*tensors):
            y, s, last, *_ = self.operator(*tensors, *settings, needs_grad)
        elif needs_grad:
            y, s, last, *_ = _Eager.apply(self, config, settings, *tensors)
        else:
            y, s, last, *_ = self.forward(*tensors, settings, False)
        return y, s, last

    def flat_forward(self, *arguments: Any) -> tuple[Tensor, ...]:
        """Run ``forward``, given settings one by one as operators are."""
        return self.forward(*arguments[:-5], arguments[-5:-1], arguments[-1])

    def flat_backward(self, *arguments: Any) -> tuple[Tensor, ...]:
        """Run ``backward`` likewise."""
        return self.backward(*arguments[:-6], arguments[-6:-2], *arguments[-2:])

    def operator(self, *arguments: Any) -> tuple[Tensor, ...]:
        """Run ``forward`` in the form for transforms of ``torch.func``, else for compilers."""
        if arguments[-1] and transformed():
            return _Transformed.apply(self, *arguments)  # type: ignore[no-any-return]  # torch's
        return getattr(torch.ops.snu_plugin, self.name)(*arguments)  # type: ignore[no-any-return]

    def save(
        self,
        ctx: Any,
        tensors: Sequence[Tensor | None],
        settings: Settings,
        output: Sequence[Tensor],
        cause: Tensor | None = None,
    ) -> None:
        """Save what ``gradients`` needs; ``cause`` is an input that leads to all of it."""
        ctx.settings, ctx.shape, ctx.dtype = settings, output[0].shape, output[0].dtype
        v = tensors[2 if self.recurrent else 1]
        ctx.v_shape = None if v is None else v.shape
        ctx.set_materialize_grads(False)
        known = *tensors, output[0] if settings[2] else None, *output
        besides = tensors[3] if self.recurrent else cause
        ctx.save_for_backward(*[known[n] for n in self._places], besides)

    def gradients(
        self,
        ctx: Any,
        needs: Sequence[bool],
        grads: Sequence[Tensor | None],
        config: SNUConfig = LINEAR,
    ) -> Sequence[Tensor | None]:
        """Return the gradients of all tensors that the operator takes."""
        if not torch.is_grad_enabled():
            return self._gradients(ctx, needs, config, *grads[:3])
        with torch.no_grad():
            found = self._gradients(ctx, needs, config, *grads[:3])
        return once_differentiable((*grads[:3], *ctx.saved_tensors), found)

    def _gradients(
        self,
        ctx: Any,
        needs: Sequence[bool],
        config: SNUConfig,
        gy: Tensor | None,
        gs_last: Tensor | None,
        gy_last: Tensor | None,
    ) -> Sequence[Tensor | None]:
        *saved, besides = ctx.saved_tensors
        if self.recurrent:
            decay, threshold = saved[-2:]
            needs_v, _, needs_decay, needs_threshold = needs[2:]
        else:
            decay, threshold, _ = saved[-3:]
            needs_v, needs_decay, needs_threshold = needs[1:4]
        gy = decay.new_zeros(ctx.shape, dtype=ctx.dtype) if gy is None else gy
        if self.wide:
            tensors = gy, gs_last, gy_last, *saved
        else:
            tensors = add_last_grad(gy, gy_last), gs_last, *saved
        published = threshold is None or config.soft or config.surrogate is tanh_derivative
        if self.device is None or not published:
            refuse_batched(gy, gs_last, gy_last)
            eager = True
        else:
            eager = is_eager(*tensors) and not batched(gy, gs_last, gy_last)
        learn = needs_decay, needs_threshold
        if eager:
            slopes = [] if published else [lambda states: config.surrogate(states - threshold)]
            found: Any = self.backward(*tensors, ctx.settings, *learn, *slopes)
        else:
            call = getattr(torch.ops.snu_plugin, f"{self.name}_backward")
            found = call(*tensors, *ctx.settings, *learn)
        gx, gl, gtheta = found[:3]
        gv = summed(decay * (found[3] if self.wide else gx[0]), ctx.v_shape) if needs_v else None
        gl = summed(gl, decay.shape) if needs_decay else None
        gtheta = summed(gtheta, threshold.shape) if needs_threshold else None
        if not self.recurrent:
            return gx, gv, gl, gtheta, None
        outputs, weight = saved[self.saved.index("y")], saved[-3]
        gh = recurrent_weight_grad(gx, outputs, besides) if needs[1] else None
        return gx, gh, gv, gx[0] @ weight.to(gx.dtype) if needs[3] else None, gl, gtheta

    def _setup(self, ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
        ctx.mark_non_differentiable(*output[3:])
        self.save(ctx, inputs[:-5], tuple(inputs[-5:-1]), output, inputs[0])

    def _backward(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return *self.gradients(ctx, ctx.needs_input_grad[:-5], grads), *(None,) * 5

    def _fake(self, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        last = (x.new_empty(x.shape[1:], dtype=state_dtype(x)) for _ in range(2))
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        return y, *last, *(kept(x, rest[-1]) for kept in self.kept.values())

    def _fake_backward(self, gy: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        given = dict(zip(self._taken_back[1:], rest, strict=False))
        asked = zip((given["decay"], given["threshold"]), rest[-2:], strict=True)
        gx = torch.empty_like(gy, memory_format=torch.contiguous_format)
        first = [gy.new_empty(gy.shape[1:], dtype=state_dtype(gy))] if self.wide else []
        return gx, *(fake_like(constant, gy, need) for constant, need in asked), *first

    def vmap(self, info: Any, dims: Sequence[int | None], *inputs: Any) -> tuple[Any, Any]:
        """Run it under ``torch.vmap``: with one more axis of the batch, behind time."""
        x, *constants = inputs[:-5]
        steps = x.dim() - 1 - (dims[0] is not None)
        rows = (_ahead(t, d, steps) for t, d in zip(constants, dims[1:], strict=False))
        found = self.operator(_at(x, dims[0], 1, info.batch_size), *rows, *inputs[-5:])
        return found, (1, 0, 0, *(1 for _ in self.kept))

    def _vmap_backward(
        self, info: Any, dims: Sequence[int | None], *inputs: Any
    ) -> tuple[Any, Any]:
        size, given = info.batch_size, list(inputs)
        steps = given[0].dim() - 1 - (dims[0] is not None)
        for n, name in enumerate(self._taken_back):
            if given[n] is None:
                continue
            if name in CONSTANTS:  # each element gets a gradient of its own
                given[n] = _ahead(_at(given[n], dims[n], 0, size), 0, steps)
            else:
                given[n] = _at(given[n], dims[n], 0 if name in ("gs_last", "gy_last") else 1, size)
        found = getattr(torch.ops.snu_plugin, f"{self.name}_backward")(*given)
        return found, (1, *(0 if asked else None for asked in inputs[-2:]), *(0 for _ in found[3:]))


class _Eager(torch.autograd.Function):
    """A scan with its gradients for eager torch, where an operator takes 0.05 ms more.

    What is kept is an output that nobody gets: through it a second derivative finds its way to the
    refusal from whatever the scan was given.
    """

    @staticmethod
    def forward(
        ctx: Any, scan: ScanOperator, config: SNUConfig, settings: Settings, *tensors: Any
    ) -> tuple[Tensor, ...]:
        output = (scan.eagerly or scan.forward)(*tensors, settings, True)
        ctx.scan, ctx.config = scan, config
        scan.save(ctx, tensors, settings, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return (
            None,
            None,
            None,
            *ctx.scan.gradients(ctx, ctx.needs_input_grad[3:], grads, ctx.config),
        )


class _Transformed(torch.autograd.Function):
    """The same in the form that ``torch.func`` asks for, which takes longer to call."""

    @staticmethod
    def forward(scan: ScanOperator, *arguments: Any) -> tuple[Tensor, ...]:
        return scan.flat_forward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
        ctx.scan = inputs[0]
        ctx.scan._setup(ctx, inputs[1:], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        found = ctx.scan.gradients(ctx, ctx.needs_input_grad[1:-5], grads)
        return None, *found, *(None,) * 5

    @staticmethod
    def vmap(
        info: Any, dims: Sequence[int | None], scan: ScanOperator, *inputs: Any
    ) -> tuple[Any, Any]:
        return scan.vmap(info, dims[1:], *inputs)


@dataclass(frozen=True, kw_only=True)
class Scans:
    """The operators of an engine, and the scans of units said in them."""

    plain: ScanOperator
    recurrent: ScanOperator
    inhibited: Mapping[Inhibition, ScanOperator] = field(default_factory=dict)
    """By what a unit's reset takes the largest output of; without recurrent weights."""

    def snu(
        self,
        x: Tensor,
        config: SNUConfig,
        *,
        decay: Tensor | None = None,
        threshold: Tensor | None = None,
        recurrent: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        """Run ``snu_plugin.snu_scan``; states of ``x`` in half precision are float32."""
        if decay is None:
            decay = x.new_full((), config.decay, dtype=state_dtype(x))
        if threshold is None:
            threshold = x.new_full((), config.threshold, dtype=state_dtype(x))
        v = None if state is None else remaining(state, config)
        if recurrent is not None:
            before = None if state is None else state.y
            y, *last = self.recurrent(config, x, recurrent, v, before, decay, threshold)
        else:
            inhibition = config.lateral_inhibition
            scan = self.inhibited[inhibition] if inhibition else self.plain  # type: ignore[index]  # no bool once checked
            y, *last = scan(config, x, v, decay, threshold, None)
        return y, State(*last)

    def euler(
        self, x: Tensor, neuron: Euler, state: EulerState | None = None
    ) -> tuple[Tensor, EulerState]:
        """Run ``snu_plugin.neuron.euler_scan``."""
        v, current = (neuron.start, None) if state is None else state
        i, i_last = x, None
        if any(term is not None for term in (neuron.synapse_decay, neuron.gain, neuron.offset)):
            i = x.to(state_dtype(x))
        if neuron.synapse_decay is not None:
            driven = i if neuron.synapse_gain is None else neuron.synapse_gain * i
            i, i_last, _ = self.plain(LINEAR, driven, current, neuron.synapse_decay, None, None)
        drive = i if neuron.gain is None else neuron.gain * i
        drive = drive if neuron.offset is None else drive + neuron.offset
        constants = neuron.decay, neuron.threshold, neuron.reset
        y, s, fired = self.plain(neuron.config, drive, v, *constants)
        y = y.to(x.dtype)
        if neuron.threshold is None:
            return y, EulerState(s, i_last)
        fired = fired.detach() if neuron.config.detach_reset else fired
        v = s * (1 - fired)
        return y, EulerState(v if neuron.reset is None else v + neuron.reset * fired, i_last)


def is_eager(*tensors: Tensor | None) -> bool:
    """Tell whether nothing but eager torch sees a call, which then needs no operator.

    Compilers, tracers, transforms, modes and subclasses of tensors have to see the operator.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
    ) and EAGER.issuperset(map(type, tensors))


def unfollowed(*tensors: Tensor | None) -> bool:
    """Tell whether a call is eager, and nobody follows the calls of functions of torch either.

    Who does is shown torch's own functions, not one of ours that does the work of several.
    """
    return is_eager(*tensors) and not torch._C._len_torch_function_stack()


def transformed() -> bool:
    """Tell whether a call is inside a transform of ``torch.func``."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def batched(*grads: Tensor | None) -> bool:
    """Tell whether gradients are many at once (``is_grads_batched``), as only operators take them.

    Where torch maps a backward pass so, nothing else of it shows.
    """
    return any(g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in grads)


def refuse_batched(*grads: Tensor | None) -> None:
    """Raise a ``RuntimeError`` where gradients for a backward pass of one are many at once."""
    if batched(*grads):
        raise RuntimeError(
            "this backward pass takes no batched gradients; impl='reference' takes them"
        )


def steps(tensor: Tensor) -> Tensor:
    """Return ``(T, B, ..., features)`` as ``(T, rows, features)``."""
    return tensor.flatten(1, -2) if tensor.dim() > 2 else tensor.unsqueeze(1)


def repeated(constant: Tensor | None, step: torch.Size) -> Tensor | None:
    """Return what broadcasts to a step as values that repeat over its columns, contiguous."""
    if constant is None:
        return None
    shape = constant.shape
    if constant.numel() == 1 or shape == step[len(step) - len(shape) :]:
        return constant.contiguous()
    return constant.expand(step).contiguous()


def whole(tensor: Tensor | None, step: torch.Size) -> Tensor | None:
    """Return what broadcasts to a step as a contiguous tensor of its shape, or ``None``."""
    if tensor is None:
        return None
    return (tensor if tensor.shape == step else tensor.expand(step)).contiguous()


def every_step(x: Tensor, keep: bool) -> Tensor:
    """Return an empty tensor for the states of all steps of ``x``, of none if not to be kept."""
    return x.new_empty((x.shape[0] if keep else 0, *x.shape[1:]), dtype=state_dtype(x))


def fake_like(constant: Tensor | None, x: Tensor, need: bool) -> Tensor:
    """Return an empty tensor like the gradient of a constant of a scan of ``x``."""
    found = repeated(constant, x.shape[1:]) if need else None
    return x.new_empty(0 if found is None else found.shape, dtype=state_dtype(x))


def summed(grad: Tensor, shape: torch.Size) -> Tensor:
    """Return a gradient summed to ``shape``; to ask whether it has it already takes no time."""
    return grad if grad.shape == shape else grad.sum_to_size(shape)


def add_last_grad(gy: Tensor, gy_last: Tensor | None) -> Tensor:
    """Return the gradient of all outputs from those of all and of the last."""
    if gy_last is None:
        return gy
    return torch.cat((gy[:-1], (gy[-1] + gy_last)[None].to(gy.dtype)))


def once_differentiable(
    causes: Sequence[Tensor | None], grads: Sequence[Tensor | None]
) -> Sequence[Tensor | None]:
    """Return gradients that refuse to be differentiated with respect to ``causes``."""
    return [None if grad is None else _Once.apply(grad, *causes) for grad in grads]


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, *causes: Tensor | None) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: object, output: object) -> None: ...

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError("the fused scan has no second derivative; impl='reference' has one")


def recurrent_weight_grad(gx: Tensor, outputs: Tensor, before: Tensor | None) -> Tensor:
    """Return the gradient of H: that of every drive with the output of the step before it."""
    features = gx.shape[-1]
    rows = gx[1:].reshape(-1, features), outputs[:-1].reshape(-1, features)
    if gx.is_cpu:  # said by name, as ``linear`` stands above this file
        found: Tensor = torch.ops.snu_plugin.spike_linear_weight_grad(*rows, False, False)
    else:
        found = rows[0].t() @ rows[1]
    if before is None or not len(gx):
        return found
    return found + gx[0].reshape(-1, features).t() @ before.to(gx.dtype).reshape(-1, features)


def _at(tensor: Tensor, dim: int | None, to: int, size: int) -> Tensor:
    """Return a tensor whose mapped axis is ``to``, repeated there if it has none."""
    if dim is not None:
        return tensor.movedim(dim, to)
    return tensor.unsqueeze(to).expand(*tensor.shape[:to], size, *tensor.shape[to:])


def _ahead(tensor: Tensor | None, dim: int | None, steps: int) -> Tensor | None:
    """Return what broadcasts to a step of ``steps`` axes with its mapped axis before these."""
    if tensor is None or dim is None:
        return tensor
    tensor = tensor.movedim(dim, 0)
    return tensor.reshape(len(tensor), *(1,) * (steps - tensor.dim() + 1), *tensor.shape[1:])
