"""What the word task promises: the text as it is, cut so that every word is predicted once."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch

from snu_plugin.tasks import penn_treebank

ROOT = Path(__file__).resolve().parents[2]
TRAIN = " a river runs \n the river sleeps \n\n a boat\n"
VALID = " the boat runs \n"
TEST = " a whale sleeps \n"


def write(folder: Path, pattern: str = "ptb.{}.txt") -> Path:
    for split, text in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        (folder / pattern.format(split)).write_text(text)
    return folder


def words(text: penn_treebank.Text, tokens: torch.Tensor) -> list[str]:
    return [text.vocabulary[i] for i in tokens.tolist()]


@pytest.mark.parametrize("pattern", ["ptb.{}.txt", "{}.txt", "wiki.{}.tokens"])
def test_a_text_becomes_words_with_an_end_to_each_line(tmp_path: Path, pattern: str) -> None:
    with pytest.warns(UserWarning, match="not the Mikolov PTB"):
        text = penn_treebank.load(write(tmp_path, pattern))
    assert text.name == f"other: {tmp_path.name}"
    expected = "a river runs <eos> the river sleeps <eos> <eos> a boat <eos>"
    assert words(text, text.train) == expected.split()
    assert words(text, text.valid) == ["the", "boat", "runs", "<eos>"]


def test_words_unseen_in_train_become_unknown(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Mikolov"):
        text = penn_treebank.load(write(tmp_path))
    assert words(text, text.test) == ["a", "<unk>", "sleeps", "<eos>"]
    assert text.vocabulary[:4] == ("<eos>", "a", "river", "boat")
    assert text.vocabulary.count("<unk>") == 1
    assert set(text.vocabulary) - {"<unk>"} == set(TRAIN.split()) | {"<eos>"}


def test_another_text_is_reported_once(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        penn_treebank.load(write(tmp_path))
    assert len(caught) == 1
    assert "ptb.train.txt, ptb.valid.txt, ptb.test.txt" in str(caught[0].message)


def test_mikolovs_files_are_known_by_their_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    own = {
        split: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        for split, text in (("train", TRAIN), ("valid", VALID), ("test", TEST))
    }
    monkeypatch.setattr(penn_treebank, "MD5", own)
    assert penn_treebank.load(write(tmp_path)).name == "ptb"


def test_a_plain_text_is_written_as_mikolov_wrote_and_cut_in_three(tmp_path: Path) -> None:
    file = tmp_path / "play.txt"
    lines = [f"Enter, number {i}: 'To-morrow, o'er 1,000 seas'!" for i in range(20)]
    file.write_text("\n\n".join(lines) + "\n... --\n")
    with pytest.warns(UserWarning, match=r"play\.txt is not the Mikolov PTB \(a plain text\)"):
        text = penn_treebank.load(file)
    assert text.name == "other: play.txt"
    expected = ["enter", "number", "N", "to-morrow", "o'er", "N", "seas", "<eos>"]
    assert words(text, text.train) == expected * 18
    assert words(text, text.valid) == words(text, text.test) == expected


def test_a_plain_text_keeps_the_words_that_train_has_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(penn_treebank, "VOCABULARY", 4)
    lines = ["a b a b c"] * 18 + ["d b", "a e"]
    found = penn_treebank.plain(lines)
    assert found["train"] == [["a", "b", "a", "b", "<unk>"]] * 18
    assert (found["valid"], found["test"]) == ([["<unk>", "b"]], [["a", "<unk>"]])


def test_a_single_file_written_as_mikolov_wrote_is_only_cut() -> None:
    line = "the <unk> 's shares rose N %"
    found = penn_treebank.plain([f" {line} "] * 20)
    assert found["train"] == [line.split()] * 18
    assert found["valid"] == found["test"] == [line.split()]


def test_the_unknown_word_of_a_file_takes_no_place_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(penn_treebank, "VOCABULARY", 4)
    found = penn_treebank.plain(["<unk> a <unk> a <unk> b c b"] * 20)
    assert found["train"] == [["<unk>", "a", "<unk>", "a", "<unk>", "b", "<unk>", "b"]] * 18


def test_missing_empty_and_binary_files_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ptb\.train\.txt"):
        penn_treebank.load(tmp_path)
    write(tmp_path)
    for content in (b"", b"\xff\xfe\x00"):
        (tmp_path / "ptb.valid.txt").write_bytes(content)
        with (
            pytest.warns(UserWarning, match="Mikolov"),
            pytest.raises(ValueError, match=r"ptb\.valid\.txt") as caught,
        ):
            penn_treebank.load(tmp_path)
        assert "\n" not in str(caught.value)


def test_windows_run_on_in_parallel_streams_and_drop_what_is_left_over() -> None:
    found = list(penn_treebank.windows(torch.arange(23), 2, 3))
    assert [w.x.t().tolist() for w in found] == [
        [[0, 1, 2], [11, 12, 13]],
        [[3, 4, 5], [14, 15, 16]],
        [[6, 7, 8], [17, 18, 19]],
    ]
    assert all(torch.equal(w.target, w.x + 1) for w in found)


def test_the_published_training_set_has_the_published_number_of_windows() -> None:
    tokens = torch.zeros(929_589, dtype=torch.int64)
    assert sum(1 for _ in penn_treebank.windows(tokens, 20, 20)) == 2323


@pytest.mark.parametrize("steps", [1, 4, 7, 100])
def test_with_the_rest_every_word_but_the_first_is_predicted_once(steps: int) -> None:
    found = list(penn_treebank.windows(torch.arange(30), 1, steps, rest=True))
    assert torch.cat([w.target for w in found]).flatten().tolist() == list(range(1, 30))
    assert torch.cat([w.x for w in found]).flatten().tolist() == list(range(29))


@pytest.mark.parametrize(("batch", "steps"), [(0, 1), (1, 0), (10, 1), (2, 5)])
def test_windows_that_do_not_fit_are_refused(batch: int, steps: int) -> None:
    with pytest.raises(ValueError, match=r"batch is|too few"):
        next(penn_treebank.windows(torch.arange(10), batch, steps))


def test_a_uniform_guess_has_the_perplexity_of_its_choices() -> None:
    assert penn_treebank.perplexity(50 * math.log(10_000), 50) == pytest.approx(10_000)
    for total, count in ((1.0, 0), (math.nan, 5)):
        with pytest.raises(ValueError, match="total is"):
            penn_treebank.perplexity(total, count)


def test_a_free_text_of_the_same_format_works(tmp_path: Path) -> None:
    file = ROOT.parent / "shared" / "data" / "tinyshakespeare" / "input.txt"
    if not file.is_file():
        pytest.skip(f"needs a free text, looked for {file}")
    lines = file.read_text().split("\n")[:40_000]
    for split, part in (("train", lines[:32_000]), ("valid", lines[32_000:36_000])):
        (tmp_path / f"{split}.txt").write_text("\n".join(part) + "\n")
    (tmp_path / "test.txt").write_text("\n".join(lines[36_000:]) + "\n")
    with pytest.warns(UserWarning, match="not the Mikolov PTB"):
        text = penn_treebank.load(tmp_path)
    assert int(text.train.max()) < len(text.vocabulary)
    assert (text.train == 0).sum().item() == 32_000
    assert text.vocabulary[0] == "<eos>"
    sizes = [len(t) for t in (text.train, text.valid, text.test)]
    assert sum(sizes) == sum(len(line.split()) + 1 for line in lines)
