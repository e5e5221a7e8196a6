"""What a MIDI file made from a roll promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from snu_plugin.tasks import chorales

mido = pytest.importorskip("mido", reason="needs mido")


def test_a_midi_file_plays_the_roll(tmp_path: Path) -> None:
    roll = torch.zeros(5, 88)
    roll[0:3, 39] = 1  # C4, three quarters
    roll[2:, 43] = 1  # E4, until the end
    file = tmp_path / "piece.mid"
    chorales.write_midi(file, roll, tempo=120)
    midi = mido.MidiFile(file)
    now, heard = 0.0, []
    for message in midi:
        now += message.time
        if message.type in ("note_on", "note_off"):
            heard.append((round(now, 6), message.type, message.note))
    assert heard == [
        (0.0, "note_on", 60),
        (1.0, "note_on", 64),
        (1.5, "note_off", 60),
        (2.5, "note_off", 64),
    ]
    assert midi.length == pytest.approx(2.5)
    assert [f.name for f in tmp_path.iterdir()] == ["piece.mid"]


def test_silence_at_the_end_is_kept() -> None:
    assert chorales.to_midi(torch.zeros(6, 88), tempo=60).length == pytest.approx(6)


@pytest.mark.parametrize(
    "roll", [torch.zeros(5, 87), torch.zeros(88), torch.full((2, 88), 0.5), torch.full((2, 88), 2)]
)
def test_what_is_no_roll_is_refused_before_anything_is_written(
    roll: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"expected \(T, 88\) of 0 and 1"):
        chorales.write_midi(tmp_path / "piece.mid", roll)
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_tempo_is_refused() -> None:
    with pytest.raises(ValueError, match="tempo is 0"):
        chorales.to_midi(torch.zeros(2, 88), tempo=0)
