"""What ``verify`` prints fits a terminal, however many simulators and sentences there are."""

from snu_plugin.graph.checking import Verdict
from snu_plugin.graph.report import LONGEST, Report, Run

NAMES = ("snntorch", "norse", "sinabs", "spikingjelly", "rockpool", "spyx", "sc-neurocore")


def report_of(runs: tuple[Run, ...]) -> Report:
    return Report(
        dt=2**-10,
        dt_source="declared",
        steps=10,
        batch=2,
        inputs="as given",
        compared="spikes",
        active=0.5,
        near_threshold=0.0,
        fired={"lif": 1.0},
        nodes=(Verdict("lif", "LIF", "exact", "strict forward Euler " * 8, "tau"),),
        notes=(),
        runs=runs,
        readers={"lif": runs},
        known={"lava": {f"lif{i}": "left out without a word" for i in range(40)}},
        named=True,
        versions={"torch": "2"},
    )


def test_every_table_of_a_report_fits_80_columns_and_loses_no_word() -> None:
    said = "a sentence that explains at length " * 4
    runs = tuple(
        Run(name, importer, "refused", message=said)
        for name in NAMES
        for importer in ("plugin", "stock")
    )
    report = report_of(runs)
    text = str(report)
    verdict = report.problems and f"not exact: {'; '.join(report.problems)}"
    tables = [line for line in text.splitlines() if line != verdict]
    assert max(map(len, tables)) <= 80
    assert text.count("Euler") == 8
    assert text.count("explains") == 4 * len(runs)
    assert all(f"{name} stock" in text for name in NAMES)
    assert text.count("node alone") > 1
    assert "lif39" in text


def test_a_table_shows_the_beginning_of_a_message_of_a_thousand_characters() -> None:
    run = Run("snntorch", "stock", "refused", message="TypeError: conv2d() got " + "Tensor, " * 125)
    text = str(report_of((run,)))
    assert "TypeError: conv2d() got Tensor" in " ".join(text.split())
    assert text.count("Tensor") < LONGEST / len("Tensor")
    assert run.message in report_of((run,)).to_dict()["runs"][0]["message"]
