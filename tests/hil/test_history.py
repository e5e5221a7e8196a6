"""What came of a tuning shows itself in a few lines, on a terminal and in a notebook."""

from snu_plugin.hil.loop import UpdateRecord
from snu_plugin.hil.tuning import History


def test_a_history_says_what_was_spent_and_kept_instead_of_every_update() -> None:
    record = UpdateRecord(loss=1.0, pulses=7, refreshed=0, saturated=0.0, clock_s=0.0)
    history = History([record] * 50)
    history.loss, history.before, history.after, history.noise = "cross-entropy", 0.5, 0.25, 0.01
    history.note = "kept what was there after 40 updates <best>"
    shown = str(history)
    assert "50, 350 pulses" in shown
    assert "0.5 before, 0.25 after" in shown
    assert len(shown.splitlines()) == 4
    html = history._repr_html_()
    assert "&lt;best&gt;" in html
    assert "350 pulses" in html
    assert "0 pulses" in str(History())
