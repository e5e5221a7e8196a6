"""The front door to whole sequences of Spiking Recurrent Cells."""

from __future__ import annotations

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.engine import Engine
from snu_plugin.neuron.observer import observer
from snu_plugin.neuron.operators import is_eager
from snu_plugin.neuron.precision import halves, in_float32
from snu_plugin.neuron.scan import broadcasts, check_sequence, choose, run_steps
from snu_plugin.neuron.src import SRCConfig, SRCState, src_step


def src_scan(
    x: Tensor,
    config: SRCConfig | None = None,
    *,
    bias: Tensor | None = None,
    state: SRCState | None = None,
    impl: str | None = None,
) -> tuple[Tensor, SRCState]:
    """Run ``src_step`` over the first axis of ``x``, ``(T, B, ..., features)``.

    Where ``x`` is float16 or bfloat16 outputs are too, and all else is float32.

    Args:
        x: Weighted inputs, floating point.
        config: Settings; ``None`` is ``SRCConfig()``.
        bias: Biases that replace ``config.bias``; must broadcast to ``x.shape[1:]``.
        state: State to start from; ``None`` is zero.
        impl: ``numba`` (fused, on processors) or ``reference``; ``None`` takes the former where it
            can run. They differ by rounding.

    Returns:
        Outputs ``(T, B, ..., features)`` and the state after the last step.

    Raises:
        ValueError: If ``x`` has fewer than two axes, ``bias`` or ``state`` another shape, or a
            named ``impl`` cannot run this call.
        TypeError: If ``x`` is not floating point.
        LookupError: For an unknown ``impl``.
    """
    config = config or SRCConfig()
    if (watching := observer()) is not None:
        watching.refuse("a layer of SRC")
    if halves(x, bias, *(state or ())):
        return in_float32(src_scan, x, config, bias=bias, state=state, impl=impl)
    bias, last = _src_checked(x, config, bias, state)
    compiling = torch.compiler.is_compiling()
    engine = choose(impl, compiling, lambda one: _src_refusal(one, x, bias, last), ("numba",))
    if engine is not None and engine.src is not None and x.shape[0]:
        return engine.src(x, config, bias, last)
    return run_steps(lambda x_t, last: src_step(x_t, last, config, bias=bias), x, last)


def _src_refusal(engine: Engine, x: Tensor, bias: Tensor, state: SRCState) -> str:
    if torch.compiler.is_compiling():
        return "torch.compile sees the reference"
    if not is_eager(x, bias, *state):
        return "a tracer or transform of torch's sees the call"
    return engine.refusal(x, SNUConfig(), None, (bias, *state))


def _src_checked(
    x: Tensor, config: SRCConfig, bias: Tensor | None, state: SRCState | None
) -> tuple[Tensor, SRCState]:
    """Return bias and state with nothing left out, of shapes that fit ``x``."""
    check_sequence(x)
    step = x.shape[1:]
    if bias is not None and not broadcasts(bias.shape, step):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it must broadcast to {tuple(step)}")
    if state is not None and any(part.shape != step for part in state):
        shapes = [tuple(part.shape) for part in state]
        raise ValueError(f"state has shapes {shapes}; all must be {tuple(step)}")
    if state is None:
        zero = x.new_zeros(step)
        state = SRCState(zero, zero, zero)
    return x.new_tensor(config.bias) if bias is None else bias, state
