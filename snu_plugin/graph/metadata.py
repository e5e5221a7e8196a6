"""What a graph declares of itself, as one JSON string in its metadata.

The declaration is a hint for people and for ``discretise``, never needed for meaning, because every
importer drops metadata (NIR#129, NIR#175).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, get_args

import nir

from snu_plugin.accepted import shown

KEY = "snu"
"""Key of the metadata of a graph under which the string is."""
NO_RESET = "no_v_reset"
"""Entry that names the neurons for which a file gave no ``v_reset``."""
REPAIRED = "repaired"
"""Entry that lists what ``read`` had to repair."""
APPROXIMATE = "approximate"
"""Entry that says what left approximately, and what came of it."""
DISAGREE = "disagree"
"""Entry that holds, for each thing that parts of a graph declare differently, who says what."""
LEFT_OUT = "left_out"
"""Entry that says what else the model returns, and why NIR cannot say it."""

CHECKED = "checked"
"""Entry that says over what a model and its graph were compared before it left."""
UNCHECKED = "unchecked"
"""Entry of a graph that left without."""


def stamp(graph: nir.NIRGraph, dt: float, **more: Any) -> nir.NIRGraph:
    """Declare in the metadata of ``graph`` how it is meant to run; returns the same graph.

    ``more`` adds or replaces entries.

    Raises:
        TypeError: If ``graph`` is none.
        ValueError: If ``dt`` is not a positive number of seconds.
    """
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(f"graph is a {type(graph).__name__}; it must be a nir.NIRGraph")
    check_dt(dt)
    usual = {"dt": float(dt), "if": "ode", "reset": "value", "start": 0, "feedback": "last step"}
    return declare(graph, usual | more)


def declare(graph: nir.NIRGraph, entries: Mapping[str, Any]) -> nir.NIRGraph:
    """Replace what ``graph`` declares; returns the same graph."""
    graph.metadata[KEY] = json.dumps(entries, sort_keys=True)
    return graph


def declared(graph: nir.NIRNode) -> dict[str, Any]:
    """Return what ``stamp`` declared in a graph, or an empty dict.

    Raises:
        ValueError: If the entry is not a JSON object, or its ``dt`` is not a positive number.
    """
    text = graph.metadata.get(KEY)
    if text is None:
        return {}
    try:
        entries = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata {KEY!r} is {text!r:.60}; it must be a JSON object") from error
    if not isinstance(entries, dict):
        raise ValueError(f"metadata {KEY!r} is {text!r:.60}; it must be a JSON object")
    if "dt" in entries:
        check_dt(entries["dt"])
    return entries


def without_reset(entries: Mapping[str, Any]) -> list[str]:
    """Return the neurons whose reset to 0 is an assumption, from what a graph declares.

    Files from before nir 1.0.6 have no ``v_reset``. nir reads them as 0; the text of NIR said
    ``v - v_threshold`` then, and what trained them may have subtracted (NIR#129).
    """
    names = entries.get(NO_RESET)
    return [str(name) for name in names] if isinstance(names, list) else []


def left_out(entries: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each output of a model that did not leave, from what a graph says."""
    found = entries.get(LEFT_OUT)
    told = found.items() if isinstance(found, dict) else ()
    return [f"the model gives {name} too, which did not leave: {why}" for name, why in told]


def declared_approximations(entries: Mapping[str, Any]) -> dict[str, str]:
    """Return a sentence for each node that left approximately, from what a graph declares."""
    found = entries.get(APPROXIMATE)
    sentences: dict[str, str] = {}
    for one in found if isinstance(found, list) else [found]:  # several: one for each part
        nodes = one.get("nodes") if isinstance(one, dict) else None
        if not isinstance(one, dict) or not isinstance(nodes, dict):
            continue
        differing = one.get("differing")
        share = f"{differing:.2%}" if isinstance(differing, float) else "an unknown share"
        sentences |= {
            str(name): f"{reason}; exported as the nearest NIR node: {share} of the graph's "
            f"outputs differed, over {one.get('steps')} steps of {one.get('batch')} sequences"
            for name, reason in nodes.items()
        }
    return sentences


def disagreement(entries: Mapping[str, Any], entry: str) -> str:
    """Return which part declares what, where they differ and the whole does not settle it."""
    listed = entries.get(DISAGREE)
    said = listed.get(entry) if isinstance(listed, dict) else None
    if entry in entries or not isinstance(said, dict):
        return ""
    return ", ".join(f"{name} {value}" for name, value in said.items())


def check_agreement(entries: Mapping[str, Any], entry: str, way_out: str) -> None:
    """Refuse what the parts of a graph declare differently; see ``disagreement``.

    Raises:
        ValueError: If they do; names the parts.
    """
    if said := disagreement(entries, entry):
        raise ValueError(
            f"the parts of the graph declare different values of {entry}: {said}; {way_out}"
        )


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse an argument that is neither None nor one of the values of a Literal."""
    if value not in (None, *get_args(choices)):
        accepted = " or ".join(map(repr, get_args(choices)))
        raise ValueError(f"{name} is {shown(value)}; it must be {accepted}")


def check_dt(dt: object) -> None:
    """Refuse what is no positive number of seconds."""
    if isinstance(dt, bool) or not isinstance(dt, (int, float)) or not 0 < dt < math.inf:
        raise ValueError(f"dt is {shown(dt)}; it must be a positive number of seconds")
