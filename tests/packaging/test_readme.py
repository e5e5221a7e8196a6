"""What the README shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_of_the_readme_runs_and_shows_what_it_claims(tmp_path: Path) -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 36
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    error = {name: float(value) for name, value in map(str.split, ran.stdout.splitlines())}
    assert error["ideal"] == error["float"]
    assert error["tuned"] < 3 * error["float"] + 0.05


def test_the_two_lines_of_the_readme_are_there_and_ci_runs_the_second() -> None:
    try_it, test_it = (block.strip() for block in blocks("sh"))
    assert try_it.endswith("snu demo")
    assert test_it in (ROOT / ".ci" / "run").read_text()


def test_every_picture_of_the_readme_exists() -> None:
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
