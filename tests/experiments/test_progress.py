"""What is told while a training runs."""

import pytest

from snu_plugin.experiments import runs


def test_the_time_to_go_is_told_from_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    said: list[str] = []
    tell = runs.remaining(said.append, "ptb-snu seed 0", 13)
    tell(3.0)  # taken up after three epochs
    clock[0] += 30
    tell(3.1)  # the first batch was compiled for
    clock[0] += 60
    tell(3.6)
    clock[0] += 1
    tell(3.7)
    assert said == ["ptb-snu seed 0, 3.60 of 13 epochs, about 19 min to go"]


def test_sentences_that_count_tell_how_long_the_rest_takes() -> None:
    clock = iter([0.0, 30.0, 90.0, 90.0, 100.0, 100.0])
    left = runs.Left(lambda: next(clock))
    left.hear("4 of 10 chips done")
    assert left.told == ""
    left.hear("5 of 10 chips done")
    assert left.told == "about 2.5 min to go"
    left.hear("reading")
    assert left.told == "about 2.5 min to go"
    left.hear("10 of 10 chips done")
    assert left.told == ""
