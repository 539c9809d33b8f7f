"""The function `qp` against other packages for dense QPs: forward, and backward with the gradients of Q, p, G, h, in float64.

Everything runs in turn (A B A B ...), the best call counts; milliseconds for the batch. The errors are those of z and of the
gradients, relative to the largest entry, against `qp` on the host; what stands for that one is its own residual of the KKT
conditions, and the difference from the gradients by array operations, as on accelerators. Peers
are the plug-ins of `peers.py`. Run: python benchmarks/qp_layer.py
"""

from __future__ import annotations

import numpy as np
import problems
import torch
from cases import CORES, Case, Entry, difference, in_turn, installed
from peers import PEERS, torch_calls
from report import OURS, Row, run

from cvxlayers.torch import CvxpyLayer, qp

ARRAYS = "array operations"
SIZES = ((10, 128), (100, 128))


def entries(case, leaves):
    """(name, forward, backward) of ours and of the peers."""
    for name, solver in ((OURS, "host"), (ARRAYS, "arrays")):
        yield name, torch_calls(lambda Q, p, G, h, solver=solver: [qp(Q, p, G=G, h=h, solver=solver)], leaves)
    problem, parameters, variables, _ = case.build(**case.arguments)
    yield "CvxpyLayer", torch_calls(CvxpyLayer(problem, parameters, variables), leaves)
    for package in ("qpth", "proxsuite", "qpax"):
        for name, make in PEERS[package](case, leaves) if installed(package) else ():
            yield name, make()


def kkt_residual(leaves):
    """The largest violation of the KKT conditions by `qp`, over the batch."""
    with torch.no_grad():
        Q, p, G, h = leaves
        z, _, lam = qp(Q, p, G=G, h=h, return_duals=True)
        slack = h - (G @ z[..., None])[..., 0]
        stationary = (Q @ z[..., None])[..., 0] + p + (G.mT @ lam[..., None])[..., 0]
        return max(v.abs().max().item() for v in (stationary, slack.clip(max=0), lam.clip(max=0), slack * lam))


def rows(options):
    """A row for each size."""
    for n, B in SIZES:
        case = Case(f"qp n=m={n}", problems.dense_qp, {"n": n}, (B,))
        sample = case.build(**case.arguments)[3]
        leaves = [torch.tensor(v, requires_grad=True) for v in sample(B, np.random.default_rng(0))]
        gx = [torch.tensor(np.random.default_rng(1).standard_normal((B, n)))]
        found = {name: Entry(name, CORES, *calls) for name, calls in entries(case, leaves)}
        results = in_turn(list(found.values()), gx, options.rounds, options.seconds)
        z0, g0 = results[found[OURS]][2:]
        records = []
        for entry, (forward, backward, z, gradients) in results.items():
            if entry.name == OURS:
                errors = kkt_residual(leaves), difference(_symmetric(results[found[ARRAYS]][3]), _symmetric(g0))
            else:
                errors = difference(z, z0), difference(_symmetric(gradients), _symmetric(g0))
            records.append({"name": entry.name, "times": (min(forward), min(backward)), "errors": errors})
        yield Row(case.name, B, records)


def _symmetric(gradients):
    """The symmetric part of that of Q, which is the first."""
    Q, *others = gradients
    return [(Q + Q.swapaxes(-1, -2)) / 2, *others]


if __name__ == "__main__":
    run(__doc__, rows)
