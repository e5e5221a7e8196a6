"""``diagnose``: run a network, a graph or a chip, and say what is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import nir
import torch
from torch import Tensor, nn

from snu_plugin import graph
from snu_plugin.accelerator import SATURATED, Board, Trace
from snu_plugin.accepted import with_known_names
from snu_plugin.diagnosis import models
from snu_plugin.diagnosis.activity import through_graph
from snu_plugin.diagnosis.findings import Diagnosis, Finding, Layer
from snu_plugin.diagnosis.gradients import gradients, trained_potentials
from snu_plugin.diagnosis.layers import without_effect, wrong
from snu_plugin.diagnosis.models import through_modules

FIRING = (
    "no input", "scale of inputs", "threshold out of reach", "time step", "too few steps",
    "too much drive",
)  # fmt: skip
"""Causes after which gradients are not asked for: they follow from them."""


FROZEN = Finding(
    "no gradient",
    "parameters",
    "none of them requires a gradient",
    "let what is to learn have one: net.requires_grad_(True)",
)


@with_known_names
def diagnose(
    net: nn.Module | nir.NIRGraph | Board,
    x: Tensor | Mapping[str, Tensor] | None = None,
    *,
    dt: float | None = None,
    feedback: graph.Feedback | None = None,
    loss: Callable[[Any], Tensor] | None = None,
) -> Diagnosis:
    """Say why a network is silent, saturated or does not learn, and what to do.

    Found are layers that receive nothing, never or always fire, with the nearest threshold; time
    constants that do not fit the time step or the length of the inputs; inputs of another scale;
    parameters that no gradient of a useful size reaches; a loss on potentials of a neuron that its
    spikes set back, under which it learns not to fire; on a chip, converters that saturate. Of
    several layers behind each other the first is told. All limits are ours and lie in
    ``diagnosis``; what they call healthy may still learn badly.

    Args:
        net: A torch model of snnTorch, Norse or our own layers; a NIR graph, or what
            ``graph.network`` made of one; or a chip that is written (``Accelerator``, or another
            ``Board``). A model and a graph stay as they are, a chip runs once.
        x: What it is to run on, ``(T, B, ...)``, also for a model that makes one step a call, which
            is called for each; for a graph with several Inputs a dict. ``None`` only for a graph
            with one: seeded spikes that make every layer fire, as far as any do.
        dt: Time step of a graph; ``None``: see ``graph.discretise``.
        feedback: Of a graph; see ``graph.discretise``.
        loss: What a torch model is trained on: takes what the model returns for ``x``, a list of
            that where it makes one step a call, and returns one number. Gradients are then of it;
            ``None``: of a sum of the outputs with seeded weights.

    Returns:
        What was found, and what each layer did. It is true where something is wrong, ``str`` has
        a line for each finding, ``to_dict`` is for JSON.

    Raises:
        TypeError: For something else than these, or a loss that is no function of a torch model.
        ValueError: If the inputs do not fit, are not finite, or the model can neither be read as a
            graph nor its neurons looked at one by one; the message is that of ``graph.to_nir``.

    >>> from snu_plugin import SNU
    >>> quiet = nn.Sequential(nn.Linear(4, 3, bias=False), SNU(3))
    >>> with torch.no_grad():
    ...     _ = quiet[0].weight.fill_(0.01)
    >>> print(diagnose(quiet, torch.ones(10, 1, 4)).findings[0].cause)
    threshold out of reach
    """
    if loss is not None and (not callable(loss) or not isinstance(net, nn.Module)):
        given = f"loss is {type(loss).__name__} and net is {type(net).__name__}"
        raise TypeError(f"{given}; loss is a function of what a torch model returns")
    if all(hasattr(net, name) for name in ("layout", "run", "calibrate")):  # a chip
        return _of_chip(net, _checked(x))
    if isinstance(net, graph.Network):
        return _of_graph(net.to_nir(), x, None, None)
    if isinstance(net, nir.NIRGraph):
        return _of_graph(net, x, dt, feedback)
    if isinstance(net, nn.Module):
        return _of_model(net, _checked(x), loss)
    raise TypeError(
        f"net is {type(net).__name__}; give a torch module, a nir.NIRGraph, or a chip that is "
        "written, such as an Accelerator"
    )


def _checked(x: Any) -> Tensor:
    if x is None:
        raise TypeError(
            "x is missing; a model or a chip needs inputs to run on, a tensor (T, B, ...); a NIR "
            "graph alone does without"
        )
    if not isinstance(x, Tensor):
        raise TypeError(f"x is {type(x).__name__}; it must be a tensor (T, B, ...)")
    if x.dim() < 2 or not x.numel():
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (T, B, ...), none of them 0")
    if not x.isfinite().all():
        raise ValueError(
            f"x holds {int((~x.isfinite()).sum())} values that are not finite; give finite numbers"
        )
    return x.detach()


def _of_chip(chip: Any, x: Tensor) -> Diagnosis:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "more than .* saturate")  # is told as a finding
        _, trace = chip.run(x)
    shapes = trace.program.shapes
    layers = []
    for name, spikes in trace.spikes_per_step.items():
        neurons = int(torch.Size(shapes[name]).numel())
        layers.append(Layer(name, neurons, spikes / neurons, float(not spikes), 0.0))
    return Diagnosis(tuple(_on_chip(trace)), tuple(layers), _given(x))


def _on_chip(trace: Trace) -> Iterator[Finding]:
    """Yield converters that saturate, and layers that no spike leaves."""
    fitted = trace.program.ranges is not None
    for name, shares in trace.saturation.items():
        for what, share, bound in (
            ("inputs", shares.inputs, "dac_bound"),
            ("outputs", shares.outputs, "adc_bound"),
        ):
            if share > SATURATED:
                yield Finding(
                    "saturated converter",
                    name,
                    f"{share:.1%} of the {what} lie beyond {bound} and are clipped",
                    "set the ranges from such data: compile(g, chip, sample=x)"
                    if not fitted
                    else "set the ranges again, from a sample like these inputs",
                )
    for name, spikes in trace.spikes_per_step.items():
        if not spikes:
            yield Finding(
                "silent on the chip",
                name,
                "no spike leaves it",
                "compare with diagnose(graph, x); if it fires there, calibrate or write the chip",
            )


def _of_graph(
    g: nir.NIRGraph,
    x: Tensor | Mapping[str, Tensor] | None,
    dt: float | None,
    feedback: graph.Feedback | None,
) -> Diagnosis:
    net = graph.network(g, dt, torch.float32, feedback=feedback)
    signal: Any
    drawn, how = x is None, ""
    if x is None:
        if len(net.discrete.inputs) > 1:
            raise ValueError(
                f"the graph has the Inputs {', '.join(net.discrete.inputs)}; give x, a dict with a "
                "tensor for each"
            )
        signal, how = graph.drawn_inputs(net)
    elif isinstance(x, Mapping):
        signal = {name: _checked(part) for name, part in x.items()}
    else:
        signal = _checked(x)
    looked = through_graph(net)
    seen = looked.at(signal)
    findings = [*wrong(looked, seen, signal, drawn), *without_effect(looked, seen, signal)]
    if not any(finding.cause in FIRING for finding in findings):
        findings += gradients(net, lambda net: _values(net(signal)[0]), _by_node(net))
    layers = tuple(one.layer for one in seen)
    return Diagnosis(tuple(findings), layers, how or _given(_values(signal)[0]))


def _by_node(net: graph.Network) -> dict[str, nn.Parameter]:
    """Return what a graph trains, by node; resets that are a constant of a neuron are none."""
    inside = {one.reset for one in net.discrete.subtracting}
    return {
        f"{name}.{field}": value
        for name in net.names
        if name not in inside
        for field, value in net.node(name).named_parameters(recurse=False)
    }


def _of_model(model: nn.Module, x: Tensor, loss: Callable[[Any], Tensor] | None) -> Diagnosis:
    if spoilt := _not_finite(model):
        return Diagnosis(spoilt, (), _given(x))
    stepped = models.is_stepped(model, x)
    try:
        found, ahead = models.graph_of(models.copy_from_reset(model), x, stepped)
        looked = through_graph(graph.network(found, dtype=torch.float32))
    except ValueError:
        # What NIR cannot say, such as a pool in front of the neurons: each layer for itself.
        looked, ahead = through_modules(model, stepped, x), ""
        if not looked.at(x):
            raise
    seen = looked.at(x)
    names = {one.name: _of_module(one.name.removeprefix(ahead), model) for one in seen}
    findings = [
        Finding(one.cause, names.get(one.where, one.where), one.found, one.remedy)
        for one in (
            *wrong(looked, seen, x, drawn=False),
            *without_effect(looked, seen, x),
        )
    ]
    firing = not any(finding.cause in FIRING for finding in findings)
    if loss is None and firing:
        findings += gradients(
            models.copy_from_reset(model), lambda model: models.outputs(model, x, stepped)
        )
    if loss is not None:
        if not any(parameter.requires_grad for parameter in model.parameters()):
            findings.append(FROZEN)

        def total(model: nn.Module) -> Tensor:
            return _one_number(loss(models.results(model, x, stepped)))

        set_back = {names[one.name] for one in seen if one.is_set_back}
        findings += trained_potentials(models.copy_from_reset(model), set_back, total)
        if firing:
            findings += gradients(models.copy_from_reset(model), lambda model: [total(model)])
    layers = (one.layer for one in seen)
    told = (Layer(names[one.name], *list(vars(one).values())[1:]) for one in layers)
    return Diagnosis(tuple(findings), tuple(told), _given(x))


def _not_finite(model: nn.Module) -> tuple[Finding, ...]:
    """Return which parameters hold NaN or infinity, which buffers NaN: a mask may be infinite."""
    held = {name: value.isfinite() for name, value in model.named_parameters()}
    held |= {name: ~value.isnan() for name, value in model.named_buffers()}
    return tuple(
        Finding(
            "not finite",
            name,
            f"{int((~finite).sum())} of its {finite.numel()} values are not finite",
            "training ran away: begin again from finite values, with a smaller learning rate or "
            "clipped gradients",
        )
        for name, finite in held.items()
        if not finite.all()
    )


def _one_number(loss: Any) -> Tensor:
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
    raise TypeError(f"loss returned {type(loss).__name__}{shape}; it must return one number")


def _of_module(node: str, model: nn.Module) -> str:
    """Return the name of the module that a node was part of."""
    modules = dict(model.named_modules())
    while node and node not in modules and "." in node:
        node = node.rpartition(".")[0]
    return node


def _values(signal: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return [signal] if isinstance(signal, Tensor) else list(signal.values())


def _given(x: Tensor) -> str:
    """Say what inputs are."""
    return (
        f"as given, {len(x)} steps of {x.shape[1]} sequences, "
        f"from {float(x.min()):.3g} to {float(x.max()):.3g}"
    )
