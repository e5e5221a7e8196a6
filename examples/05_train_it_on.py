"""Take a trained network along, train it on with data of your own, and write it back."""

import tempfile
from pathlib import Path

import torch

from snu_plugin import graph, zoo
from snu_plugin.tasks.chorales import nll


def bars(count: int, seed: int) -> torch.Tensor:
    """Return rolls ``(33, count, 88)``: a cadence of four chords, each begun somewhere else."""
    draw = torch.Generator().manual_seed(seed)
    chords = [[48, 64, 67, 72], [53, 65, 69, 72], [55, 62, 67, 71], [48, 64, 67, 72]]
    cadence = torch.zeros(8, 88)
    for step in range(8):
        cadence[step, torch.tensor(chords[step // 2]) - 21] = 1
    begins = torch.randint(8, (count,), generator=draw)
    steps = (torch.arange(33)[:, None] + begins) % 8
    return cadence[steps]


def main() -> None:
    """Print the likelihood of unseen bars before and after, and of what was written."""
    network = graph.network(zoo.read("jsb-snu"))
    train, test = bars(16, 0), bars(16, 1)

    def score() -> float:
        with torch.no_grad():
            return float(nll(network(test[:-1])[0], test[1:]))

    before = score()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(30):
        loss = nll(network(train[:-1])[0], train[1:])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    print(f"{before:.1f} nats a step before, {score():.1f} after")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.nir"
        graph.write(path, network.to_nir())
        again = graph.network(graph.read(path))
        print("written:", torch.equal(again(test)[0], network(test)[0]))


if __name__ == "__main__":
    main()
