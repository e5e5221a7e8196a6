"""Judge a file of another simulator: what it leaves open, and who runs it otherwise."""

import nir
import numpy as np

from snu_plugin import graph


def file() -> nir.NIRGraph:
    """Return 20-40-5 LIF as many exporters write it: no time step, a gain of 1."""
    draw = np.random.default_rng(0)
    return nir.NIRGraph.from_list(
        nir.Affine(draw.normal(0, 0.8, (40, 20)), np.zeros(40)),
        nir.LIF(np.full(40, 5e-3), np.ones(40), np.zeros(40), np.ones(40)),
        nir.Affine(draw.normal(0, 0.5, (5, 40)), np.zeros(5)),
        nir.LIF(np.full(5, 5e-3), np.ones(5), np.zeros(5), np.ones(5)),
    )


def main() -> None:
    """Print why it is refused without a time step, and the verdict with one."""
    g = file()
    for verdict in graph.check(g):
        if verdict.verdict != "exact":
            print(f"{verdict.name}: {verdict.verdict}: {verdict.reason}")
            break
    report = graph.verify(g, simulators=["snntorch"], dt=1e-3)
    for run in report.runs:
        far = "" if not run.differing else f", {run.differing:.1%} of outputs differ"
        print(f"{run.simulator} by {run.importer} importer: {run.status}{far}")


if __name__ == "__main__":
    main()
