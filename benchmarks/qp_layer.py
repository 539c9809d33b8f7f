"""The function `qp` against other packages for dense QPs: forward, and backward with the gradients of Q, p, G, h, in float64.

Everything runs in turn (A B A B ...), the best call counts; milliseconds for the batch. The errors are those of z and of the
gradients, relative to the largest entry, against `qp` on the host; what stands for that one is its own residual of the KKT
conditions, and the difference from array operations. Peers are the plug-ins of `peers.py`. Run: python benchmarks/qp_layer.py
"""

from __future__ import annotations

import warnings

import numpy as np
import problems
import torch
from cases import CORES, Case, Entry, difference, in_turn, installed, limits, machine, parser
from peers import PEERS, torch_calls

from cvxlayers.torch import CvxpyLayer, qp

HOST = "qp, host"
SIZES = ((10, 128), (100, 128))


def entries(case, leaves):
    """(name, forward, backward) of ours and of the peers."""
    for solver in ("host", "arrays"):
        yield f"qp, {solver}", torch_calls(lambda Q, p, G, h, solver=solver: [qp(Q, p, G=G, h=h, solver=solver)], leaves)
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


def main(options):
    """A table for each size."""
    print(machine())
    for n, B in SIZES:
        case = Case(f"dense QP n=m={n}", problems.dense_qp, {"n": n}, (B,))
        sample = case.build(**case.arguments)[3]
        leaves = [torch.tensor(v, requires_grad=True) for v in sample(B, np.random.default_rng(0))]
        gx = [torch.tensor(np.random.default_rng(1).standard_normal((B, n)))]
        found = [Entry(name, CORES, *calls) for name, calls in entries(case, leaves)]
        results = in_turn(found, gx, *limits(options))
        reference = next(results[e] for e in found if e.name == HOST)
        print(f"\n{case.name}, B = {B}: forward + backward = sum in ms, errors of z and of the gradients")
        for entry, (forward, backward, z, gradients) in results.items():
            if entry.name == HOST:
                errors = f"KKT residual {kkt_residual(leaves):.0e}"
            else:
                gradients = [(g + g.swapaxes(-1, -2)) / 2 if k == 0 else g for k, g in enumerate(gradients)]  # of Q
                errors = f"{difference(z, reference[2]):.0e}, {difference(gradients, reference[3]):.0e}"
            times = min(forward), min(backward), min(f + b for f, b in zip(forward, backward, strict=True))
            print(f"{entry.name:20} {times[0]:8.3g} + {times[1]:7.3g} = {times[2]:8.3g}   {errors}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(parser(__doc__).parse_args())
