"""What the guide to a device of one's own shows works as it stands there."""

import re
from pathlib import Path

import pytest

import settings_page
from forked import Process
from snu_plugin import cli

GUIDE = (Path(__file__).parents[2] / "docs" / "own_device.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def block(language: str) -> str:
    return blocks(language)[0]


def test_a_device_from_a_table_of_ten_lines_is_drawn_written_and_aged_and_one_of_a_class_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    assert len(block("csv").splitlines()) == 11
    (tmp_path / "mine.csv").write_text(block("csv"), encoding="utf-8")
    (tmp_path / "mine.toml").write_text(block("toml"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    name, *arguments = block("sh").split()
    assert name == "snu"
    assert cli.main(arguments) == 0
    promised = set(re.findall(r"`(\w+\.png)`", GUIDE))
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == promised
    shown = "\nprint(float(abs(fresh).mean()), float(abs(aged).mean()))"
    strict = "import warnings; warnings.simplefilter('error')\n"
    table, own_class = blocks("python")
    ran = Process(strict + table + shown + "\n" + own_class)
    assert ran.wait() == 0, ran.err
    *numbers, left = ran.out.split()
    fresh, aged = map(float, numbers)
    assert [left] == blocks("text")[0].split()
    assert 0.5 * fresh < aged < 0.8 * fresh  # (8640)^-0.05 is 0.64


def test_the_page_of_settings_is_what_stands_beside_the_fields() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), (
        "run docs/make/settings_page.py"
    )
