"""The pages that ``--report`` leaves."""

from __future__ import annotations

import html
import re
import shlex
import shutil
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

from browser import said_in_browser
from snu_plugin import cli, graph
from snu_plugin.experiments import reports
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig

pytest.importorskip("jinja2", reason="needs jinja2")
pytest.importorskip("matplotlib", reason="needs matplotlib")

DT = 2.0**-10
OUT = ("--out", "OUT")
FOLDER = ("--out", "FOLDER")
PROBE = """<script>
addEventListener("load", () => console.log(
  `beyond ${document.documentElement.scrollWidth - innerWidth} wide ${innerWidth}`));
</script>"""
"""Tells by how much the page is wider than where it is shown."""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Write a graph with a node of an awkward name, and labelled data."""
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([6])}),
        "<b>&fc": nir.Linear(draw.normal(size=(4, 6))),
        "snu": encode_snu(SNUConfig(), 0.8, np.ones(4), dt=DT),
        "out": nir.Output({"output": np.array([4])}),
    }
    edges = [("in", "<b>&fc"), ("<b>&fc", "snu"), ("snu", "out")]
    graph.write(tmp_path / "g.nir", stamp(nir.NIRGraph(nodes, edges), DT))
    x = (draw.random((10, 20, 6)) < 0.4).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, labels=draw.integers(0, 4, 20))
    return str(tmp_path / "g.nir"), str(tmp_path / "d.npz")


def page(path: Path) -> str:
    """Return a page that holds everything itself, with its titles and pictures in order."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:image/png)', text)
    assert "<b>&fc" not in text
    return text


def headings(text: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", text)


def test_verify_shows_simulators_nodes_and_layers(tmp_path: Path, files: tuple[str, str]) -> None:
    g = graph.read(files[0])
    found = graph.verify(g, None, [])
    text = page(reports.of_verify(tmp_path / "v.html", found, g, None, command="snu"))
    assert headings(text)[:3] == ["What simulators make of it", "Each node", "What the layers do"]
    assert "Not exact: no simulator ran." in text
    assert "&lt;b&gt;&amp;fc" in text
    assert text.count("<img") == 3


def test_map_shows_tiles_and_costs_and_what_is_broken(
    tmp_path: Path, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "map.html"
    assert cli.main(["map", *files, "--report", str(out)]) == 0
    text = page(out)
    assert "Yes: on 1 of 64 tiles of PCM." in text
    assert text.count("<img") == 2
    (tmp_path / "small.toml").write_text("tiles = 1\ntile_rows = 2\ntile_columns = 2\n")
    few = ["--chip", str(tmp_path / "small.toml"), "--report", str(out)]
    assert cli.main(["map", *files, *few]) == 1
    assert "What is broken" in page(out)


def test_run_shows_the_score_over_ages_and_what_the_layers_do(
    tmp_path: Path, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run.html"
    few = ["--chips", "1", "--reads", "1", "--at", "1h,30 d"]
    assert cli.main(["run", *files, *few, "--report", str(out)]) == 0
    text = page(out)
    assert ">30 d</th>" in text
    assert headings(text)[:2] == ["The score", "What a time step costs"]
    assert "What the layers do" in text


def test_tune_shows_its_gain_beside_recalibrating(
    tmp_path: Path, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tune.html"
    few = ["--epochs", "1", "--out", str(tmp_path / "t.nir"), "--report", str(out)]
    assert cli.main(["tune", *files, *few]) == 0
    text = page(out)
    rows = re.findall(r'<th scope="row">(.*?)</th>', text)
    kept = "the same, read again: nothing was kept"  # labels are drawn: there is nothing to learn
    assert rows[:4] == ["no chip", "left alone", "recalibrated", kept]
    assert "1 d after programming" in text


@pytest.mark.parametrize(
    "typed",
    [
        ["map", "G", "D", "--activity", "0.3", "--chip", "HERMES"],
        ["run", "G", "D", "--chips", "1", "--reads", "1", "--at", "1h,30 d", "--outliers", "0.1"],
        *(
            pytest.param(typed, marks=pytest.mark.slow)
            for typed in (
                ["verify", "G", "--simulators", "snntorch", "--dt", str(DT)],
                ["tune", "G", "D", "--epochs", "1", "--rule", "mixed:2", "--seed", "3", *OUT],
                ["life", "G", "D", "--for", "60 d", "--do", "none", "--chips", "1", *FOLDER],
            )
        ),
    ],
    ids=lambda typed: typed[0],
)
def test_the_command_on_a_page_gives_the_page_again(
    tmp_path: Path,
    files: tuple[str, str],
    typed: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "it's a page & more.html"
    places = {
        "G": files[0],
        "D": files[1],
        "OUT": str(tmp_path / "t.nir"),
        "FOLDER": str(tmp_path / "life"),
        "L": str(tmp_path / "l"),
    }
    cli.main([*(places.get(word, word) for word in typed), "--report", str(out)])
    first = page(out)
    out.unlink()
    found = re.search(r"<pre tabindex=\"0\"><code>(.*?)</code>", first)
    assert found is not None
    name, *again = shlex.split(html.unescape(found[1]))
    assert name == "snu"
    cli.main(again)
    assert page(out) == first


def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["map", files[0], "--report", str(tmp_path / "no" / "r.html")]) == 2
    assert "its folder does not exist, make it first" in capsys.readouterr().err
    assert cli.main(["map", files[0], "--report", str(tmp_path)]) == 2
    assert "a folder; give a file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_nothing_is_wider_than_the_window_of_a_browser_and_nothing_is_complained_of(
    tmp_path: Path, files: tuple[str, str], width: int, scheme: int
) -> None:
    g = graph.read(files[0])
    x = torch.ones(20, 2, 6)
    found = graph.verify(g, x, ["snntorch"])
    path = reports.of_verify(tmp_path / "v.html", found, g, x, command="snu")
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>"))
    # A window is at least 500 wide, a frame in it as narrow as a phone.
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe src="{path.as_uri()}" width="{width}" height="900" frameborder="0">')
    said = said_in_browser(frame, scheme=scheme, milliseconds=3000, most_s=120)
    assert said == [f"beyond 0 wide {width}"]
