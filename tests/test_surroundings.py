"""Where the package has to work: threads, forks, workers, notebooks, locales, homes, long paths."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from snu_plugin import SNU, cli, files, graph, simulators, snu_scan
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig

DT = 2.0**-10
HOSTS = pytest.mark.parametrize("host", ["snntorch", "norse"])


def module(host: str) -> Any:
    return pytest.importorskip({"snntorch": "snntorch", "norse": "norse.torch"}[host])


def inputs(*shape: int) -> Tensor:
    return torch.rand(shape or (20, 8, 30), generator=torch.Generator().manual_seed(0))


def chip_files(folder: Path) -> tuple[Path, Path]:
    """Leave a graph and data that fit in a folder."""
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([4])}),
        "fc": nir.Linear(draw.normal(size=(3, 4))),
        "snu": encode_snu(SNUConfig(), 0.8, np.ones(3), dt=DT),
        "out": nir.Output({"output": np.array([3])}),
    }
    edges = [("in", "fc"), ("fc", "snu"), ("snu", "out")]
    graph.write(folder / "g.nir", stamp(nir.NIRGraph(nodes, edges), DT))
    labels = draw.integers(0, 3, 20)
    np.savez(folder / "d.npz", x=draw.random((6, 20, 4)) < 0.4, labels=labels)
    return folder / "g.nir", folder / "d.npz"


@HOSTS
def test_of_threads_that_register_the_last_to_leave_takes_back(host: str) -> None:
    adapter, there = simulators.adapter(host), module(host)
    first_left, both_in = threading.Event(), threading.Barrier(2)

    def first() -> None:
        with adapter.registered():
            both_in.wait(60)
        first_left.set()

    def second() -> bool:
        with adapter.registered():
            both_in.wait(60)
            first_left.wait(60)
            return hasattr(there, "SNU")

    with ThreadPoolExecutor(2) as pool:
        pool.submit(first)
        assert pool.submit(second).result(60)
    assert not hasattr(there, "SNU")


@HOSTS
def test_threads_that_register_again_and_again_never_miss_a_name(host: str) -> None:
    adapter, there = simulators.adapter(host), module(host)

    def often(_: int) -> int:
        missed = 0
        for _ in range(100):
            with adapter.registered():
                missed += not hasattr(there, "SNU")
        return missed

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(often, range(4))) == 0
    assert not hasattr(there, "SNU")


@HOSTS
def test_a_cell_of_a_notebook_may_register_again(host: str) -> None:
    adapter, there = simulators.adapter(host), module(host)
    adapter.register()
    try:
        adapter.register()
        with adapter.registered():
            pass
        assert hasattr(there, "SNU")
    finally:
        adapter.unregister()
    assert not hasattr(there, "SNU")


def test_a_class_that_a_cell_defines_again_leaves_as_it_is_now() -> None:
    found = []
    for units in (3, 5):  # the same cell, run twice

        class Net(nn.Module):
            def __init__(self, units: int) -> None:
                super().__init__()
                self.fc, self.snu = nn.Linear(4, units), SNU(units)

            def forward(self, x: Tensor) -> Tensor:
                y: Tensor = self.snu(self.fc(x))[0]
                return y

        found.append(graph.to_nir(Net(units), inputs(6, 2, 4), dt=DT))
    weights = [[n.weight.shape for n in g.nodes.values() if hasattr(n, "weight")] for g in found]
    assert weights == [[(3, 4)], [(5, 4)]]


def test_threads_that_scan_at_once_give_what_one_gives() -> None:
    x = inputs(50, 4, 200)
    wanted = snu_scan(x)[0]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: snu_scan(x)[0], range(16)))
    assert all(torch.equal(y, wanted) for y in found)


def in_a_process(queue: Any) -> None:
    x = inputs().requires_grad_()
    y, _ = snu_scan(x)
    y.sum().backward()  # type: ignore[no-untyped-call]  # torch's
    queue.put((y.detach().numpy(), x.grad.numpy()))  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("way", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_process_that_was_forked_or_spawned_computes_the_same(way: str) -> None:
    if way not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {way} here")
    x = inputs().requires_grad_()
    y, _ = snu_scan(x)  # so threads of OpenMP are there, which no fork has
    y.sum().backward()  # type: ignore[no-untyped-call]  # torch's
    context: Any = multiprocessing.get_context(way)
    queue = context.SimpleQueue()
    process = context.Process(target=in_a_process, args=(queue,))
    process.start()
    found, grad = queue.get()
    process.join(60)
    assert process.exitcode == 0
    assert np.array_equal(found, y.detach().numpy())
    assert np.array_equal(grad, x.grad.numpy())  # type: ignore[union-attr]


class Encoded(Dataset[Tensor]):
    """Inputs that a layer of neurons has encoded, in whatever process asks."""

    def __init__(self) -> None:
        self.layer = SNU(30)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, item: int) -> Tensor:
        y: Tensor = self.layer(inputs(20, 1, 30) * (item + 1))[0].detach()
        return y


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_of_a_data_loader_run_layers() -> None:
    alone = [batch for batch in DataLoader(Encoded(), batch_size=2)]
    shared = [batch for batch in DataLoader(Encoded(), batch_size=2, num_workers=2)]
    assert len(shared) == 3
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


LONG = "/".join(["a folder, ünïcödé and 音楽 " + "x" * 30] * 6)


def runs(folder: Path) -> list[list[str]]:
    """Return commands that read and write below a folder."""
    g, d = map(str, chip_files(folder))
    return [
        ["map", g, d, "--out", str(folder / "map")],
        ["run", g, d, "--at", "1h", "--chips", "1", "--reads", "1", "--out", str(folder / "run")],
        ["tune", g, d, "--epochs", "1", "--out", str(folder / "tuned.nir")],
    ]


def test_paths_may_be_long_and_hold_spaces_and_any_script(tmp_path: Path) -> None:
    folder = tmp_path / LONG
    folder.mkdir(parents=True)
    assert len(str(folder)) > 300
    assert [cli.main(words) for words in runs(folder)] == [0, 0, 0]
    graph.network(graph.read(folder / "tuned.nir"))
    assert {"map", "run", "tuned.nir", "tuned.chip.npz"} <= {p.name for p in folder.iterdir()}


ALL = """
import os, pwd, sys
def unknown(user):
    raise KeyError(user)
if "HOME" not in os.environ:
    pwd.getpwuid = unknown
from snu_plugin import cli
for words in {runs!r}:
    if cli.main(words) != 0:
        sys.exit(f"failed: {{words}}")
"""


def elsewhere(
    folder: Path, environment: dict[str, str], *more: list[str]
) -> subprocess.CompletedProcess[str]:
    """Run commands in a process with another environment; a name that is empty is taken out.

    Without ``HOME`` the system knows none either.
    """
    given = {**os.environ, **environment}
    clean = {name: value for name, value in given.items() if value or name not in environment}
    code = ALL.format(runs=[*runs(folder), *more])
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(
        command, env=clean, capture_output=True, text=True, cwd=folder, errors="replace"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONOPTIMIZE": "2"},
        {"LC_ALL": "C"},
        {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"},
        {"PYTHONIOENCODING": "ascii", "TZ": "UTC-14"},
    ],
    ids=lambda environment: ",".join(environment.values()),
)
def test_interpreters_locales_and_time_zones_change_nothing(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    scores = []
    for name, changed in (("usual", {}), ("other", environment)):
        (tmp_path / name).mkdir()
        ran = elsewhere(tmp_path / name, changed, ["info"], ["info", "--chip", "PCM"])
        assert ran.returncode == 0, ran.stderr
        scores.append((tmp_path / name / "run" / "scores.csv").read_bytes())
    assert scores[0] == scores[1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that root cannot write")
@pytest.mark.parametrize("home", ["/proc", ""], ids=["read-only", "none"])
def test_without_a_home_that_can_be_written_commands_run(tmp_path: Path, home: str) -> None:
    there = {"HOME": home, "XDG_CACHE_HOME": "", "MPLCONFIGDIR": ""}
    ran = elsewhere(tmp_path, there, ["info"], ["simulators"])
    assert ran.returncode == 0, ran.stderr


def test_without_a_home_a_cache_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OSError, match="set XDG_CACHE_HOME to a folder"):
        files.cache_folder()
    assert cli.main(["simulators"]) == 0
    assert cli.main(["simulators", "install", "sinabs"]) == 2


def test_what_a_terminal_cannot_show_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as narrow:
        monkeypatch.setattr(sys, "stdout", narrow)
        assert cli.main(["info", "--chip", "PCM"]) == 0
    assert "g_max_us" in (tmp_path / "out").read_text()


@pytest.mark.parametrize("name", ["tuned.nir", "out"])
def test_a_folder_that_is_read_only_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    g, d = map(str, chip_files(tmp_path))
    (tmp_path / "shut").mkdir()

    def refused(*_: object, **__: object) -> Any:
        raise PermissionError(13, "Permission denied", str(tmp_path / "shut"))

    work: Callable[..., Any] = lambda *_, **__: pytest.fail("the work began")  # noqa: E731
    monkeypatch.setattr("snu_plugin.experiments.tuning.aged_chip", work)
    monkeypatch.setattr(Path, "open", refused)
    assert cli.main(["tune", g, d, "--out", str(tmp_path / "shut" / name)]) == 2
    assert "Permission denied" in capsys.readouterr().err
