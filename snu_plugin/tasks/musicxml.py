"""Read the notes of a compressed MusicXML score."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


class Note(NamedTuple):
    """A note or a rest, in quarter notes from the start of the piece."""

    start: Fraction
    end: Fraction
    midi: int | None
    """Sounding pitch as MIDI number (60 is middle C), ``None`` for a rest."""


def parts(file: Path) -> list[list[Note]]:
    """Return the notes of every part of an ``.mxl`` file, without grace and cue notes.

    A score is read as written: repeats are not played out. Format: MusicXML 4.0, "partwise".

    Raises:
        ValueError: The file is not such a score.
    """
    try:
        with ZipFile(file) as archive:
            container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
            root = next(e for e in container.iter() if e.tag.endswith("rootfile"))
            score = ElementTree.fromstring(archive.read(root.attrib["full-path"]))
        return [_notes(part) for part in score.findall("part")]
    except (BadZipFile, ElementTree.ParseError, LookupError, StopIteration, ValueError) as error:
        raise ValueError(f"{file} is not a compressed MusicXML score: {error!r}") from error


def _notes(part: ElementTree.Element) -> list[Note]:
    """Walk the measures of a part; ``backup`` and ``forward`` move the pen between voices."""
    notes: list[Note] = []
    barline, divisions, transpose = Fraction(0), 1, 0
    for measure in part.findall("measure"):
        pen = onset = end = barline
        for element in measure:
            if element.tag == "attributes":
                divisions = int(element.findtext("divisions", str(divisions)))
                transpose = _transposition(element, transpose)
                continue
            if element.tag not in ("note", "backup", "forward") or _is_unmeasured(element):
                continue
            length = Fraction(int(element.findtext("duration", "")), divisions)
            if element.tag == "note":
                start = onset if element.find("chord") is not None else pen
                notes.append(Note(start, start + length, _midi(element, transpose)))
                onset, pen = start, start + length
            else:
                pen += -length if element.tag == "backup" else length
            end = max(end, pen)
        barline = end
    return notes


def _is_unmeasured(element: ElementTree.Element) -> bool:
    return element.find("grace") is not None or element.find("cue") is not None


def _transposition(attributes: ElementTree.Element, last: int) -> int:
    """Return how many semitones the part sounds above what is written."""
    transpose = attributes.find("transpose")
    if transpose is None:
        return last
    octaves = int(transpose.findtext("octave-change", "0"))
    return int(transpose.findtext("chromatic", "0")) + 12 * octaves


def _midi(note: ElementTree.Element, transpose: int) -> int | None:
    pitch = note.find("pitch")
    if pitch is None:
        return None
    octave = int(pitch.findtext("octave", ""))
    alter = round(float(pitch.findtext("alter", "0")))
    return 12 * (octave + 1) + _SEMITONES[pitch.findtext("step", "")] + alter + transpose
