"""What a diagnosis says: values, and the lines that a terminal shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from snu_plugin.notebook import Shown, Table

Cause = Literal[
    "no input",
    "scale of inputs",
    "inputs without effect",
    "threshold out of reach",
    "threshold below rest",
    "too much drive",
    "silent neurons",
    "time step",
    "too few steps",
    "no memory",
    "neurons alike",
    "not finite",
    "no gradient",
    "vanishing gradient",
    "exploding gradient",
    "membrane loss",
    "saturated converter",
    "silent on the chip",
]
"""What can be wrong, in a few words."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    >>> print(Finding("no memory", "lif1", "it keeps 0 of its potential", "give a larger beta"))
    lif1: no memory: it keeps 0 of its potential; give a larger beta
    """

    cause: Cause
    where: str
    """Name of the layer, the parameter, or ``inputs``."""
    found: str
    """What was seen, with numbers."""
    remedy: str
    """What to do."""

    def __str__(self) -> str:
        return f"{self.where}: {self.cause}: {self.found}; {self.remedy}"


@dataclass(frozen=True)
class Layer:
    """What the neurons of a layer did."""

    name: str
    neurons: int
    rate: float
    """Mean output over steps, sequences and neurons; of neurons that spike, spikes a step."""
    silent: float
    """Share of neurons that never fire."""
    always: float
    """Share of neurons that fire at every step."""


@dataclass(frozen=True, repr=False)
class Diagnosis(Shown):
    """What was found, and what each layer did; true where something was found."""

    findings: tuple[Finding, ...]
    layers: tuple[Layer, ...]
    inputs: str
    """What the network was run on, in words."""

    def __bool__(self) -> bool:
        return bool(self.findings)

    def __str__(self) -> str:
        said = [str(finding) for finding in self.findings] or ["nothing found"]
        width = max([len(layer.name) for layer in self.layers] + [len("layer")])
        head = f"{'layer':{width}}  neurons  spikes a step  never fire  always fire"
        rows = [
            f"{layer.name:{width}}  {layer.neurons:7,}  {layer.rate:13.4f}  "
            f"{layer.silent:10.0%}  {layer.always:11.0%}"
            for layer in self.layers
        ]
        return "\n".join([*said, "", f"inputs: {self.inputs}", *([head, *rows] if rows else [])])

    def _table(self) -> Table:
        heads = ("where", "what", "found", "what to do")
        rows = [(f.where, f.cause, f.found, f.remedy) for f in self.findings]
        did = [
            f"{layer.name}: {layer.rate:.4f} spikes a step, {layer.silent:.0%} never fire, "
            f"{layer.always:.0%} always"
            for layer in self.layers
        ]
        title = f"{len(rows)} found" if rows else "nothing found"
        return Table(title, heads, rows, did)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return asdict(self)
