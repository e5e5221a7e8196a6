"""Tables on a terminal."""

from dataclasses import replace

from snu_plugin.accelerator import HERMES, PCM, describe
from snu_plugin.experiments.info import chip_text
from snu_plugin.experiments.settings import WIDEST, table


def test_a_table_that_fits_is_one_block_with_names_to_the_left() -> None:
    lines = table(
        ("", "pulses", "energy"), [("digital", "0", "2 µJ"), ("mixed", "12,000", "91 µJ")]
    )
    assert lines == [
        "         pulses  energy",
        "digital       0    2 µJ",
        "mixed    12,000   91 µJ",
    ]


def test_columns_that_find_no_place_stand_below_beside_the_same_names() -> None:
    ages = [f"{n} d" for n in range(9)]
    rows = [("left alone", *["0.9876 ± 0.0012"] * 9), ("tuned", *["0.9901 ± 0.0003"] * 9)]
    lines = table(("", *ages), rows)
    assert max(map(len, lines)) <= WIDEST
    assert [line.split()[0] for line in lines[1::3]] == ["left"] * 3
    assert " ".join(lines[::3]).split() == " ".join(ages).split()


def test_a_cell_wider_than_the_terminal_is_shown_whole() -> None:
    lines = table(("", "found"), [("a", "x" * 100)])
    assert lines[1] == "a  " + "x" * 100


def test_a_chip_is_told_by_what_differs_from_the_nearest_that_comes_along() -> None:
    mine = replace(PCM, name="mine", adc_bits=6, drift=None)
    lines = chip_text(describe(mine)).splitlines()
    assert lines[0] == "mine, PCM but for: drift = ideal, adc_bits = 6"
    assert chip_text(describe(HERMES)).splitlines()[0] == "HERMES"
    assert "endurance = ideal" in lines
