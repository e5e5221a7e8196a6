"""What a chip costs beside the product it models, as ``snu bench chip`` times it."""

import pytest

from snu_plugin.bench import chip


@pytest.mark.slow
def test_a_step_of_tuning_stands_beside_a_step_in_software() -> None:
    answer = chip.run(0.3)
    tuning = answer["tuning"]
    assert set(tuning) == {"software_ms", "dense_ms", *chip.RULES}
    assert min(tuning["software_ms"], tuning["dense_ms"]) > 0
    for rule in chip.RULES:
        assert tuning[rule]["ratio"] == pytest.approx(tuning[rule]["ms"] / tuning["software_ms"])
    # Pulses are decided weight by weight, from gradients that the digital values do without.
    assert tuning["mixed"]["ms"] > tuning["digital"]["ms"]
    shown = chip.text(answer)
    assert "784-256-10, 20 steps: software" in shown
    assert all(f"tuned, {rule}" in shown for rule in chip.RULES)
