"""What to type for an extra, by where the package came from."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from snu_plugin import origin

ROOT = Path(__file__).parents[2]


def told_by(folder: Path, record: object | None) -> str:
    """Return what a copy of the file says that pip put into a folder, with that record of it."""
    (folder / "snu_plugin").mkdir(parents=True)
    (folder / "snu_plugin" / "origin.py").write_text(Path(origin.__file__).read_text())
    about = folder / "snu_plugin-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: snu-plugin\nVersion: 0.1.0\n")
    if record is not None:
        (about / "direct_url.json").write_text(json.dumps(record))
    code = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(folder / 'snu_plugin')!r}]; "
        "import origin; print(origin.how_to_install('tasks'))"
    )
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    return said.stdout.strip()


def test_from_a_clone_the_clone_is_named() -> None:
    said = origin.how_to_install("tasks")
    assert shlex.split(said) == ["pip", "install", "-e", f"{ROOT}[tasks]"]


@pytest.mark.parametrize("name", ["snu_plugin-0.1.0-py3-none-any.whl", "a b"])
def test_from_a_wheel_or_a_folder_it_is_named(tmp_path: Path, name: str) -> None:
    said = told_by(tmp_path / "site", {"url": (tmp_path / name).as_uri(), "archive_info": {}})
    assert shlex.split(said) == ["pip", "install", f"{tmp_path / name}[tasks]"]


@pytest.mark.parametrize("record", [None, {}, [], {"url": "https://example.org/x.whl"}])
def test_from_elsewhere_the_name_is_said(tmp_path: Path, record: object) -> None:
    assert told_by(tmp_path / "site", record) == "pip install 'snu-plugin[tasks]'"
