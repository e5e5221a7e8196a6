"""What is handed out: wheel and source, the same bytes each time, and versions known as good."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lock import LOCK, wanted

ROOT = Path(__file__).parents[2]
LEFT_OVER = "__pycache__", ".pyc", ".nbi", ".nbc", ".so", ".pem", ".key", ".env"


def built(kind: str, folder: Path) -> Path:
    builders = pytest.importorskip(f"hatchling.builders.{kind}")
    builder = {"wheel": "WheelBuilder", "sdist": "SdistBuilder"}[kind]
    folder.mkdir()
    return Path(next(getattr(builders, builder)(str(ROOT)).build(directory=str(folder))))


def names(file: Path) -> list[str]:
    if file.suffix == ".whl":
        return zipfile.ZipFile(file).namelist()
    with tarfile.open(file) as archive:
        return [name.partition("/")[2] for name in archive.getnames()]


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(request.param, tmp_path_factory.mktemp("dist") / "first")


def test_what_is_built_twice_is_the_same_bytes(made: Path, tmp_path: Path) -> None:
    again = built("wheel" if made.suffix == ".whl" else "sdist", tmp_path / "again")
    assert again.name == made.name
    assert again.read_bytes() == made.read_bytes()


def test_nothing_that_a_machine_left_is_handed_out(made: Path) -> None:
    odd = [name for name in names(made) if any(part in name for part in LEFT_OVER)]
    assert not odd


def test_a_wheel_holds_the_three_packages_and_nothing_beside_them(made: Path) -> None:
    if made.suffix != ".whl":
        pytest.skip("of the wheel alone")
    found = names(made)
    tops = {name.split("/")[0] for name in found}
    assert tops == {"snu_plugin", "snu_snntorch", "snu_norse", "snu_plugin-0.1.0.dist-info"}
    for package in ("snu_plugin", "snu_snntorch", "snu_norse"):
        assert f"{package}/py.typed" in found
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "snu_plugin").rglob("*.py")}
    assert {name for name in found if name.startswith("snu_plugin/") and name.endswith(".py")} == {
        name for name in sources if "/site/" not in name
    }
    assert any(name.endswith("licenses/LICENSE") for name in found)


def test_a_source_distribution_can_be_built_tested_and_read(made: Path) -> None:
    if made.suffix == ".whl":
        pytest.skip("of the source alone")
    found = set(names(made))
    assert {
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "requirements-lock.txt",
        "tests/conftest.py",
        "docs/design.md",
        "adapters/snu_norse/py.typed",
    } <= found


def locked() -> dict[str, str]:
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


@pytest.mark.parametrize("need", wanted(), ids=str)
def test_every_need_is_locked_at_a_version_that_it_allows(need: Requirement) -> None:
    if need.marker is not None and not need.marker.evaluate({"extra": ""}):
        pytest.skip("not needed by this Python")
    assert need.specifier.contains(locked()[canonicalize_name(need.name)])


def test_the_lock_names_versions_and_no_place_to_get_them_from() -> None:
    content = LOCK.read_text()
    assert "://" not in content
    assert "--" not in content.replace("docs/make", "")
    assert all(version and "+" not in version for version in locked().values())
