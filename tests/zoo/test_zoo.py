"""The networks that come along: small, read without a network of computers, as good as they say."""

import json
from pathlib import Path

import pytest
import torch

import zoo_cards
from snu_plugin import cli, graph, zoo

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
NAMES = sorted(zoo.cards())


@pytest.mark.parametrize("name", NAMES)
def test_every_network_runs_and_its_card_says_what_it_takes(name: str) -> None:
    card, g = zoo.card(name), zoo.read(name)
    network = graph.network(g)
    widths = list(map(int, card.network.split("-")))
    inputs, outputs = widths[0], widths[-1]
    y, _ = network((torch.rand(3, 2, inputs) < 0.2).float())
    assert y.shape == (3, 2, outputs)
    assert sum(p.numel() for p in network.parameters()) == card.parameters
    assert card.path.stat().st_size <= 2e6
    assert max(map(len, str(card).splitlines())) <= 80
    assert card.name in card._repr_html_()


def test_all_of_them_are_small_and_each_graph_has_a_card() -> None:
    graphs = {path.stem: path.stat().st_size for path in zoo.FOLDER.glob("*.nir")}
    assert sorted(graphs) == NAMES
    assert sum(graphs.values()) <= 8e6


def test_a_network_is_copied_but_never_over_another_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["zoo", "get", "jsb-snu", "--out", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    copied = Path(said["graph"])
    assert copied == tmp_path / "jsb-snu.nir"
    assert copied.read_bytes() == zoo.card("jsb-snu").path.read_bytes()
    assert said["card"]["score"] == zoo.card("jsb-snu").score
    assert cli.main(["zoo", "get", "jsb-snu", "--out", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert zoo.get("jsb-snu", tmp_path / "other.nir").name == "other.nir"


def test_the_list_fits_80_columns_and_tells_of_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo"]) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert all(name in shown for name in NAMES)
    assert cli.main(["zoo", "list", "jsb-snu"]) == 0
    assert "snu reproduce jsb" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["zoo", "list", "--json"]) == 0
    assert [card["name"] for card in json.loads(capsys.readouterr().out)] == NAMES


def test_an_unknown_network_is_refused_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, said in [(["get", "jsb-snv"], "did you mean jsb-snu?"), (["get"], "give one of")]:
        assert cli.main(["zoo", *given, "--out", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_network_has_the_score_of_its_card_and_every_simulator_here_runs_it(name: str) -> None:
    task = zoo_cards.TASKS[zoo_cards.ENTRIES[name].task]
    if not (DATA / task.file).exists():
        pytest.skip(f"needs the data set, looked for {DATA / task.file}")
    card, g, one = zoo.card(name), zoo.read(name), zoo_cards.test_of(name, DATA)
    # A spike here and there is decided by how a machine rounds products.
    close = 0.005 if card.better == "lower" else 0.1
    assert zoo_cards.score(g, one, card.steps) == pytest.approx(card.score, abs=close)
    report = graph.verify(g, one.leaves()[1])
    assert report.exact, str(report)
