"""What the chorale task promises: the right data or a clear refusal, and the published metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from same_process import mat_files_read_here
from snu_plugin.tasks import chorales, matlab

SPLITS = ("traindata", "validdata", "testdata")


def two_chords(length: int, first: int = 39) -> np.ndarray:
    """Return a roll that alternates between two triads."""
    roll = np.zeros((length, 88), np.uint8)
    roll[::2, [first, first + 4, first + 7]] = 1
    roll[1::2, [first + 5, first + 9, first + 12]] = 1
    return roll


def cells(*pieces: np.ndarray) -> np.ndarray:
    out = np.empty((1, len(pieces)), object)
    for i, piece in enumerate(pieces):
        out[0, i] = piece
    return out


@pytest.fixture
def mat(tmp_path: Path) -> Callable[..., Path]:
    """Write a file in the format of JSB_Chorales.mat, with some variables replaced."""

    def write(**replaced: np.ndarray) -> Path:
        from scipy.io import savemat

        content = dict.fromkeys(SPLITS, cells(two_chords(6), two_chords(9, 40))) | replaced
        file = tmp_path / "own.mat"
        savemat(file, {name: value for name, value in content.items() if value.size})
        return file

    return write


@pytest.fixture
def jsb() -> Path:
    root = Path(__file__).resolve().parents[2]
    file = root.parent / "shared" / "data" / "jsb" / "JSB_Chorales.mat"
    if not file.is_file():
        pytest.skip(f"needs the JSB chorales, looked for {file}")
    return file


def test_a_file_in_the_published_format_is_read_piece_by_piece(mat: Callable[..., Path]) -> None:
    data = chorales.load(mat(), verify=False)
    assert (data.name, data.sizes) == ("other", (2, 2, 2))
    for split in (data.train, data.valid, data.test):
        for piece, expected in zip(split, (two_chords(6), two_chords(9, 40)), strict=True):
            assert piece.dtype == torch.float32
            assert torch.equal(piece, torch.from_numpy(expected).float())


def test_the_published_file_has_the_published_statistics(jsb: Path) -> None:
    data = chorales.load(jsb)
    assert (data.name, data.sha256) == ("jsb", chorales.JSB_SHA256)
    assert data.sizes == (229, 76, 77)
    splits = (data.train, data.valid, data.test)
    assert [sum(map(len, split)) for split in splits] == [13807, 4602, 4725]
    notes = [torch.cat(split).sum(1).mean().item() for split in splits]
    assert notes == pytest.approx([3.898, 3.870, 3.887], abs=5e-4)
    assert (data.train[0][0].nonzero().flatten() + 21).tolist() == [60, 72, 79, 88]


def test_keys_as_frequent_as_in_training_score_as_published(jsb: Path) -> None:
    data = chorales.load(jsb)
    frequency = torch.cat(data.train).double().mean(0).clip(1e-4, 1 - 1e-4)
    found = []
    for split in (data.valid, data.test):
        _, target, mask = chorales.pad(split)
        logits = frequency.logit().expand(target.shape)
        for average in ("pooled", "piece"):
            value = chorales.nll(logits, target.double(), mask, average=average)
            found.append(value.item())
    assert found == pytest.approx([10.986, 10.965, 11.093, 11.039], abs=6e-4)


def test_one_flipped_byte_is_refused_with_both_checksums_and_a_way_out(
    jsb: Path, tmp_path: Path
) -> None:
    content = bytearray(jsb.read_bytes())
    content[5000] ^= 1
    damaged = tmp_path / "JSB_Chorales.mat"
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match="verify=False") as caught:
        chorales.load(damaged)
    message = str(caught.value)
    assert str(damaged) in message
    assert chorales.JSB_SHA256 in message
    assert "\n" not in message


def test_another_file_is_refused_unless_it_is_allowed(mat: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=chorales.JSB_SHA256):
        chorales.load(mat())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mat is not a file"):
        chorales.load(tmp_path / "nowhere.mat")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        chorales.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_one_clear_line(
    mat: Callable[..., Path], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    mat_files_read_here(monkeypatch)
    file = mat()
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"own\.mat") as caught:
        chorales.load(file, verify=False)
    assert "\n" not in str(caught.value)


def test_what_a_file_does_to_its_reader_ends_another_process_alone(
    mat: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = mat()
    assert len(chorales.load(file, verify=False).train) == 2
    program = file.with_name("reader.py")
    monkeypatch.setattr(matlab, "__file__", str(program))
    program.write_text("import os; os.abort()")
    with pytest.raises(ValueError, match=r"own\.mat ended the process that read it \(status -6\)"):
        chorales.load(file, verify=False)
    program.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(matlab, "LIMIT_S", 0.2)
    with pytest.raises(ValueError, match=r"own\.mat was read for 0\.2 s without end"):
        chorales.load(file, verify=False)


def test_a_mat_file_that_unpacks_to_more_than_the_bound_is_refused(
    mat: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = cells(np.zeros((10**6, 88), np.uint8))
    with monkeypatch.context() as bounded:
        bounded.setenv("SNU_MOST_BYTES", str(2**25))
        with pytest.raises(ValueError, match=r"own\.mat takes more memory .* set SNU_MOST_BYTES"):
            chorales.load(mat(testdata=large), verify=False)


def test_something_that_is_no_mat_file_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "letter.mat"
    file.write_text("Dear network,\n" * 100)
    with pytest.raises(ValueError, match="cannot be read as a MATLAB file") as caught:
        chorales.load(file, verify=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("replaced", "complaint"),
    [
        ({"validdata": np.zeros(0)}, "lacks validdata"),
        ({"traindata": np.ones((4, 88))}, "traindata is .* expected a cell array"),
        ({"testdata": cells(two_chords(5), np.zeros((5, 87)))}, r"testdata, piece 1 has shape"),
        ({"testdata": cells(two_chords(5)[:1])}, "T >= 2"),
        ({"testdata": cells(two_chords(5) * 2)}, "something else than 0 and 1"),
        ({"testdata": cells(np.full((5, 88), np.nan))}, "something else than 0 and 1"),
        ({"testdata": cells(np.array(["a" * 88] * 5))}, "testdata, piece 0"),
    ],
)
def test_wrong_contents_are_named(
    mat: Callable[..., Path],
    replaced: dict[str, np.ndarray],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mat_files_read_here(monkeypatch)
    with pytest.raises(ValueError, match=complaint):
        chorales.load(mat(**replaced), verify=False)


def pieces(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [(torch.rand(n, 88, generator=generator) < 0.05).float() for n in lengths]


def test_padding_predicts_every_row_but_the_first_and_nothing_after_the_end() -> None:
    rolls = pieces(5, 2, 7)
    x, target, mask = chorales.pad(rolls)
    assert x.shape == target.shape == (6, 3, 88)
    assert mask.sum(0).tolist() == [4, 1, 6]
    for b, roll in enumerate(rolls):
        assert torch.equal(x[mask[:, b], b], roll[:-1])
        assert torch.equal(target[mask[:, b], b], roll[1:])
        assert not x[~mask[:, b], b].any()
        assert not target[~mask[:, b], b].any()


@pytest.mark.parametrize("wrong", [[], [torch.ones(1, 88)], [torch.ones(88)]])
def test_padding_refuses_what_has_nothing_to_predict(wrong: list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"\(T, 88\)"):
        chorales.pad(wrong)


def test_batches_visit_every_piece_once_in_a_seeded_order() -> None:
    rolls = pieces(3, 4, 5, 6, 7)

    def lengths(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return [(b.mask.sum(0) + 1).tolist() for b in chorales.batches(rolls, 2, generator)]

    assert [len(batch) for batch in lengths(0)] == [2, 2, 1]
    assert sorted(n for batch in lengths(0) for n in batch) == [3, 4, 5, 6, 7]
    assert lengths(0) == lengths(0)
    assert any(lengths(seed) != lengths(0) for seed in range(1, 5))


def test_without_a_generator_batches_keep_the_order() -> None:
    found = [(b.mask.sum(0) + 1).tolist() for b in chorales.batches(pieces(4, 3, 9), 2)]
    assert found == [[4, 3], [9]]
    with pytest.raises(ValueError, match="size is 0"):
        next(chorales.batches(pieces(4), 0))


def test_the_likelihood_of_known_probabilities_is_the_closed_form() -> None:
    probability = torch.linspace(0.05, 0.9, 88, dtype=torch.float64)
    target = (torch.arange(88) % 3 == 0).double().expand(4, 2, 88)
    expected = -sum(
        math.log(p if k % 3 == 0 else 1 - p) for k, p in enumerate(probability.tolist())
    )
    found = chorales.nll(probability.logit().expand(4, 2, 88), target)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_pooled_weighs_steps_and_piece_weighs_pieces() -> None:
    logits = torch.zeros(3, 2, 88)
    logits[:, 1] = -1.0
    target = torch.zeros(3, 2, 88)
    mask = torch.tensor([[True, True], [True, False], [True, False]])
    first, second = 88 * math.log(2), 88 * math.log1p(math.exp(-1))
    pooled = chorales.nll(logits, target, mask)
    piece = chorales.nll(logits, target, mask, average="piece")
    torch.testing.assert_close(pooled, torch.tensor((3 * first + second) / 4))
    torch.testing.assert_close(piece, torch.tensor((first + second) / 2))


@pytest.mark.parametrize("average", ["pooled", "piece"])
def test_what_is_padded_changes_neither_value_nor_gradient(average: str) -> None:
    rolls = pieces(6, 3)
    _, target, mask = chorales.pad(rolls)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(target.shape, generator=generator)
    poisoned = logits.masked_fill(~mask.unsqueeze(-1), math.nan).requires_grad_()
    clean = logits.clone().requires_grad_()
    values = []
    for given in (poisoned, clean):
        value = chorales.nll(given, target, mask, average=average)  # type: ignore[arg-type]
        value.backward()  # type: ignore[no-untyped-call]
        values.append(value.detach())
    assert torch.equal(values[0], values[1])
    assert poisoned.grad is not None
    assert clean.grad is not None
    assert torch.equal(poisoned.grad[mask], clean.grad[mask])
    assert not clean.grad[~mask].any()


def test_one_piece_alone_scores_as_in_a_padded_batch() -> None:
    rolls = pieces(6, 11)
    _, target, mask = chorales.pad(rolls)
    logits = torch.randn(target.shape, generator=torch.Generator().manual_seed(2))
    alone = [chorales.nll(logits[: len(roll) - 1, b], roll[1:]) for b, roll in enumerate(rolls)]
    together = chorales.nll(logits, target, mask, average="piece")
    torch.testing.assert_close(together, torch.stack(alone).mean())


@pytest.mark.parametrize(
    ("logits", "target", "mask", "complaint"),
    [
        (torch.zeros(3, 2, 88), torch.zeros(3, 88), None, "both must be"),
        (torch.zeros(3, 2, 88), torch.zeros(3, 2, 88), torch.ones(3, 2), "must be bool"),
        (torch.zeros(3, 2, 88), torch.zeros(3, 2, 88), torch.ones(3).bool(), "shape"),
        (torch.zeros(3, 2, 88), torch.zeros(3, 2, 88), torch.zeros(3, 2).bool(), "no step"),
        (torch.zeros(0, 2, 88), torch.zeros(0, 2, 88), None, "no step"),
    ],
)
def test_the_likelihood_refuses_shapes_that_do_not_belong_together(
    logits: Tensor, target: Tensor, mask: Tensor | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        chorales.nll(logits, target, mask)


def test_the_likelihood_refuses_an_unknown_average() -> None:
    with pytest.raises(ValueError, match="average is 'mean'; it must be one of pooled, piece"):
        chorales.nll(torch.zeros(1, 88), torch.zeros(1, 88), average="mean")  # type: ignore[arg-type]
