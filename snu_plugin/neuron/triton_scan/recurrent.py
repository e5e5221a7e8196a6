"""The scan of recurrent units on GPUs: a product and one step of a kernel at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.operators import whole
from snu_plugin.neuron.precision import carried
from snu_plugin.neuron.recurrent import Recurrent, steps
from snu_plugin.neuron.triton_scan.operator import Loop


def recurrent_scan(
    x: Tensor,
    weight: Tensor,
    v: Tensor | None,
    y: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    below: float,
    cut: bool,
    soft: bool,
    detach_reset: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return outputs, the last ``s`` and ``y``, and if ``keep`` all states and the first ``v``.

    ``v`` is the potential before a step. The product is one of the precision of ``x``.
    """
    step, kind = x.shape[1:], carried(x)
    outputs = torch.empty_like(x, memory_format=torch.contiguous_format)
    s_last, y_last = (x.new_empty(step, dtype=kind) for _ in range(2))
    s, first = (x.new_empty((n if keep else 0, *step), dtype=kind) for n in (len(x), 1))
    potential = x.new_zeros(step, dtype=kind)
    if v is not None:
        potential.copy_(v)
    first.copy_(potential)
    forward = Loop("forward", s_last, (decay, threshold, None), below, cut, soft)
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
    below: float,
    cut: bool,
    soft: bool,
    detach_reset: bool,
    learn_decay: bool,
    learn_threshold: bool,
    slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, decay and threshold, the last two empty if not asked for.

    They have the shape of ``repeated``. ``slopes`` are those of h in all steps, ``None`` for the
    published ones.
    """
    s, ga = s.contiguous(), torch.empty_like(first[0])
    gx = torch.empty_like(outputs, memory_format=torch.contiguous_format)
    slopes = None if slopes is None else slopes.expand_as(s).contiguous()
    backward = Loop("backward", ga, (decay, threshold, None), below, cut, soft)
    sums = backward.sums(learn_decay, learn_threshold)
    given, found = steps(gy), steps(gx)
    receivers, gs = weight.to(gx.dtype), whole(gs_last, s.shape[1:])
    for t in range(len(s) - 1, -1, -1):
        after = t + 1 < len(s)
        received = torch.addmm(given[t], found[t + 1], receivers) if after else given[t]
        kept = s[t], None if slopes is None else slopes[t], None if t else first[0]
        backward(
            received.contiguous(), None if after else gs, None, *kept, *backward.constants,
            gx[t], ga, *sums, steps=1, DETACHED=detach_reset, ON=after,
        )  # fmt: skip
    gl, gtheta = backward.totals(sums)
    return gx, gl, gtheta


def _states(s: Tensor, first: Tensor, decay: Tensor, config: SNUConfig) -> Tensor:
    return s


SCAN = Recurrent(
    "triton_recurrent_scan", "cuda", recurrent_scan, recurrent_scan_backward, _states, every=False
)
