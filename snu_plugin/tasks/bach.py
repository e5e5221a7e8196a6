"""Bach's chorales as piano rolls, out of the scores that music21 bundles."""

from __future__ import annotations

import hashlib
import math
import sys
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

import numpy as np

from snu_plugin.archives import read_arrays, read_member
from snu_plugin.files import add_digest, check_digest, draft
from snu_plugin.files import cache_folder as own_cache
from snu_plugin.origin import how_to_install

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rolls = Mapping[str, NDArray[np.uint8]]

RECIPE = 1
"""Number of the recipe below: raised whenever the rolls change, so that old caches are left."""

_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}

VOICES = 4
LOWEST, KEYS = 21, 88
LONGEST = 100_000
"""Quarter notes of a piece; the longest of the corpus has fewer than 1000."""

# Aarden 2003 (doctoral thesis, Ohio State), as printed for Humdrum's keycor by C. S. Sapp
# (extras.humdrum.org/man/keycor); the weights of music21's own analyze("key").
# fmt: off
_MAJOR = (17.7661, 0.145624, 14.9265, 0.160186, 19.8049, 11.3587,
          0.291248, 22.062, 0.145624, 8.15494, 0.232998, 4.95122)
_MINOR = (18.2648, 0.737619, 14.0499, 16.8599, 0.702494, 14.4362,
          0.702494, 18.6161, 4.56621, 1.93186, 7.37619, 1.75623)
# fmt: on


class Note(NamedTuple):
    """A note or a rest, in quarter notes from the start of the piece."""

    start: Fraction
    end: Fraction
    midi: int | None
    """Sounding pitch as MIDI number (60 is middle C), ``None`` for a rest."""


def rolls(
    cache: str | PathLike[str] | None = None, progress: bool | None = None
) -> tuple[Rolls, str]:
    """Return music21's four-part Bach chorales by file name, and music21's version.

    Each is ``(T, 88)`` of 0 and 1: the keys that sound at every quarter note, transposed to C
    (see ``transposition``), in the order of their names. Reading 408 scores takes some seconds;
    the rolls are kept in ``cache``. music21 itself is not imported, nothing is downloaded.

    Raises:
        ImportError: music21 is not installed.
        FileNotFoundError: music21 came without its corpus.
    """
    folder, release = corpus()
    name = f"chorales-music21-{release}-recipe{RECIPE}.npz"
    try:
        known = _read(cache_folder(cache) / name)
    except OSError:
        known = None
    if known is not None:
        return known, release
    made = read_scores(sorted(folder.glob("*.mxl")), progress)
    try:
        _write(cache_folder(cache) / name, made)
    except OSError as error:
        warnings.warn(f"cannot keep the chorales in the cache: {error}", stacklevel=2)
    return made, release


def corpus() -> tuple[Path, str]:
    """Return the folder of music21's Bach scores and music21's version."""
    spec = find_spec("music21")
    try:
        release = version("music21")
    except PackageNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "music21, which brings the chorales, is not installed; install it with: "
            f"{how_to_install('tasks')}, or give the path of JSB_Chorales.mat"
        )
    folder = Path(spec.submodule_search_locations[0]) / "corpus" / "bach"
    if next(folder.glob("*.mxl"), None) is None:
        raise FileNotFoundError(
            f"music21 {release} came without its corpus (no scores in {folder}); install it from "
            "PyPI with: pip install --force-reinstall music21, or give the path of JSB_Chorales.mat"
        )
    return folder, release


def cache_folder(given: str | PathLike[str] | None = None) -> Path:
    """Return ``given``, or the folder of this package in the user's cache."""
    return own_cache() if given is None else Path(given)


def read_scores(files: Iterable[Path], progress: bool | None = None) -> Rolls:
    """Return the roll of every file that has four parts, by file name without suffix.

    Raises:
        ValueError: A file is not such a score; names it.
    """
    from tqdm import tqdm

    hidden = not sys.stderr.isatty() if progress is None else not progress
    found: dict[str, NDArray[np.uint8]] = {}
    for file in tqdm(list(files), desc="reading chorales", unit="score", disable=hidden):
        voices = parts(file)
        if len(voices) == VOICES:
            try:
                found[file.stem] = to_roll([note for voice in voices for note in voice])
            except ValueError as error:
                raise ValueError(f"{file}: {error}; get the score again") from error
    return found


def parts(file: Path) -> list[list[Note]]:
    """Return the notes of every part of an ``.mxl`` file, without grace and cue notes.

    A score is read as written: repeats are not played out. Format: MusicXML 4.0, "partwise".

    Raises:
        ValueError: The file is not such a score.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            container = ElementTree.fromstring(read_member(archive, "META-INF/container.xml"))
            root = next(e for e in container.iter() if e.tag.endswith("rootfile"))
            score = ElementTree.fromstring(read_member(archive, root.attrib["full-path"]))
        return [_notes(part) for part in score.findall("part")]
    except Exception as error:  # a damaged score raises nearly anything
        raise ValueError(
            f"{file} is not a compressed MusicXML score: {error!r:.300}; get it again"
        ) from error


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
            unmeasured = element.find("grace") is not None or element.find("cue") is not None
            if element.tag not in ("note", "backup", "forward") or unmeasured:
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


def to_roll(notes: list[Note]) -> NDArray[np.uint8]:
    """Return ``(T, 88)``: 1 where a key sounds at a quarter note, after transposition to C."""
    shift = transposition(notes)
    length = math.ceil(max((note.end for note in notes), default=0))
    if not 0 < length <= LONGEST:
        raise ValueError(f"the piece lasts {length:.6g} quarter notes; it must be 1 to {LONGEST}")
    roll = np.zeros((length, KEYS), np.uint8)
    for note in notes:
        if note.midi is not None:
            key = note.midi + shift - LOWEST
            if not 0 <= key < KEYS:
                raise ValueError(f"MIDI note {note.midi + shift} lies beyond a piano's 21 to 108")
            roll[math.ceil(note.start) : math.ceil(note.end), key] = 1
    return roll


def transposition(notes: list[Note]) -> int:
    """Return the semitones, -6 to 5, that bring the tonic of the piece to the nearest C.

    The tonic is that of the major or minor key whose profile correlates best with the time that
    each of the twelve pitch classes sounds (Krumhansl and Schmuckler), minor stays minor.
    """
    heard = np.zeros(12)
    for note in notes:
        if note.midi is not None:
            heard[note.midi % 12] += float(note.end - note.start)
    keys = [(tonic, mode) for mode in (_MAJOR, _MINOR) for tonic in range(12)]
    fits = [np.corrcoef(heard, np.roll(mode, tonic))[0, 1] for tonic, mode in keys]
    tonic, _ = keys[int(np.argmax(fits))]
    return (6 - tonic) % 12 - 6


def split(name: str) -> str:
    """Return ``train``, ``valid`` or ``test`` (60, 20, 20 %) from a hash of the piece's name.

    So a piece stays in its split whatever else a later music21 brings. Of music21 10.5's 364
    pieces five pairs are the same music or nearly so; two of them fall into different splits
    (bwv18.5-lz and bwv18.5-w, bwv158.4 and bwv279).

    >>> split("bwv66.6")
    'train'
    """
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return "train" if share < 0.6 else "valid" if share < 0.8 else "test"


def digest(known: Rolls) -> str:
    """Return the sha256 of names, shapes and contents of rolls."""
    sha = hashlib.sha256()
    for name, roll in known.items():
        sha.update(f"{name} {roll.shape}".encode() + roll.tobytes())
    return sha.hexdigest()


def _read(file: Path) -> Rolls | None:
    """Return what ``_write`` left; ``None``, to make it anew, unless it is whole and unchanged."""
    try:
        if not check_digest(file):
            return None
        return read_arrays(file) or None
    except (OSError, ValueError):
        return None


def _write(file: Path, made: Rolls) -> None:
    """Write in one stroke: whoever reads ``file`` meanwhile finds all of it or none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with draft(file) as new:
        np.savez_compressed(new, **made)  # type: ignore[arg-type]  # its stub wants bools
        add_digest(new)
