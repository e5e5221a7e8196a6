"""What becomes of networks that leave: entries of tables, and random ones through a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import nir
import torch
from torch import Tensor

from snu_plugin import graph
from snu_plugin.graph.layers import detached_copy
from snu_plugin.testing.random_networks import RandomNetwork, Runner

CLOSE = 1e-5
"""What values that are no spikes may differ by, as a share of the largest."""


Export = Callable[[Tensor], nir.NIRGraph]
Case = tuple[str, str, Callable[[Tensor], Tensor], Export, float | None]
"""Of the table of conformance: exporter, kind of neuron, own run, export, and dt where the graph
declares none."""
Entry = tuple[str, str, tuple[int, ...], Callable[[Tensor], Tensor] | None, Export | None]
"""Of the table of what leaves: class, settings, inputs, own run and export; where these are
``None`` the settings say why."""


def entry(
    kind: str,
    settings: str,
    run: Callable[[Tensor], Any],
    export: Export,
    sequence: bool,
    maps: bool,
) -> Entry:
    """Return an entry of the table of what leaves.

    Args:
        kind: Name of the class.
        settings: In words.
        run: What the host gives for spikes ``(T, B, *inputs)``.
        export: Returns the graph for such spikes, or one step of them.
        sequence: Whether it takes sequences.
        maps: Whether it takes maps, and not features.
    """
    inputs = (2, 3, 3) if maps else (8,)
    return kind, settings, inputs, torch.no_grad()(run), lambda x: export(x if sequence else x[0])


class Verdict(NamedTuple):
    """What became of a network that left."""

    status: str
    """``equal``; ``rounding``: differs once, by a rounding; ``refused``, on export; ``refused by
    NAME``; ``different`` or ``crash``."""
    message: str = ""
    """What was said, or where they differ."""
    fired: bool = False
    """Whether an output is neither all zero nor the same throughout."""


def exchanged(
    found: RandomNetwork, adapter: ModuleType, runners: Mapping[str, Runner], check: bool = True
) -> Verdict:
    """Send a network through a file, and say whether everyone gives what it gives.

    Args:
        found: The network.
        adapter: Exports it.
        runners: Who runs the file beside the strict reference, by name; all must give its bits.
        check: As of ``to_nir``.
    """
    x = found.inputs[0]
    try:
        made = adapter.to_nir(found.model, x if found.whole else x[0], dt=found.dt, check=check)
    except (TypeError, ValueError) as error:
        return Verdict("crash" if "\n" in str(error) else "refused", _said(error))
    except Exception as error:  # whatever it is: that is what is looked for
        return Verdict("crash", _said(error))
    try:
        with tempfile.TemporaryDirectory() as folder:
            graph.write(Path(folder) / "network.nir", made)
            read = graph.read(Path(folder) / "network.nir")
        return _compared(found, read, runners)
    except Exception as error:
        return Verdict("crash", _said(error))


@torch.no_grad()
def _compared(found: RandomNetwork, read: nir.NIRGraph, runners: Mapping[str, Runner]) -> Verdict:
    x = found.inputs[0]
    fired, told = _against_own(found, read, x)
    if told:
        again = [_against_own(found, read, other)[1] for other in found.inputs[1:]]
        rounding = not found.fractions and not any(again)
        return Verdict("rounding" if rounding else "different", told, fired)
    reference = side_by_side(graph.network(read)(x.float())[0])
    for name, run in runners.items():
        try:
            y = run(read, x.float())
        except ValueError as error:
            return Verdict(f"refused by {name}", _said(error), fired)
        if y.shape != reference.shape:
            return Verdict("different", f"{name}: {y.shape}, not {reference.shape}", fired)
        if told := _difference(reference, y):
            return Verdict("different", f"{name} and the reference: {told}", fired)
    return Verdict("equal", "", fired)


def _against_own(found: RandomNetwork, read: nir.NIRGraph, x: Tensor) -> tuple[bool, str]:
    """Return whether the network's outputs change, and where those of its graph differ."""
    own = found.run(detached_copy(found.model), x)
    given = _outputs(graph.network(read, dtype=x.dtype)(x)[0])
    fired = any(bool((y != y.flatten()[0]).any()) for y in own)
    if [y.shape for y in own] != [y.shape for y in given]:
        return fired, f"{[y.shape for y in given]} instead of {[y.shape for y in own]}"
    for i, (ours, theirs) in enumerate(zip(own, given, strict=True)):
        if told := _difference(ours, theirs):
            return fired, f"the reference, output {i}: {told}"
    return fired, ""


def _difference(ours: Tensor, theirs: Tensor) -> str:
    """Return where two outputs differ; nowhere where they are close."""
    wrong = ~((ours - theirs).abs() <= CLOSE * ours.abs().max())
    if not wrong.any():
        return ""
    step = int(wrong.flatten(1).any(1).int().argmax())
    return f"{float(wrong.double().mean()):.2%} of it from step {step} on"


def _outputs(y: Any) -> list[Tensor]:
    return [y[name] for name in sorted(y)] if isinstance(y, dict) else [y]


def side_by_side(y: Any) -> Tensor:
    """Return one output ``(T, B, ...)`` as it is, several, by name, flat beside one another."""
    outputs = _outputs(y)
    return outputs[0] if len(outputs) == 1 else torch.cat([y.flatten(2) for y in outputs], -1)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
