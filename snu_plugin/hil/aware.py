"""Training that meets the chip before a weight is written: ``hardware_aware``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from snu_plugin.accelerator import (
    Chip,
    Convolution,
    Geometry,
    Magnitudes,
    Scaling,
    range_of,
)
from snu_plugin.accepted import LEVEL, UNIT, with_known_names
from snu_plugin.hil.forward import with_value
from snu_plugin.hil.matrices import Matrix, Noise, Settings, draw, matrices_of
from snu_plugin.hil.products import (
    CONVOLUTIONS,
    among_processes,
    convolution,
    convolution_call,
    linear_call,
    multiply,
)
from snu_plugin.neuron import Engine, SNUConfig, State, observed, snu_scan


class HardwareAware(TorchFunctionMode):
    """What ``hardware_aware`` gives: the noise, its schedule, and the weights as drawn."""

    def __init__(self, net: nn.Module, settings: Settings) -> None:
        super().__init__()
        # The same names, and so the same draws, whoever is around the network.
        apart = nn.parallel.DistributedDataParallel
        while isinstance(net, apart) or "_orig_mod" in net._modules:
            net = net.module if isinstance(net, apart) else net.get_submodule("_orig_mod")
        self.net, self.settings = net, settings
        self.progress = 0.0
        """How far training has come, 0 to 1."""
        self.draws = 0
        """How often the chip was written."""
        self._forwards = 0
        self._watching = False
        self._matrices = {id(m.parameter): m for m in matrices_of(net, settings)}
        self._masked: Any = WeakIdKeyDictionary()

    @property
    def noise(self) -> float:
        """The factor on the chip's noise now: 1 is the chip's own, 0 leaves it out."""
        noise = self.settings.noise
        value = noise(self.progress) if callable(noise) else noise
        LEVEL.check(f"noise at progress {self.progress}", value)
        return float(value)

    def step(self, progress: float) -> None:
        """Say how far training has come, 0 to 1; the next draw takes the noise of this moment.

        Raises:
            ValueError: For a progress outside [0, 1].
        """
        UNIT.check("progress, a share of the training,", progress)
        self.progress = progress

    def weights(self) -> dict[str, Tensor]:
        """Return what the devices hold, by parameter, in its shape; read noise included."""
        return {m.name: self._held(m).clone() for m in self._matrices.values()}

    @torch.no_grad()
    def redraw(self) -> None:
        """Write the weights as they are now onto a chip with another seed."""
        with torch._C.DisableTorchFunction():  # nothing in here is the network's
            self._draw(self.settings.chip)

    def go_on_from(self, draws: int) -> None:
        """Say how often the chip was written before, so that a training taken up draws the same."""
        self.draws = draws

    @torch.no_grad()
    def set_ranges(self, run: Callable[[], Any]) -> None:
        """Set the ranges of the converters by a sample, as ``compile(..., sample=x)`` does.

        They hold from the next draw on; set them again as the weights change. The network runs
        with exact weights and in ``eval()``; what each matrix is driven by goes besides through a
        chip whose converters have no end.

        Args:
            run: Runs the network on the sample, such as ``lambda: net(x)``.
        """
        draws = self.draws
        self._look(run, ranged=False)
        bounds = (m.range.dac_bound for m in self._matrices.values() if m.range is not None)
        if any(bound != self.settings.chip.dac_bound for bound in bounds):
            # What noise and wires do to sums depends on the input that is a full pulse.
            self.draws = draws
            self._look(run, ranged=True)

    def _look(self, run: Callable[[], Any], *, ranged: bool) -> None:
        """Set ranges by what converters without an end meet.

        ``ranged``: where the inputs that are full pulses are those of the ranges set before.
        """
        chip = self.settings.chip
        endless = replace(chip, dac_bits=None, adc_bits=None, bound_management=False)
        with torch._C.DisableTorchFunction():
            self._draw(endless, ranged=ranged)
        met = {id(m): (Magnitudes(), Magnitudes()) for m in self._matrices.values()}
        for m in self._matrices.values():
            if m.crossbar is not None:
                inputs_met, sums_met = met[id(m)]
                m.crossbar.watch = inputs_met.add, sums_met.add
        modes = [(module, module.training) for module in self.net.modules()]
        self.net.eval()
        self._watching = True
        try:
            run()
        finally:
            self._watching = False
            for module, training in modes:
                module.training = training
            for m in self._matrices.values():
                if m.crossbar is not None:
                    m.range = range_of(replace(m.crossbar.op, chip=chip), *met[id(m)])
                m.crossbar = None  # drawn anew when next a product is asked for

    def _draw(self, chip: Chip, *, ranged: bool = True) -> None:
        asked = self.settings
        if asked.store_limit:
            self.store()
        seed = asked.seed
        if self.draws:  # the first chip is the one that Accelerator(program, seed) makes
            seed = int(np.random.SeedSequence([seed, self.draws]).generate_state(1)[0])
        draw(
            list(self._matrices.values()),
            chip,
            asked,
            noise=self.noise,
            seed=seed,
            ranged=ranged,
        )
        self.draws += 1

    @torch.no_grad()
    def store(self) -> None:
        """Clip the weights themselves to ``limit``, as they are seen clipped."""
        if (limit := self.settings.limit) is not None:
            for m in self._matrices.values():
                m.parameter.clamp_(-limit, limit)

    def before_forward(self, module: nn.Module, inputs: Any) -> None:
        """Draw anew if the network begins a forward pass whose turn it is."""
        if module is self.net and self._acts() and not self._watching:
            if self._forwards % self.settings.every == 0:
                self.redraw()
            if self._forwards == 1 and (
                left := [m.name for m in self._matrices.values() if not m.met]
            ):
                warnings.warn(
                    f"{', '.join(left)}: in the first forward pass no product with it was seen, so "
                    "it was trained without noise; call it through torch.nn.functional.linear, "
                    "conv1d or conv2d",
                    stacklevel=2,
                )
            self._forwards += 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Send products with weights of the network to the chip; all else runs as it is."""
        kwargs = kwargs or {}
        if func is torch.Tensor.masked_fill and id(args[0]) in self._matrices:
            masked = func(*args, **kwargs)
            self._masked[masked] = self._matrices[id(args[0])]
            return masked
        if func is F.linear:
            x, weight, bias = linear_call(*args, **kwargs)
            matrix = self._of(weight)
            if matrix is not None and self._acts():
                return self._product(matrix, x, weight, bias, Geometry(shape=tuple(weight.shape)))
        elif func in CONVOLUTIONS:
            x, weight, bias, *settings = convolution_call(*args, **kwargs)
            matrix = self._of(weight)
            if matrix is not None and self._acts():
                geometry = convolution(CONVOLUTIONS[func], x, weight, *settings)
                return self._product(matrix, x, weight, bias, geometry)
        return func(*args, **kwargs)

    def snu(
        self,
        x: Tensor,
        config: SNUConfig,
        *,
        recurrent: Tensor | None,
        impl: str | Engine | None,
        **how: Any,
    ) -> tuple[Tensor, State]:
        """Run a scan; where its recurrent weights lie on devices, step by step."""
        if recurrent is not None and self.dense(recurrent):
            impl = "reference"
        with observed(None):
            return snu_scan(x, config, recurrent=recurrent, impl=impl, **how)

    def dense(self, weight: Tensor) -> bool:
        """Return whether a product with this weight is another one on the chip."""
        matrix = self._of(weight)
        if matrix is None or not self._acts():
            return False
        matrix.met = True
        self._held(matrix)  # drawn by now
        return matrix.held is not None or matrix.crossbar is None or matrix.crossbar.exact is None

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        """Nothing is to be noted: the weight is none of ours."""

    def refuse(self, what: str) -> None:
        """Nothing is refused: such layers hold no devices."""

    def _of(self, weight: Any) -> Matrix | None:
        found = self._matrices.get(id(weight))
        if found is None and isinstance(weight, Tensor):
            found = self._masked.get(weight)
        return found

    def _acts(self) -> bool:
        return self.net.training or self.settings.in_eval or self._watching

    def _held(self, m: Matrix) -> Tensor:
        if m.crossbar is None:  # by a layer called before the network itself
            self.redraw()
        return m.parameter.detach() if m.held is None else m.held

    def _product(
        self, m: Matrix, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        """Return the product as the chip gives it; its gradient is that of the weights it holds."""
        m.met = True
        held = self._held(m)
        array = m.crossbar
        assert array is not None
        seen = weight if m.held is None else with_value(weight, held.to(weight))
        if array.exact is not None and not self._watching:
            return multiply(geometry, x, seen, bias)
        twin = multiply(geometry, x, seen, None)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            signal = x.detach().float().cpu()
            trailing = 1 if not isinstance(geometry, Convolution) else 1 + len(geometry.output)
            lead = signal.dim() - trailing
            # Steps, sequences, and what else is multiplied by the same weights.
            if lead < 2:
                signal = signal.reshape(1, -1, *signal.shape[lead:])
            signal, own = among_processes(signal)
            shape = signal.shape
            signal = signal.reshape(shape[0], -1, *shape[signal.dim() - trailing :])
            chip = replace(array, op=replace(array.op, geometry=geometry), bias=None)
            y, _ = chip(signal)
            if self._watching:
                return multiply(geometry, x, weight, bias)
            y = y.reshape(shape[0], shape[1], -1)[:, own].reshape(twin.shape)
        y = with_value(twin, y.to(twin))
        return y if bias is None else y + geometry.columns(bias.to(y.dtype))


@with_known_names
@contextmanager
def hardware_aware(
    net: nn.Module,
    chip: Chip,
    scaling: Scaling = "column",
    *,
    noise: Noise = 1.0,
    every: int = 1,
    seed: int = 0,
    age_s: float = 0.0,
    limit: float | None = None,
    store_limit: bool = False,
    in_eval: bool = False,
) -> Iterator[HardwareAware]:
    """Train a network as the chip will run it, in the training loop of the user.

    Inside the block every product of a forward pass with a weight of ``Linear``, ``Conv1d``,
    ``Conv2d`` or of a recurrent neuron is that of a modelled chip: the weights are those of a chip
    that was just written, with its programming and read noise, and what lies between product and
    host is in it: converters, IR drop, output noise, tiles. The gradient passes all of it straight
    through, to the weights as they are and, by the weights that the devices hold, to the inputs.
    Nothing about the network changes: not its classes, hooks, parameters or ``state_dict``; after
    the block, also by an exception, it computes what it is. What ``torch.compile`` compiled runs
    uncompiled inside, since draws would be baked into its graph; torch may warn of a global hook,
    which is ours and goes with the block.

    A bias stays digital and exact. BatchNorm acts on outputs: with ``scaling="column"`` this is
    what folding its factors into the weights gives. Chips are computed on the processor, in
    float32; the network may lie elsewhere. Under ``torch.distributed`` every process draws the same
    chip, and noise on outputs is that of one process with the whole batch, if process r holds
    its r-th part and all parts are equal.

    Args:
        net: The network, or ``DistributedDataParallel`` around it.
        chip: The chip; ``IDEAL`` changes nothing, to the last bit.
        scaling: As in ``compile``.
        noise: Factor on programming, read and output noise: a number, or a function of the progress
            that ``step`` is told.
        every: The chip is written anew before every so many forward passes of ``net``. Where the
            loop calls ``net`` once a time step, give their number.
        seed: Of all draws; the first chip is that of ``Accelerator(program, seed)``, if its nodes
            have the names of the parameters.
        age_s: Seconds that pass between writing and use; then the gains are calibrated.
        limit: Magnitude to which weights are clipped before they are written. The parameters keep
            theirs, as does the gradient.
        store_limit: Clip the parameters too, at every draw and at the end of the block.
        in_eval: Show the chip in ``eval()`` too; else a network in ``eval()`` is the exact one.

    Yields:
        A ``HardwareAware``: ``step(progress)``, ``set_ranges(run)``, ``redraw()``, ``weights()``.

    Raises:
        CannotMap: With every reason why the chip cannot hold the network's weights.
        TypeError: If ``net`` is no module or ``chip`` no chip.
        ValueError: For arguments out of range, and for BatchNorm with another scaling than
            ``column``.
        RuntimeError: Inside another such block.

    Warns:
        UserWarning: Of a weight that took part in no product of the first pass.

    Source:
        Joshi et al., Nat. Commun. 11:2473, 2020; Rasch et al., Nat. Commun. 14:5282, 2023.

    >>> from snu_plugin.accelerator import PCM
    >>> net = nn.Linear(2, 1)
    >>> with hardware_aware(net, PCM):
    ...     net(torch.ones(1, 2)).sum().backward()
    """
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"net is {type(net).__name__}; give the torch.nn.Module that holds the weights"
        )
    settings = Settings(
        chip=chip,
        scaling=scaling,
        noise=noise,
        every=every,
        seed=seed,
        age_s=age_s,
        limit=limit,
        store_limit=store_limit,
        in_eval=in_eval,
    )
    if any(
        isinstance(m, HardwareAware)
        for m in torch.overrides._get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    ):
        raise RuntimeError("hardware_aware is at work already; leave its block before another")
    aware = HardwareAware(net, settings)
    _ = aware.noise  # refused before anything begins
    # A hook of all modules: one of the network's own would be copied with it.
    handle = register_module_forward_pre_hook(aware.before_forward)
    try:
        with torch.compiler.set_stance("force_eager"), aware, observed(aware):
            yield aware
    finally:
        handle.remove()
        if store_limit:
            aware.store()
