"""A NIR graph, or matrices alone, compiled into a program for a chip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, get_args

import nir
from torch import Tensor

from snu_plugin.accelerator import Chip, Geometry, Op, Product, Program, Scaling, set_ranges
from snu_plugin.accepted import BELOW_1, one_of, with_known_names
from snu_plugin.compiler.lower import lower, matrices, on_devices
from snu_plugin.compiler.rules import Chips, broken, chip_names, chips_by_node, lacking_tiles
from snu_plugin.compiler.tiling import Matrix, arrange_on
from snu_plugin.graph import (
    CheckedGraph,
    DiscreteGraph,
    Feedback,
    checked_graph,
    delay_steps,
    discretise_checked,
    to_bytes,
)
from snu_plugin.schedule import Wiring


class CannotMap(ValueError):
    """A graph that a chip cannot hold, with every reason at once."""

    def __init__(self, chip: Chips, reasons: list[str]) -> None:
        super().__init__(f"{chip_names(chip)} cannot hold the graph: {'; '.join(reasons)}")
        self.reasons = tuple(reasons)
        """One sentence for each broken rule, with the node's name."""


@with_known_names
def compile(
    g: nir.NIRGraph,
    chip: Chips,
    scaling: Scaling = "column",
    *,
    dt: float | None = None,
    feedback: Feedback | None = None,
    sample: Any = None,
    outliers: float = 0.0,
) -> Program:
    """Lay a graph out on a chip.

    Weights of Linear, Affine, Conv1d and Conv2d nodes become differential pairs, G+ - G-, on
    tiles; everything else runs in digital next to them: neurons with their input gains, biases,
    scales, pools, delays, and the patches of convolutions, whose kernels lie on the chip once.

    Args:
        g: A NIR graph as ``snu_plugin.graph.read`` or ``to_nir`` give it.
        chip: The chip's settings; or settings by name of the node, ``{"fc1": IDEAL, "default":
            PCM}``, those of ``"default"`` for all other nodes with weights. Nodes of equal settings
            share a chip and its tiles, other settings are a chip of their own.
        scaling: What the largest weight of takes the whole conductance range: the ``layer``, each
            ``tile``, or each ``column`` of a tile.
        dt: Time step in seconds; ``None`` takes the one the graph was made with.
        feedback: What a path that feeds back delivers at the first step, ``"silent"`` or
            ``"biased"``; see ``snu_plugin.graph.discretise``. The program keeps it, and a graph
            that a chip gives back declares it.
        sample: Inputs ``(T, B, ...)`` such as the chip will meet, a dict by node if there are
            several: they set the range of each layer's converters by what it loses
            (``snu_plugin.accelerator.set_ranges``). ``None``: the ``dac_bound`` and ``adc_bound``
            of the chip, which what lies beyond is clipped to.
        outliers: Share of each matrix that stays in digital logic, exact, in [0, 1): its largest
            weights beside the others of their scale group, so that those take the whole range.
            Their operations, energy and memory are counted with those of digital adapters.

    Returns:
        The program, frozen; ``Accelerator`` takes it.

    Raises:
        CannotMap: With every broken design rule and the node's name.
        TypeError: For a chip that is neither a ``Chip`` nor a mapping to such.
        ValueError: For a scaling that does not exist, another share of outliers, a graph that
            cannot be discretised, or names of ``chip`` that are no nodes with weights; a sample
            that the graph does not take.
    """
    checked = checked_graph(g).chosen(feedback)
    network = discretise_checked(checked, dt)
    program = compile_checked(checked, network, chip, scaling, outliers)
    return program if sample is None else set_ranges(program, sample)


def compile_checked(
    graph: CheckedGraph,
    network: DiscreteGraph,
    chip: Chips,
    scaling: Scaling,
    outliers: float = 0.0,
) -> Program:
    """Lay a graph out that was checked and discretised; see ``compile``."""
    one_of(*get_args(Scaling)).check("scaling", scaling)
    BELOW_1.check("outliers", outliers)
    chips = chips_by_node(network, chip)
    if reasons := broken(network, chips):
        raise CannotMap(chip, reasons)
    ops = dict(lower(network, chips, scaling, outliers))
    return Program(
        chips=chips,
        scaling=scaling,
        ops=ops,
        wiring=network.wiring,
        inputs=network.inputs,
        outputs=network.outputs,
        shapes=network.shapes,
        tiles=arrange_on(matrices(network), chips),
        dt=network.dt,
        source=to_bytes(graph),
        outliers=float(outliers),
        remarks=(*network.notes, *_kept_digital(network), *_references(ops)),
    )


def _references(ops: Mapping[str, Op]) -> Iterator[str]:
    """Yield a sentence on the reference columns, if weights need them."""
    products = (op for op in ops.values() if isinstance(op, Product))
    if count := sum(op.layout.references * op.weight.shape[1] for op in products):
        yield (
            f"a weight is one device less the reference column of its tile: {count:,} reference "
            "devices come besides, in a column of their own beside those of the tile"
        )


def _kept_digital(network: DiscreteGraph) -> Iterator[str]:
    """Yield a sentence for everything that stays beside the devices and might not have."""
    for name, neuron in network.neurons.items():
        if neuron.gain is not None or neuron.synapse_gain is not None:
            yield f"the input gain of {name!r} (r, w_in, dt) stays in its digital neurons, exact"
    for name, node in network.nodes.items():
        if isinstance(node, nir.Scale):
            yield f"the Scale {name!r} stays digital, exact"
        if isinstance(node, nir.Delay):
            kept = int(delay_steps(name, node, network.dt).sum())
            yield f"the Delay {name!r} keeps {kept} values a sequence in digital memory"


def crossbars(
    weights: Mapping[str, Tensor], groups: Mapping[str, int], chip: Chip, scaling: Scaling
) -> Program:
    """Return a program that holds these matrices as ``compile`` would lay them out, unwired.

    Args:
        weights: By name, ``(out, ...)``; axes after the first are inputs, as in ``nn.Linear`` and
            in convolutions.
        groups: Groups of outputs with inputs of their own, by name.
        chip: Where all of them lie.
        scaling: As in ``compile``.

    Raises:
        ValueError: For a scaling that does not exist.
        CannotMap: If there are none, if they need more tiles than the chip has, or hold what
            float32 cannot.
    """
    one_of(*get_args(Scaling)).check("scaling", scaling)
    matrices = [Matrix(n, (len(w), prod(w.shape[1:])), groups[n]) for n, w in weights.items()]
    chips = {matrix.node: chip for matrix in matrices}
    reasons = list(lacking_tiles(matrices, chips))
    for name, w in weights.items():
        if not bool(w.float().isfinite().all()):
            reasons.append(f"{name}: values that are not finite, or beyond float32")
    if not weights:
        reasons.append("the network has no matrix to put on devices")
    if reasons:
        raise CannotMap(chip, reasons)
    ops = {}
    for name, (out, inputs), count in matrices:
        weight = weights[name].detach().cpu().double().reshape(out, inputs)
        shaped = Geometry(shape=tuple(weights[name].shape), groups=count)
        ops[name] = on_devices(weight, shaped, chip, scaling)
    return Program(
        chips=chips,
        scaling=scaling,
        ops=ops,
        wiring=Wiring((), {}),
        inputs=(),
        outputs=(),
        shapes={},
        tiles=arrange_on(matrices, chips),
        dt=None,
        source=b"",
    )
