"""Turn a piano roll into a MIDI file."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from torch import Tensor

from snu_plugin.files import draft
from snu_plugin.origin import how_to_install

if TYPE_CHECKING:
    import mido

KEYS, LOWEST = 88, 21
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
    with draft(path) as new:
        midi.save(new)


def _events(roll: Tensor) -> list[tuple[int, str, int]]:
    """Return ``(step, note_off or note_on, MIDI note)`` in order, releases before strikes."""
    silence = roll.new_zeros(1, KEYS)
    change = (roll.int()).diff(dim=0, prepend=silence.int(), append=silence.int())
    found = []
    for step, key in change.nonzero().tolist():
        kind = "note_on" if change[step, key] > 0 else "note_off"
        found.append((step, kind, LOWEST + key))
    return sorted(found)
