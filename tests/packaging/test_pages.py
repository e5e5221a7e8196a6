"""Every block of code in the documentation runs, and prints what stands behind it."""

import math
import re
import sys
from pathlib import Path

import pytest

import run_pages

ELSEWHERE = {"own_device.md": "test_own_device.py"}
"""Pages that have a test of their own."""

SLOW = {
    "many_processes",
    "norse_network",
    "verify_a_file",
    "tune_in_the_loop",
    "onto_a_chip",
    "ten_years",
    "graph",
    "losses",
}
"""Pages over 3 s; ``.ci/run`` runs them, too."""

PAGES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
    for path in run_pages.pages()
    if path.name not in ELSEWHERE
]
NUMBER = re.compile(r"\d+\.\d+")


def same(shown: str, printed: str) -> bool:
    """Tell whether two texts have the same words, and fractions that are as good as the same."""
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(close(a, b) for a, b in pairs)


def close(a: str, b: str) -> bool:
    """Machines round products otherwise, which a spike here and there shows."""
    last_digit = 10.0 ** -len(a.partition(".")[2])
    return math.isclose(float(a), float(b), rel_tol=0.05, abs_tol=1.5 * last_digit)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for block, printed in run_pages.run(page):
        if page.suffix == ".md":
            assert same(block.shown, printed), (
                f"{page.name}, line {block.line}, prints\n{printed}\nnot\n{block.shown}\n"
                "run docs/make/run_pages.py"
            )


def test_an_output_that_says_something_else_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('two', 2.04)\n```\n\n```text\ntwo 2.05\n```\n")
    ((block, printed),) = run_pages.run(page)
    assert same(block.shown, printed)
    for wrong in ("three 2.05", "two 2.50", "two", "two 2"):
        assert not same(wrong, printed)


def test_what_a_page_prints_can_be_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "This is `a.csv`:\n\n```csv\n1,2\n```\n\n<!-- not run: why -->\n```python\n1 / 0\n```\n\n"
        "```python\nprint(open('a.csv').read())\n```\n\nAnd on.\n"
    )
    run_pages.fill(page)
    once = page.read_text()
    assert once.endswith("```\n\n```text\n1,2\n```\n\nAnd on.\n")
    run_pages.fill(page)
    assert page.read_text() == once
