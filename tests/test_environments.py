"""Other simulators in environments of their own: listed, made, run in, removed."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import module_from_spec
from pathlib import Path

import pytest

from same_process import simulators_here
from small_graphs import graph
from snu_plugin import cli, environments, simulators
from snu_plugin.graph import verify

JELLY = """
from snu_plugin.graph import network

def import_from_nir(graph, dt):
    net = network(graph, dt)
    def step(x, state):
        y, state = net(x[None], state)
        return y[0], state
    return step
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def installing(monkeypatch: pytest.MonkeyPatch, code: str = JELLY) -> None:
    """Let ``install`` make an environment without pip, and a package in place of the simulator."""

    class Bare(venv.EnvBuilder):
        def __init__(self, with_pip: bool) -> None:
            super().__init__(with_pip=False)

    real = environments._run

    def run(command: list[str]) -> str:
        if "pip" not in command:
            return real(command)
        packages = environments._packages(environments.folder("spikingjelly"))
        package = packages / "spikingjelly" / "activation_based" / "nir_exchange"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(code)
        (packages / "spikingjelly" / "__init__.py").touch()
        about = packages / "spikingjelly-2.0.0.dist-info"
        about.mkdir(exist_ok=True)
        (about / "METADATA").write_text("Name: spikingjelly\nVersion: 2.0.0\n")
        return ""

    monkeypatch.setattr(venv, "EnvBuilder", Bare)
    monkeypatch.setattr(environments, "_run", run)


def test_a_simulator_that_is_not_here_is_listed_with_how_to_install_it() -> None:
    rows = {row.name: row for row in environments.listed()}
    assert set(rows) == {*simulators.adapters(), *simulators.SIMULATORS}
    for name in set(simulators.SIMULATORS) - set(simulators.installed()):
        assert not rows[name].runs
        assert rows[name].where == f"snu simulators install {name}"
        assert rows[name].megabytes > 0


def test_a_simulator_runs_in_its_environment_and_nothing_of_the_users_folder_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installing(monkeypatch)
    said: list[str] = []
    path = environments.install("spikingjelly", said.append)
    assert "MB" in said[0]
    assert environments.contents("spikingjelly") == {"spikingjelly": "2.0.0"}
    (row,) = [row for row in environments.listed() if row.name == "spikingjelly"]
    assert (row.where, row.version, row.runs) == (str(path), "2.0.0", True)
    poisoned = tmp_path / "here"
    poisoned.mkdir()
    for name in ("torch", "nir", "json", "snu_plugin"):
        (poisoned / f"{name}.py").write_text("raise SystemExit('imported from the folder')")
    monkeypatch.chdir(poisoned)
    report = verify(graph(), simulators=["spikingjelly"])
    assert [run.status for run in report.runs] == ["exact"]
    assert report.versions["spikingjelly"] == "2.0.0"
    assert report.elsewhere == ("spikingjelly",)
    assert environments.remove("spikingjelly")
    assert not path.exists()
    assert not environments.remove("spikingjelly")


def test_an_installation_that_broke_off_is_none_until_it_is_completed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installing(monkeypatch)
    whole = environments._run

    def offline(command: list[str]) -> str:
        raise subprocess.CalledProcessError(1, command, stderr="ERROR: no network\nmore")

    monkeypatch.setattr(environments, "_run", offline)
    with pytest.raises(OSError, match=r"spikingjelly could not be installed .*no network$"):
        environments.install("spikingjelly")
    assert environments.contents("spikingjelly") is None
    assert "spikingjelly" not in environments.available()
    monkeypatch.setattr(environments, "_run", whole)
    environments.install("spikingjelly")
    assert "spikingjelly" in environments.available()


def test_one_that_cannot_be_imported_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installing(monkeypatch)
    real = environments._run

    def broken(command: list[str]) -> str:
        told = real(command)
        packages = environments._packages(environments.folder("spikingjelly"))
        (packages / "spikingjelly" / "__init__.py").write_text("raise ImportError('no libfoo')")
        return told

    monkeypatch.setattr(environments, "_run", broken)
    with pytest.raises(OSError, match="no libfoo"):
        environments.install("spikingjelly")
    assert environments.contents("spikingjelly") is None


EXCHANGE = "spikingjelly.activation_based.nir_exchange"
REFUSES = "def import_from_nir(graph, dt):\n    raise ValueError('I know no LIF')\n"


@pytest.mark.parametrize(("named", "exact"), [(None, True), (["spikingjelly"], False)])
def test_a_refusal_there_counts_only_where_the_simulator_was_named(
    named: list[str] | None, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulators_here(monkeypatch)  # that it runs elsewhere is shown above
    installing(monkeypatch, REFUSES)
    environments.install("spikingjelly")
    for name in ("spikingjelly", "spikingjelly.activation_based", EXCHANGE):
        module = module_from_spec(ModuleSpec(name, None))
        monkeypatch.setitem(sys.modules, name, module)
    exec(REFUSES, vars(sys.modules[EXCHANGE]))
    monkeypatch.setattr(environments, "installed", tuple)
    report = verify(graph(), simulators=named)
    (run,) = [run for run in report.runs if run.simulator == "spikingjelly"]
    assert (run.status, run.message) == ("refused", "ValueError: I know no LIF")
    assert report.exact == exact


def test_another_version_of_a_package_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "contents", lambda name: {"nir": "1.0.4", "numpy": "0.1"})
    told = environments.conflicts("sinabs")
    assert f"nir 1.0.4 there, {version('nir')} here" in told


def test_the_command_lists_installs_and_removes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installing(monkeypatch)
    assert cli.main(["simulators", "install", "spikingjelly"]) == 0
    assert cli.main(["simulators"]) == 0
    assert str(environments.folder("spikingjelly")) in capsys.readouterr().out
    assert cli.main(["simulators", "remove", "spikingjelly"]) == 0
    assert cli.main(["simulators", "install", "brian"]) == 2
    assert "no simulator 'brian'" in capsys.readouterr().err
    assert cli.main(["simulators", "install"]) == 2
