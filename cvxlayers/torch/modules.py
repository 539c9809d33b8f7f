"""The ready-made layers as torch modules, and the call of qpth."""

from __future__ import annotations

from torch import nn

from .functions import lml, qp, sinkhorn, soft_rank, soft_sort, sparse_topk, sparsemax


class _Module(nn.Module):
    """A function of one argument, with its options as attributes."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def extra_repr(self):
        """The options."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class Sparsemax(_Module):
    """`sparsemax` as a module."""

    def __init__(self, dim=-1):
        super().__init__(dim=dim)

    def forward(self, x):
        """Distributions along dim."""
        return sparsemax(x, **self.options)


class LML(_Module):
    """`lml` as a module: a soft choice of k entries along dim, at the temperature tau."""

    def __init__(self, k, tau=1.0, dim=-1):
        super().__init__(k=k, tau=tau, dim=dim)

    def forward(self, x):
        """Entries between 0 and 1, which sum to k."""
        return lml(x, **self.options)


class SparseTopK(_Module):
    """`sparse_topk` as a module: a sparse choice of k entries along dim."""

    def __init__(self, k, dim=-1):
        super().__init__(k=k, dim=dim)

    def forward(self, x):
        """Entries between 0 and 1, which sum to k."""
        return sparse_topk(x, **self.options)


class Sinkhorn(_Module):
    """`sinkhorn` as a module, at the temperature tau."""

    def __init__(self, tau=1.0, tol=None):
        super().__init__(tau=tau, tol=tol)

    def forward(self, X):
        """Doubly stochastic matrices."""
        return sinkhorn(X, **self.options)


class SoftSort(_Module):
    """`soft_sort` as a module."""

    def __init__(self, eps=1.0, dim=-1, descending=False):
        super().__init__(eps=eps, dim=dim, descending=descending)

    def forward(self, x):
        """Vectors along dim, sorted."""
        return soft_sort(x, **self.options)


class SoftRank(_Module):
    """`soft_rank` as a module."""

    def __init__(self, eps=1.0, dim=-1):
        super().__init__(eps=eps, dim=dim)

    def forward(self, x):
        """Ranks along dim."""
        return soft_rank(x, **self.options)


class QP(_Module):
    """`qp` as a module; options: its keywords."""

    def forward(self, Q, p, A=None, b=None, G=None, h=None):
        """z, or (z, nu, lam) with return_duals=True."""
        return qp(Q, p, A, b, G, h, **self.options)


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
