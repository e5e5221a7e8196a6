"""What ``verify`` prints fits a terminal, however many simulators and sentences there are."""

from snu_plugin.graph.checking import Verdict
from snu_plugin.graph.report import Report, Run

NAMES = ("snntorch", "norse", "sinabs", "spikingjelly", "rockpool", "spyx", "sc-neurocore")


def test_every_table_of_a_report_fits_80_columns_and_loses_no_word() -> None:
    runs = tuple(
        Run(name, importer, "refused", message="a sentence that explains at length " * 4)
        for name in NAMES
        for importer in ("plugin", "stock")
    )
    report = Report(
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
    text = str(report)
    verdict = report.problems and f"not exact: {'; '.join(report.problems)}"
    tables = [line for line in text.splitlines() if line != verdict]
    assert max(map(len, tables)) <= 80
    assert text.count("Euler") == 8
    assert text.count("explains") == 4 * len(runs)
    assert all(f"{name} stock" in text for name in NAMES)
    assert text.count("node alone") > 1
    assert "lif39" in text
