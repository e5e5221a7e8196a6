"""Trained networks that come with the package, each with a card that says where it is from.

They are networks alone: the data that they learned from stay where they are, under terms of their
own, and nothing is fetched from anywhere.

>>> from snu_plugin import zoo
>>> card = zoo.card("jsb-snu")
>>> card.network, card.seed
('88-150-88', 0)
>>> sorted(type(node).__name__ for node in zoo.read("jsb-snu").nodes.values())
['Affine', 'Input', 'LIF', 'Linear', 'Output']
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snu_plugin.accepted import TEXT, nearest, path_of
from snu_plugin.files import draft

if TYPE_CHECKING:
    import nir

__all__ = ["Card", "card", "cards", "get", "read"]

FOLDER = Path(__file__).parent
"""Each network as ``<name>.nir`` beside its card, ``<name>.json``; see docs/make/zoo_cards.py."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a trained network.

    >>> isinstance(card("jsb-snu"), Card), card("jsb-snu").better
    (True, 'lower')
    """

    name: str
    """What it is called, as in ``snu zoo get NAME``."""
    task: str
    """What it was trained to do, in a sentence."""
    network: str
    """Inputs, layers and outputs, such as ``88-150-88``."""
    unit: str
    """Its neurons: ``snu``, ``ssnu`` or ``src``."""
    parameters: int
    """Trained numbers."""
    data: str
    """What it learned from, and where that is found."""
    data_licence: str
    """Under what terms the data are, as far as they are stated; the data are not here."""
    inputs: str
    """What it takes, with shape and unit of time."""
    steps: int
    """Time steps of a sequence of the test set; 0: they differ."""
    metric: str
    """What ``score`` is, on the test set."""
    better: str
    """Which scores are better: ``lower`` or ``higher``."""
    score: float
    """Measured with the graph itself, in the strict reference."""
    published: float | None
    """The number of the paper for such a network; ``None``: there is none."""
    seed: int
    """Of its weights, and of the order and the spikes in training."""
    command: str
    """What trained it."""
    licence: str
    """Of the network."""
    chip: Mapping[str, Any]
    """On which chip it was looked at: ``name``, ``devices``, ``tiles`` and ``scores`` by stage:
    ``programmed``, ``aged`` for a year, ``recalibrated``; of the first ``sequences`` of the test
    set. Empty: no chip holds it."""

    @property
    def path(self) -> Path:
        """Where its graph lies."""
        return FOLDER / f"{self.name}.nir"

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON can hold it.

        >>> card("digits-snu").to_dict()["network"]
        '784-256-256-10'
        """
        return {**vars(self), "chip": dict(self.chip)}

    def __str__(self) -> str:
        """Return the card as a terminal of 80 columns shows it."""
        return "\n".join(f"{head:13}{_wrapped(text)}" for head, text in _lines(self))

    def _repr_html_(self) -> str:
        from snu_plugin.notebook import table

        return table(self.name, [], _lines(self))


def cards() -> dict[str, Card]:
    """Return the card of every network, by name.

    >>> "digits-snu" in cards()
    True
    """
    found = (json.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.json"))
    return {card.name: card for card in sorted((Card(**each) for each in found), key=_name)}


def card(name: str) -> Card:
    """Return the card of a network.

    Raises:
        LookupError: If there is no such network; names the nearest.

    >>> card("jsb-snv")
    Traceback (most recent call last):
    ...
    LookupError: no network 'jsb-snv' in the zoo; did you mean jsb-snu?
    """
    TEXT.check("name", name)
    known = cards()
    if name not in known:
        hint = nearest(name, known, f"there are {', '.join(known)}")
        raise LookupError(f"no network {name!r} in the zoo; {hint}")
    return known[name]


def read(name: str) -> nir.NIRGraph:
    """Return the graph of a network; ``snu_plugin.graph.network`` runs it.

    Raises:
        LookupError: If there is no such network.

    >>> read("jsb-snu").nodes["input"].input_type["input"]
    array([88])
    """
    from snu_plugin import graph

    return graph.read(card(name).path)


def get(name: str, to: str | PathLike[str] = ".") -> Path:
    """Copy the graph of a network, and return where it is.

    Args:
        name: As in ``cards``.
        to: A folder, where it is called ``<name>.nir``, or the name of a file.

    Raises:
        LookupError: If there is no such network.
        FileExistsError: If there is such a file already.
        OSError: If the folder is missing or cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     get("jsb-snu", folder).name
    'jsb-snu.nir'
    """
    source, target = card(name).path, path_of(to)
    if target.is_dir():
        target /= source.name
    if target.exists():
        raise FileExistsError(f"{target} is there already; give another name, or remove it")
    with draft(target) as new:
        shutil.copyfile(source, new)
    return target


def listed() -> str:
    """Return all networks as a table of less than 80 columns."""
    rows = [("name", "network", "score", "published", "what")]
    for each in cards().values():
        known = "" if each.published is None else f"{each.published:g}"
        metric = ", ".join(each.metric.removeprefix("test ").split(", ")[:2])
        rows.append((each.name, each.network, f"{each.score:.2f}", known, metric))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join([*lines, "", "snu zoo get NAME copies one; snu zoo list NAME shows its card"])


def _name(card: Card) -> str:
    return card.name


def _lines(of: Card) -> list[tuple[str, str]]:
    """Return what a card says, by head."""
    published = "" if of.published is None else f"; published {of.published:g}"
    lines = [
        ("name", of.name),
        ("task", of.task),
        ("network", f"{of.network}, {of.unit}, {of.parameters:,} parameters"),
        ("takes", of.inputs),
        ("score", f"{of.score:.3f}, {of.metric}, {of.better} is better{published}"),
        ("data", f"{of.data} ({of.data_licence}); not part of this package"),
        ("trained by", f"{of.command} (seed {of.seed})"),
    ]
    if of.chip:
        scores = ", ".join(f"{stage} {score:.3f}" for stage, score in of.chip["scores"].items())
        size = f"{of.chip['devices']:,} devices on {of.chip['tiles']} tiles"
        judged = f"on the first {of.chip['sequences']:,} of the test set, aged by a year"
        lines.append(("on a chip", f"{of.chip['name']}, {size}: {scores}; {judged}"))
    return [*lines, ("licence", of.licence)]


def _wrapped(text: str) -> str:
    return f"\n{'':13}".join(textwrap.wrap(text, 66, break_on_hyphens=False))
