"""What the chorales out of music21's corpus promise."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from snu_plugin.tasks import bach, chorales
from snu_plugin.tasks.bach import Note

CONTAINER = '<container><rootfiles><rootfile full-path="score.xml"/></rootfiles></container>'


def note(step: str, octave: int, duration: int, more: str = "") -> str:
    pitch = f"<pitch><step>{step}</step>{more}<octave>{octave}</octave></pitch>"
    return f"<note>{pitch}<duration>{duration}</duration></note>"


def rest(duration: int) -> str:
    return f"<note><rest/><duration>{duration}</duration></note>"


def score(file: Path, *parts: str) -> Path:
    body = "".join(f"<part>{part}</part>" for part in parts)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("score.xml", f"<score-partwise>{body}</score-partwise>")
    return file


def four_parts(file: Path) -> Path:
    """Write a piece in D major: two quarters of tonic, two eighths and a quarter of scale."""
    divisions = "<attributes><divisions>2</divisions></attributes>"
    sharp = "<alter>1</alter>"
    soprano = note("D", 5, 4) + note("E", 5, 1) + note("F", 5, 1, sharp) + note("D", 5, 2)
    alto = note("A", 4, 8)
    tenor = note("F", 4, 4, sharp) + note("G", 4, 2) + note("F", 4, 2, sharp)
    bass = note("D", 3, 4) + note("A", 3, 2) + note("D", 3, 2)
    voices = (f"<measure>{divisions}{v}</measure>" for v in (soprano, alto, tenor, bass))
    return score(file, *voices)


@pytest.fixture
def bundled() -> Path:
    pytest.importorskip("music21", reason="needs music21")
    return bach.corpus()[0]


@pytest.fixture
def small_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    four_parts(folder / "one.mxl")
    score(folder / "three.mxl", *3 * ["<measure>" + note("C", 4, 1) + "</measure>"])
    monkeypatch.setattr(bach, "corpus", lambda: (folder, "1.2.3"))
    return folder


def test_a_score_is_read_with_its_voices_chords_and_transposition(tmp_path: Path) -> None:
    attributes = "<attributes><divisions>2</divisions><transpose><chromatic>-2</chromatic>"
    attributes += "<octave-change>1</octave-change></transpose></attributes>"
    chord = note("E", 4, 2).replace("<note>", "<note><chord/>")
    grace = "<note><grace/><pitch><step>B</step><octave>4</octave></pitch></note>"
    back = "<backup><duration>4</duration></backup><forward><duration>1</duration></forward>"
    first = attributes + note("C", 4, 2) + chord + grace + rest(2) + back + note("G", 3, 1)
    second = note("B", 4, 3, "<alter>-1</alter>")
    file = score(tmp_path / "s.mxl", f"<measure>{first}</measure><measure>{second}</measure>")
    half = Fraction(1, 2)
    assert bach.parts(file) == [
        [
            Note(Fraction(0), Fraction(1), 70),
            Note(Fraction(0), Fraction(1), 74),
            Note(Fraction(1), Fraction(2), None),
            Note(half, 2 * half, 65),
            Note(Fraction(2), Fraction(7, 2), 80),
        ]
    ]


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + bytes(18)])
def test_something_that_is_no_score_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.mxl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.mxl is not a compressed MusicXML score"):
        bach.parts(file)


def test_a_piece_becomes_the_keys_that_sound_at_each_quarter_in_c(tmp_path: Path) -> None:
    rolls = bach.read_scores([four_parts(tmp_path / "one.mxl")])
    sounding = [(np.flatnonzero(row) + 21).tolist() for row in rolls["one"]]
    tonic = [48, 64, 67, 72]  # D major, two semitones down
    assert sounding == [tonic, tonic, [55, 65, 67, 74], tonic]


@pytest.mark.parametrize("tonic", range(12))
@pytest.mark.parametrize("scale", [(0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)])
def test_any_key_comes_to_the_nearest_c(tonic: int, scale: tuple[int, ...]) -> None:
    weights = (4, 1, 2, 1, 3, 1, 1)
    notes = [
        Note(Fraction(0), Fraction(weight), 60 + tonic + degree)
        for weight, degree in zip(weights, scale, strict=True)
    ]
    shift = bach.transposition(notes)
    assert (tonic + shift) % 12 == 0
    assert -6 <= shift <= 5


def test_a_note_beyond_the_piano_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond a piano"):
        bach.to_roll([Note(Fraction(0), Fraction(2), 12)])


def test_music21_reads_the_same_notes(bundled: Path) -> None:
    from music21 import converter

    for name in ("bwv66.6.mxl", "bwv248.5.mxl", "bwv7.7.mxl"):
        ours = [part for part in bach.parts(bundled / name)]
        theirs = converter.parse(bundled / name, forceSource=True)
        for part, expected in zip(ours, theirs.parts, strict=True):
            assert [(n.start, n.midi) for n in part if n.midi is not None] == [
                (Fraction(n.offset), n.pitch.midi)
                for n in expected.flatten().notes
                if not n.duration.isGrace
            ]


def test_music21_finds_the_same_tonic(bundled: Path) -> None:
    from music21 import converter

    for name in ("bwv66.6.mxl", "bwv7.7.mxl"):
        notes = [n for part in bach.parts(bundled / name) for n in part]
        tonic = converter.parse(bundled / name, forceSource=True).analyze("key").tonic.pitchClass
        assert (tonic + bach.transposition(notes)) % 12 == 0


def test_a_piece_keeps_its_split_for_ever() -> None:
    found = {name: bach.split(name) for name in ("bwv66.6", "bwv269", "bwv10.7", "bwv1.6")}
    assert found == {"bwv66.6": "train", "bwv269": "train", "bwv10.7": "train", "bwv1.6": "train"}


def test_the_splits_are_60_20_and_20_percent() -> None:
    names = [f"bwv{i}" for i in range(5000)]
    counts = [sum(bach.split(n) == s for n in names) for s in ("train", "valid", "test")]
    for count, share in zip(counts, (0.6, 0.2, 0.2), strict=True):
        assert abs(count / 5000 - share) < 5 * (share * (1 - share) / 5000) ** 0.5


def test_only_pieces_of_four_parts_are_taken_and_kept(small_corpus: Path, tmp_path: Path) -> None:
    made, release = bach.rolls(tmp_path / "cache")
    assert (list(made), release) == (["one"], "1.2.3")
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.name == f"chorales-music21-1.2.3-recipe{bach.RECIPE}.npz"
    (small_corpus / "one.mxl").unlink()
    again, _ = bach.rolls(tmp_path / "cache")
    assert bach.digest(again) == bach.digest(made)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_damaged_cache_is_made_anew(small_corpus: Path, tmp_path: Path, share: float) -> None:
    made, _ = bach.rolls(tmp_path)
    (kept,) = tmp_path.glob("*.npz")
    content = kept.read_bytes()
    kept.write_bytes(content[: int(share * len(content))])
    again, _ = bach.rolls(tmp_path)
    assert bach.digest(again) == bach.digest(made)
    assert kept.read_bytes() == content


def test_a_cache_with_a_flipped_bit_is_not_taken(small_corpus: Path, tmp_path: Path) -> None:
    bach.rolls(tmp_path)
    (kept,) = tmp_path.glob("*.npz")
    whole = kept.read_bytes()
    assert bach._read(kept) is not None
    for bit in range(0, 8 * len(whole), 97):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        kept.write_bytes(changed)
        assert bach._read(kept) is None


def test_a_cache_never_unpickles(small_corpus: Path, tmp_path: Path) -> None:
    bach.rolls(tmp_path)
    (kept,) = tmp_path.glob("*.npz")
    np.savez(kept, allow_pickle=True, one=np.array([{}], object))
    made, _ = bach.rolls(tmp_path)
    assert made["one"].shape == (4, 88)


def test_a_failed_write_leaves_nothing_behind(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(file: Path, **_: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", half)
    with pytest.warns(UserWarning, match="cannot keep the chorales in .*disk full"):
        made, _ = bach.rolls(tmp_path / "cache")
    assert list(made) == ["one"]
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_lies_where_the_user_wants_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert bach.cache_folder() == tmp_path / "snu-plugin"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert bach.cache_folder() == Path.home() / ".cache" / "snu-plugin"
    assert bach.cache_folder(tmp_path / "own") == tmp_path / "own"


def test_a_music21_without_scores_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(bach, "find_spec", lambda _: spec)
    monkeypatch.setattr(bach, "version", lambda _: "1.2.3")
    with pytest.raises(FileNotFoundError, match=r"music21 1\.2\.3 came without its corpus"):
        chorales.load(cache=tmp_path)


def test_a_missing_music21_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bach, "find_spec", lambda _: None)
    with pytest.raises(
        ImportError,
        match="music21, which brings the chorales, is not installed; install it with: pip install",
    ):
        chorales.load(cache=tmp_path)


def test_the_loader_splits_and_names_what_it_read(small_corpus: Path, tmp_path: Path) -> None:
    for i in range(40):
        four_parts(small_corpus / f"piece{i}.mxl")
    data = chorales.load(cache=tmp_path)
    assert data.name == "music21"
    assert "1.2.3" in data.source
    assert sum(data.sizes) == 41
    assert min(data.sizes) > 0
    assert data.sha256 == chorales.load(cache=tmp_path).sha256
    assert {piece.dtype for piece in data.test} == {torch.float32}


@pytest.mark.slow
def test_the_whole_corpus_has_the_known_statistics(bundled: Path, tmp_path: Path) -> None:
    if bach.corpus()[1] != "10.5.1":
        pytest.skip(f"numbers are music21 10.5.1's, this is {bach.corpus()[1]}")
    rolls: Mapping[str, np.ndarray] = bach.rolls(tmp_path)[0]
    assert (len(rolls), sum(map(len, rolls.values()))) == (364, 19817)
    data = chorales.load(cache=tmp_path)
    assert data.sizes == (232, 73, 59)
