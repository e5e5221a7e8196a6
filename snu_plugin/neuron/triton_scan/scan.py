"""The engine on GPUs: what it can run, its loops as functions of tensors, and their operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.engine import Engine
from snu_plugin.neuron.operators import (
    ScanOperator,
    Scans,
    Settings,
    every_step,
    is_eager,
    repeated,
    steps,
    summed,
    transformed,
    whole,
)
from snu_plugin.neuron.precision import HALF, state_dtype
from snu_plugin.neuron.surrogate import tanh_derivative

OLDEST = 7
"""Compute capability of the oldest GPUs that torch's compiler, too, gives kernels of Triton."""

BLOCK = 128
"""Neurons of one program: two warps, two neurons a thread, so that one load moves 4 bytes of
half precision, the least that can be fetched ahead."""

AHEAD = 4
"""Steps whose loads are in flight while one is computed."""

LAUNCH = {"BLOCK": BLOCK, "AHEAD": AHEAD, "num_warps": 2, "enable_fp_fusion": False}


class Loop:
    """A kernel of ``triton_scan.kernels`` for one layer, ready to run over some steps."""

    def __init__(
        self,
        kernel: str,
        like: Tensor,
        constants: Sequence[Tensor | None],
        settings: Settings,
    ) -> None:
        """Take decay, threshold and reset of a layer; ``like`` is like one of its states."""
        self._kernel, self._like = kernel, like
        self.constants = [repeated(constant, like.shape) for constant in constants]
        self._periods = [1 if row is None else row.numel() for row in self.constants]
        below, cut, soft, _ = settings
        self._unit: dict[str, Any] = {"BELOW": below, "CUT": cut, "SOFT": soft, **LAUNCH}

    def __call__(self, *arguments: Tensor | None, steps: int, **settings: bool) -> None:
        """Start one program for every ``BLOCK`` neurons, on the device of the layer."""
        columns = self._like.numel()
        if columns:
            numbers = steps, columns, *self._periods
            with torch.cuda.device_of(self._like):  # type: ignore[no-untyped-call]
                kernel = getattr(_kernels(), self._kernel)[(-(-columns // BLOCK),)]
                kernel(*arguments, *numbers, **self._unit, **settings)

    def sums(self, *learn: bool) -> list[Tensor | None]:
        """Return where the kernel writes the gradients of decay and threshold, of every column."""
        return [torch.empty_like(self._like) if need else None for need in learn]

    def totals(self, sums: Sequence[Tensor | None]) -> list[Tensor]:
        """Return these gradients in the form of ``repeated``."""
        return [
            self._like.new_empty(0) if grad is None or row is None else summed(grad, row.shape)
            for grad, row in zip(sums, self.constants[:2], strict=True)
        ]


def _kernels() -> Any:
    from snu_plugin.neuron.triton_scan import kernels

    return kernels


def scan(
    x: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    settings: Settings,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return outputs, the last ``s`` and ``y``, and the states of all steps if ``keep``."""
    step = x.shape[1:]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    s_last, y_last = (x.new_empty(step, dtype=state_dtype(x)) for _ in range(2))
    s = every_step(x, keep)
    forward = Loop("forward", s_last, (decay, threshold, reset), settings)
    given = x.contiguous(), whole(v, step), *forward.constants
    forward(*given, y, s if keep else None, s_last, y_last, None, steps=len(x))
    return y, s_last, y_last, s


def scan_backward(
    gy: Tensor,
    gs_last: Tensor | None,
    gy_last: Tensor | None,
    s: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    settings: Settings,
    learn_decay: bool,
    learn_threshold: bool,
    slopes: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, of decay, of threshold and of the first step's drive.

    That of the drive is that of ``x[0]`` in the precision of the states.
    """
    step, gy, s = s.shape[1:], gy.contiguous(), s.contiguous()
    gx, ga = torch.empty_like(gy, memory_format=torch.contiguous_format), s.new_empty(step)
    slope = None if slopes is None else slopes(s).expand_as(s).contiguous()[-1]
    backward = Loop("backward", ga, (decay, threshold, reset), settings)
    sums = backward.sums(learn_decay, learn_threshold)
    ends = (whole(t, step) for t in (gs_last, gy_last))
    given = gy[-1], *ends, s[-1], slope, whole(v, step), *backward.constants
    unit = {"DETACHED": settings[3], "ON": False}
    backward(*given, gx[-1], ga, *sums, steps=len(s), **unit)
    gl, gtheta = backward.totals(sums)
    return gx, gl, gtheta, ga


def recurrent_scan(
    x: Tensor,
    weight: Tensor,
    v: Tensor | None,
    y: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    settings: Settings,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return outputs, the last ``s`` and ``y``, and if ``keep`` all states and the first ``v``.

    ``v`` is the potential before a step. The product is one of the precision of ``x``.
    """
    step, kind = x.shape[1:], state_dtype(x)
    outputs = torch.empty_like(x, memory_format=torch.contiguous_format)
    s_last, y_last = (x.new_empty(step, dtype=kind) for _ in range(2))
    s, first = (x.new_empty((n if keep else 0, *step), dtype=kind) for n in (len(x), 1))
    potential = x.new_zeros(step, dtype=kind)
    if v is not None:
        potential.copy_(v)
    first.copy_(potential)
    forward = Loop("forward", s_last, (decay, threshold, None), settings)
    given, last, ends = steps(x), steps(outputs), (s_last, y_last, potential)
    senders = weight.to(x.dtype).t()
    before = None if y is None else y.to(x.dtype).reshape(last.shape[1:])
    for t in range(len(x)):
        drive = given[t] if before is None else torch.addmm(given[t], before, senders)
        given_now = drive.contiguous(), potential, *forward.constants
        forward(*given_now, last[t], s[t] if keep else None, *ends, steps=1)
        before = last[t]
    return outputs, s_last, y_last, s, first


def recurrent_scan_backward(
    gy: Tensor,
    gs_last: Tensor | None,
    s: Tensor,
    outputs: Tensor,
    first: Tensor,
    weight: Tensor,
    decay: Tensor,
    threshold: Tensor | None,
    settings: Settings,
    learn_decay: bool,
    learn_threshold: bool,
    slopes: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, decay and threshold; see ``ScanOperator.backward``."""
    s, ga = s.contiguous(), torch.empty_like(first[0])
    gx = torch.empty_like(outputs, memory_format=torch.contiguous_format)
    slope = None if slopes is None else slopes(s).expand_as(s).contiguous()
    backward = Loop("backward", ga, (decay, threshold, None), settings)
    sums = backward.sums(learn_decay, learn_threshold)
    given, found = steps(gy), steps(gx)
    receivers, gs = weight.to(gx.dtype), whole(gs_last, s.shape[1:])
    for t in range(len(s) - 1, -1, -1):
        after = t + 1 < len(s)
        received = torch.addmm(given[t], found[t + 1], receivers) if after else given[t]
        kept = s[t], None if slope is None else slope[t], None if t else first[0]
        backward(
            received.contiguous(), None if after else gs, None, *kept, *backward.constants,
            gx[t], ga, *sums, steps=1, DETACHED=settings[3], ON=after,
        )  # fmt: skip
    gl, gtheta = backward.totals(sums)
    return gx, gl, gtheta


SCANS = Scans(
    plain=ScanOperator(
        name="triton_scan",
        device="cuda",
        wide=True,
        forward=scan,
        backward=scan_backward,
        kept={"s": every_step},
        saved=("s", "v"),
    ),
    recurrent=ScanOperator(
        name="triton_recurrent_scan",
        device="cuda",
        recurrent=True,
        forward=recurrent_scan,
        backward=recurrent_scan_backward,
        kept={"s": every_step, "first": lambda x, keep: every_step(x[:1], keep)},
        saved=("s", "y", "first"),
    ),
)


def missing() -> str:
    """Return why this machine cannot run the kernels, ``""`` where it can."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    try:
        _kernels()
    except ImportError as error:
        return f"{error.name or 'triton'} is not installed"
    return ""


def refusal(
    x: Tensor, config: SNUConfig, recurrent: Tensor | None, others: Sequence[Tensor | None]
) -> str:
    """Return why these arguments of ``snu_scan`` cannot run fused, ``""`` where they can."""
    if recurrent is not None and transformed():
        return "recurrent weights are not fused inside the transforms of torch.func"
    if config.lateral_inhibition:
        return "lateral inhibition is not fused"
    if x.device.type != "cuda":
        return f"x is on {x.device}, it must be on a cuda device"
    major = torch.cuda.get_device_properties(x.device).major
    if major < OLDEST:
        return f"{x.device} has compute capability {major}, Triton needs {OLDEST} or higher"
    if x.dtype not in (*HALF, torch.float32, torch.float64):
        return f"x has dtype {x.dtype}, it must be float16, bfloat16, float32 or float64"
    for tensor in (t for t in (recurrent, *others) if t is not None):
        if tensor.device != x.device:
            return f"x is on {x.device} and another tensor on {tensor.device}, all must share one"
        if tensor.dtype not in (x.dtype, state_dtype(x)):
            return (
                f"x has dtype {x.dtype} and another tensor {tensor.dtype}, "
                f"it must have the same or {state_dtype(x)}"
            )
    if not (config.soft or config.surrogate is tanh_derivative or is_eager(x, recurrent, *others)):
        return "a surrogate other than tanh_derivative is fused in eager torch only"
    return ""


ENGINE = Engine(
    name="triton",
    missing=missing,
    refusal=refusal,
    snu=SCANS.snu,
    euler=SCANS.euler,
)
