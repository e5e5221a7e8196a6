"""What an interrupted training promises: taken up again, it ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from snu_plugin.training import Epoch, TrainingState, train


class Task:
    """A regression whose batches are drawn anew in every pass."""

    def __init__(self, seed: int = 0, worst_from: int = 99) -> None:
        self.generator = Generator().manual_seed(seed)
        self.model = nn.Linear(3, 1)
        for p in self.model.parameters():
            nn.init.normal_(p, generator=self.generator)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)
        self.scored = 0
        self.worst_from = worst_from

    def batches(self) -> Iterable[Tensor]:
        return list(torch.randn(4, 8, 3, generator=self.generator))

    def loss(self, x: Tensor) -> Tensor:
        value: Tensor = (self.model(x) - x.sum(-1, keepdim=True)).square().mean()
        return value

    def score(self) -> float:
        self.scored += 1
        return float(self.scored) if self.scored >= self.worst_from else -float(self.scored)

    def run(self, epochs: int, file: Path | None = None, **options: Any) -> TrainingState:
        return train(
            self.model, self.optimizer, epochs, batches=self.batches, loss=self.loss,
            generator=self.generator, checkpoint=file, **options,
        )  # fmt: skip


def weights(task: Task) -> Tensor:
    return torch.cat([p.detach().flatten() for p in task.model.parameters()])


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_that_is_taken_up_equals_one_without_interruption(tmp_path: Path, stop: int) -> None:
    whole = Task()
    expected = whole.run(5)
    file = tmp_path / "run.checkpoint"
    Task().run(stop, file)
    later = Task(seed=1)
    found = later.run(5, file, resume=True)
    assert found.epochs == expected.epochs
    assert torch.equal(weights(later), weights(whole))


def test_an_interrupt_leaves_the_last_whole_pass(tmp_path: Path) -> None:
    whole = Task()
    expected = whole.run(4)
    file = tmp_path / "run.checkpoint"

    def interrupt(done: Epoch) -> None:
        if done.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Task().run(4, file, on_epoch=interrupt)
    assert [f.name for f in tmp_path.iterdir()] == ["run.checkpoint"]
    seen: list[int] = []
    later = Task()
    found = later.run(4, file, resume=True, on_epoch=lambda done: seen.append(done.number))
    assert seen == [3, 4]
    assert found.epochs == expected.epochs
    assert torch.equal(weights(later), weights(whole))


def test_the_best_pass_is_kept_also_across_an_interruption(tmp_path: Path) -> None:
    best = Task()
    best.run(2)
    file = tmp_path / "run.checkpoint"
    first = Task(worst_from=3)
    first.run(3, file, score=first.score)
    later = Task(worst_from=0)
    state = later.run(5, file, score=later.score, resume=True)
    assert state.best_epoch.number == 2
    assert torch.equal(weights(later), weights(best))


def test_without_a_score_the_last_pass_is_kept() -> None:
    task = Task()
    state = task.run(3)
    assert state.best_epoch == state.epochs[-1]
    assert state.best_epoch.score is None


def test_another_run_is_not_taken_up(tmp_path: Path) -> None:
    file = tmp_path / "run.checkpoint"
    Task().run(1, file, settings={"lr": 0.05, "unit": "snu"})
    with pytest.raises(ValueError, match=r"other settings: lr was 0\.05, is 0\.1"):
        Task().run(2, file, settings={"lr": 0.1, "unit": "snu"}, resume=True)


def test_a_longer_run_is_not_shortened(tmp_path: Path) -> None:
    file = tmp_path / "run.checkpoint"
    Task().run(3, file)
    with pytest.raises(ValueError, match="holds 3 epochs, more than the 2"):
        Task().run(2, file, resume=True)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path: Path, share: float) -> None:
    file = tmp_path / "run.checkpoint"
    Task().run(1, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="not a whole checkpoint") as caught:
        Task().run(2, file, resume=True)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_with_a_flipped_bit_is_not_taken_up(tmp_path: Path) -> None:
    file = tmp_path / "run.checkpoint"
    Task().run(1, file)
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 97):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with pytest.raises(ValueError, match="not a whole checkpoint"):
            Task().run(2, file, resume=True)


def test_impossible_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="epochs is 0"):
        Task().run(0)
    task = Task()
    task.loss = lambda x: task.model(x).sum() * float("nan")  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="loss of epoch 1 is nan"):
        task.run(1)
    task = Task()
    task.batches = list  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="nothing to train on"):
        task.run(1)
