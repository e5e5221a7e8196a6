"""Train Spiking Neural Units in snnTorch, carry them through NIR, run them in Norse."""

import tempfile
from pathlib import Path

import norse.torch as norse
import torch

import snu_norse as sn
import snu_snntorch as st
from snu_plugin import graph


def main() -> None:
    """Train for a moment, exchange, and show that not one spike changed."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(16, 32, bias=False),
        st.SNU(beta=0.75, threshold=1.0, learn_threshold=True, init_hidden=True),
        torch.nn.Linear(32, 8, bias=False),
        st.SNU(beta=0.5, threshold=0.5, init_hidden=True),
    )
    x = (torch.rand(50, 4, 16) < 0.3).float()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(10):
        st.reset(net)
        rate = torch.stack([net(step) for step in x]).mean(0)
        loss = (rate - 0.2).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    st.reset(net)
    with torch.no_grad():
        trained = torch.stack([net(step) for step in x])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.nir"
            graph.write(path, st.to_nir(net, x[0]))
            in_norse = norse.Lift(sn.from_nir(path))
        spikes, _ = in_norse(x)
    print(
        f"{int(trained.sum())} spikes in snnTorch, {int((spikes != trained).sum())} differ in Norse"
    )


if __name__ == "__main__":
    main()
