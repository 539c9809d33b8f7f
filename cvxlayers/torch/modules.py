"""The ready-made layers as torch modules, and the call of qpth."""

from __future__ import annotations

from torch import nn

from .functions import qp


class QP(nn.Module):
    """`qp` as a module; options: its keywords."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, Q, p, A=None, b=None, G=None, h=None):
        """z, or (z, nu, lam) with return_duals=True."""
        return qp(Q, p, A, b, G, h, **self.options)

    def extra_repr(self):
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


def QPFunction(eps=1e-12, verbose=0, notImprovedLim=3, maxIter=20, solver=None, check_Q_spd=True):
    """A function (Q, p, G, h, A, b) -> z with the arguments of qpth's QPFunction, in its order; solved by `qp`.

    An empty tensor stands for rows that there are not. z always has a batch dimension, as in qpth. The options are those of
    qpth and have nothing to set: answers are exact, Q is always checked, and may be singular. Not as in qpth, the
    gradient of a shared argument is the sum over the batch, not the mean, and what is infeasible is an error.
    """

    def function(Q, p, G, h, A, b):
        rows = [M if M.numel() else None for M in (A, b, G, h)]
        z = qp(Q, p, *rows)
        return z if z.dim() > 1 else z[None]

    return function
