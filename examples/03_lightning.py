"""Train Spiking Neural Units with PyTorch Lightning, in pieces of a long sequence if you like."""

from typing import Any

import pytorch_lightning as pl  # type: ignore[import-not-found, unused-ignore]
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import snu_plugin as sp


class Classifier(pl.LightningModule):  # type: ignore[misc, unused-ignore]
    """Two layers of SNU; gradients end after ``steps`` steps (``None``: never), states go on."""

    def __init__(self, steps: int | None = None) -> None:
        super().__init__()
        self.steps, self.automatic_optimization = steps, False
        self.fc1, self.hidden = nn.Linear(16, 32), sp.SNU(32)
        self.fc2, self.last = sp.Linear(32, 2), sp.SNU(2)

    def forward(self, x: Tensor, state: Any = (None, None)) -> Any:
        """Return spikes ``(T, B, 2)`` of a sequence ``(T, B, 16)``, and the state after it."""
        y, first = self.hidden(self.fc1(x), state[0])
        y, second = self.last(self.fc2(y), state[1])
        return y, (first, second)

    def training_step(self, batch: list[Tensor], _: int) -> None:
        """Train on one batch, ``(B, T, 16)`` and labels ``(B,)``, piece by piece."""
        x, optimizer = batch[0].transpose(0, 1), self.optimizers()
        state: Any = (None, None)
        for piece in torch.split(x, self.steps or len(x)):
            y, after = self(piece, state)
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(y.sum(0), batch[1]))
            optimizer.step()
            state = tuple(sp.State(s.detach(), y.detach()) for s, y in after)

    def configure_optimizers(self) -> Any:
        """Return the optimiser."""
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def data(samples: int = 128, steps: int = 50) -> TensorDataset:
    """Return spikes in which one half of the inputs or the other fires more often."""
    labels = torch.arange(samples) % 2
    rates = torch.where((torch.arange(16) < 8) == (labels == 0)[:, None], 0.4, 0.1)
    return TensorDataset((torch.rand(samples, steps, 16) < rates[:, None]).float(), labels)


for steps in (None, 20):  # whole, and in pieces of 20 steps
    pl.seed_everything(0, verbose=False)
    (train, test), net = (data(), data()), Classifier(steps)
    names = "logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"
    trainer = pl.Trainer(max_epochs=4, accelerator="cpu", **dict.fromkeys(names, False))
    trainer.fit(net, DataLoader(train, batch_size=16, shuffle=True))
    spikes = net(test.tensors[0].transpose(0, 1))[0]
    right = (spikes.sum(0).argmax(1) == test.tensors[1]).float().mean()
    print(f"{'whole' if steps is None else f'{steps} steps at a time'}: {right:.2f} right")
