"""What the page promises: all in one file, in plain words, nothing compared that must not be."""

from __future__ import annotations

import base64
import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from snu_plugin.report import page
from snu_plugin.report.page import Figure, write_page

pytest.importorskip("jinja2", reason="needs jinja2")

TIMES = ("20s", "1h", "1d", "30d", "1y")
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def ageing(*values: float) -> dict[str, float]:
    return dict(zip(TIMES, values, strict=True))


@pytest.fixture
def record() -> dict[str, Any]:
    return {
        "task": "jsb",
        "data": {"name": "jsb", "chorales": [229, 76, 77], "sha256": "ac0e6085"},
        "unit": "SNU",
        "network": [88, 150, 88],
        "seed": 7,
        "devices": 52800,
        "nll": {
            "float": 8.713,
            "nir": 8.714,
            "ideal_chip": 8.715,
            "programmed": ageing(8.79, 9.31, 9.78, 10.71, 11.58),
            "compensated": ageing(8.80, 8.81, 8.84, 8.89, 8.95),
            "tuned": ageing(8.70, 8.75, 8.76, 8.77, 8.83),
        },
        "verify": {"snntorch": "exact", "norse": "approximate (0.1 % differ)"},
        "energy_nj_per_step": {"array": 1.0, "converters": 2.0, "digital": 1.0},
        "latency_us_per_step": 0.52,
        "spikes_per_step": 17.3,
        "pulses": 38214,
        "seconds": {"train": 41.2, "tune": 22.8, "total": 131.0},
        "versions": {"torch": "2.14.1"},
        "notes": ["Model A is bridged to model C."],
        "extra": {
            "command": "snu demo --seed 7",
            "published": {"SNU": 8.72},
            "assumptions": ["No data movement."],
            "tiles": 2,
            "chip": "PCM",
            "source": "a file",
            "cases": {case: f"was {case}" for case in ("programmed", "compensated", "tuned")},
            "recovered": "91 %",
        },
    }


class Outline(HTMLParser):
    """Collect the text, and complain about tags that do not close."""

    EMPTY = ("meta", "img", "br", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def text_of(file: Path) -> str:
    outline = Outline()
    outline.feed(file.read_text(encoding="utf-8"))
    assert outline.open == []
    return re.sub(r"\s+", " ", outline.text)


def test_the_page_shows_every_number_of_the_record(record: dict[str, Any], tmp_path: Path) -> None:
    text = text_of(write_page(tmp_path / "report.html", record))
    values = [record["nll"][key] for key in ("float", "nir", "ideal_chip")]
    values += [v for case in record["extra"]["cases"] for v in record["nll"][case].values()]
    for shown in [f"{value:.3f}" for value in values]:
        assert shown in text
    for shown in ("52,800", "38,214", "0.52 µs", "17.3", "ac0e6085", "229 / 76 / 77", "torch 2.14"):
        assert shown in text
    for shown in ("snu demo --seed 7", "Model A is bridged", "No data movement", "91 %", "+2.867"):
        assert shown in text
    assert "approximate (0.1 % differ)" in text
    assert "−0.013" in text  # better than float is said with a sign


def test_the_page_says_that_the_chip_is_simulated(record: dict[str, Any], tmp_path: Path) -> None:
    record["notes"] = []
    assert "simulation" in text_of(write_page(tmp_path / "report.html", record))


def test_what_was_done_takes_five_sentences(record: dict[str, Any]) -> None:
    said = page.sentences(record)
    assert len(said) == 5
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in said)
    assert "left alone, 11.580 after 1 y" in said[2]


def test_the_page_needs_nothing_but_itself(record: dict[str, Any], tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(PIXEL)
    figure = Figure(file=picture, title="A pixel", caption="One.", wide=True)
    html = write_page(tmp_path / "report.html", record, [figure]).read_text(encoding="utf-8")
    assert "http" not in html
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", html)
    assert not re.search(r"<(link|script|iframe)\b|@import|url\(", html)
    assert re.findall(r'src="([^"]*)"', html) == [
        "data:image/png;base64," + base64.b64encode(PIXEL).decode()
    ]
    assert "prefers-color-scheme: dark" in html


def test_published_numbers_stand_beside_their_own_data_only(
    record: dict[str, Any], tmp_path: Path
) -> None:
    own = text_of(write_page(tmp_path / "own.html", record))
    assert "Published: SNU" in own
    assert "must not be compared" not in own
    for name in ("music21", "other"):
        record["data"]["name"] = name
        text = text_of(write_page(tmp_path / "other.html", record))
        assert "Published" not in text
        assert "must not be compared" in text


def test_text_from_outside_is_escaped(record: dict[str, Any], tmp_path: Path) -> None:
    record["notes"] = ["<script>alert(1)</script>"]
    record["data"]["name"] = "<b>&"
    html = write_page(tmp_path / "report.html", record).read_text(encoding="utf-8")
    assert "<script>" not in html
    assert "<b>&" not in html
    assert "&lt;script&gt;" in html


def test_what_was_not_measured_is_a_dash(record: dict[str, Any], tmp_path: Path) -> None:
    record["nll"]["tuned"]["1y"] = None
    record["nll"]["compensated"]["1y"] = float("nan")
    text = text_of(write_page(tmp_path / "report.html", record))
    assert "–" in text
    assert "None" not in text
    assert "nan" not in text


def test_the_record_is_left_as_it_was(record: dict[str, Any], tmp_path: Path) -> None:
    before = copy.deepcopy(record)
    write_page(tmp_path / "report.html", record)
    assert record == before


def test_a_picture_that_is_no_png_leaves_no_page(record: dict[str, Any], tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="is not a PNG"):
        write_page(tmp_path / "report.html", record, [Figure(file=picture, title="A")])
    with pytest.raises(FileNotFoundError):
        write_page(tmp_path / "report.html", record, [Figure(file=tmp_path / "b.png", title="B")])
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("20s", "20 s"), ("1h", "1 h"), ("1y", "1 y"), ("15min", "15 min")]
    + [(odd, odd) for odd in ("now", "d", "", "1.5h")],
)
def test_times_are_written_out(given: str, expected: str) -> None:
    assert page.duration(given) == expected
