"""The documentation: its pages, their links, and the command that opens them."""

import io
import webbrowser
from pathlib import Path

import numpy as np
import pytest

import build_site
from snu_plugin import cli
from snu_plugin.commands import begin


def test_links_of_the_repository_hold_in_the_site() -> None:
    text = "[a](docs/results.md#jsb), ![b](docs/life.png), [c](https://example.org/d.md)"
    assert build_site.relinked(text, "index.md") == (
        "[a](results.md#jsb), ![b](life.png), [c](https://example.org/d.md)"
    )
    assert build_site.relinked("[a `.nir`](docs/life.md)", "index.md") == "[a `.nir`](life.md)"
    assert build_site.relinked("[way](../SECURITY.md)", "board.md") == "[way](security.md)"


def test_a_link_to_a_file_that_is_no_page_becomes_its_name() -> None:
    text = "[rules](../tests/conftest.py)"
    assert build_site.relinked(text, "board.md") == "rules (`tests/conftest.py`)"


def test_a_link_to_nothing_stays_so_that_the_build_refuses_it() -> None:
    assert build_site.relinked("[gone](gone.md)", "board.md") == "[gone](gone.md)"


def test_code_that_looks_like_a_link_is_left_alone() -> None:
    for text in ("```python\nx[a](docs/life.md)\n```", "`[a](docs/life.md)`"):
        assert build_site.relinked(text, "index.md") == text


def test_what_a_page_would_load_from_the_web_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="https://a.org/link">x</a><img src="here.png"><script src="https://b.org/s.js">'
        '<link rel="stylesheet" href="//c.org/f.css">'
    )
    (tmp_path / "b.css").write_text("@font-face { src: url('https://d.org/f.woff') }")
    assert list(build_site.from_the_web(tmp_path)) == [
        ("a.html", "https://b.org/s.js"),
        ("a.html", "//c.org/f.css"),
        ("b.css", "https://d.org/f.woff"),
    ]


def test_a_row_that_a_line_cut_off_from_its_table_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<table><td>1</td></table><p>| a | b |\n| 1 | 2 |</p>")
    (tmp_path / "b.html").write_text("<p>a | b</p>")
    assert list(build_site.rows_apart(tmp_path)) == [("a.html", "| a | b |")]


def test_a_picture_twice_as_wide_as_high_is_marked_as_wide(tmp_path: Path) -> None:
    for name, width in (("a", 200), ("b", 199)):
        size = width.to_bytes(4, "big") + (100).to_bytes(4, "big")
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size)
    page = tmp_path / "page.html"
    page.write_text('<img alt="A" src="a.png" /><img alt="B" src="b.png" />')
    build_site.mark_wide_pictures(tmp_path)
    assert page.read_text() == (
        '<img class="wide" alt="A" src="a.png" /><img alt="B" src="b.png" />'
    )


def test_every_page_has_its_place_in_the_contents() -> None:
    contents = (build_site.DOCS / build_site.CONTENTS).read_text(encoding="utf-8")
    listed = {line.split("<")[-1].rstrip(">") for line in contents.splitlines()}
    pages = {place.removesuffix(".md") for place in build_site.places() if place.endswith(".md")}
    assert pages - {"index"} <= listed


def test_snu_docs_opens_the_site_from_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "index.html"
    page.write_text("<p>")
    opened: list[str] = []
    monkeypatch.setattr(begin, "SITE", tmp_path)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert cli.main(["docs"]) == 0
    assert opened == [page.as_uri()]
    assert capsys.readouterr().out.strip() == str(page)


def test_snu_docs_says_what_to_type_where_the_site_is_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(begin, "SITE", tmp_path)
    assert cli.main(["docs"]) == 2
    assert "docs/make/build_site.py" in capsys.readouterr().err


def test_pictures_of_the_site_are_smaller_and_show_the_same() -> None:
    Image = pytest.importorskip("PIL.Image")
    picture = (build_site.DOCS / "life.png").read_bytes()
    light = build_site.lighter(picture)
    assert len(light) < 0.6 * len(picture)
    assert build_site.lighter(light) == light
    shown = [Image.open(io.BytesIO(each)).convert("RGBA") for each in (picture, light)]
    assert shown[0].size == shown[1].size
    before, after = (np.asarray(each, dtype=float) for each in shown)
    assert abs(before - after).mean() < 2  # of 255
