"""What the README shows works as it stands there."""

import re
from pathlib import Path

from forked import Process

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_of_the_readme_runs_and_shows_what_it_claims(tmp_path: Path) -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 36
    ran = Process(
        f"import warnings; warnings.simplefilter('ignore')\n{code}", folder=tmp_path, ours=True
    )
    assert ran.wait() == 0, ran.err
    error = {name: float(value) for name, value in map(str.split, ran.out.splitlines())}
    assert error["ideal"] == error["float"]
    assert error["tuned"] < 3 * error["float"] + 0.05


def test_the_two_lines_of_the_readme_are_there_and_ci_runs_the_second() -> None:
    try_it, test_it = (block.strip() for block in blocks("sh"))
    assert try_it.endswith("snu demo")
    assert test_it in (ROOT / ".ci" / "run").read_text()


def test_every_picture_of_the_readme_exists() -> None:
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_the_page_on_installing_names_every_extra_and_what_all_leaves_out() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    of = dict(re.findall(r"^(\w+) = \[(.*?)\]", extras, re.MULTILINE))
    whole = set(of.pop("all").partition("[")[2].split(","))
    users = of.keys() - {"docs", "notebooks", "test"}
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page.partition("| extra |")[2].partition("\n\n")[0], re.M)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == users
    (left_out,) = re.findall(r"^All but (.*) are in `all`", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", left_out)) == users - whole
