"""Euclidean projection onto the doubly stochastic matrices: P = argmin |P - X|^2 subject to P >= 0, P 1 = 1, P'1 = 1.

    P = max(X - f 1' - 1 g', 0), where f, g minimize |P|^2/2 + 1'f + 1'g: convex and piecewise quadratic, with the gradient
    (1 - P 1, 1 - P'1) and the generalized Hessian H = [diag(S 1), S; S', diag(S'1)], S = 1[P > 0]
    dP = S * (dX - df 1' - 1 dg'),  H (df, dg) = ((S * dX) 1, (S * dX)'1)

Newton's method with a line search. H is the (signless) Laplacian of the bipartite graph S, which has a null space for each of
its components: H + m I is solved, by elimination of f. What lies in the null spaces does not move P on S, so that refinement
takes m out of P and of dP. (Li, Sun, Toh, "On the efficient computation of a projector over the Birkhoff polytope",
SIAM J. Optim. 2020, with conjugate gradients for large matrices.)
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ..diffmap import Saved
from ..factors import identity
from ..loops import iterate
from .base import PiecewiseLinear, flattened, matrices

_MOST = 200  # steps; ten or so with entries about 1, some dozens with entries in the thousands
_SEARCH = 60  # steps of a line search
_REFINEMENTS = 3


class Birkhoff(PiecewiseLinear):
    """X -> P: (..., n n) -> (..., n n), matrices in C order. Where X - f 1' - 1 g' is 0, the derivative is that of P_ij = 0.
    Entries of P below the rounding of the largest entry of X are 0. P is NaN if this rounding hides it, with entries above 1e5
    in single precision."""

    loops = True

    def __init__(self, n):
        super().__init__(n)
        self.n = n
        self.in_sizes, self.out_sizes, self.saved = (n * n,), (n * n,), (Saved(n * n, (0,)), Saved(n * n, (0,)))

    def forward(self, x):
        """Saved are S, and the inverse of H after elimination of f."""
        xp = array_namespace(x)
        fine = xp.all(xp.isfinite(x), axis=-1, keepdims=True)
        X = matrices(xp.where(fine, x, 0), self.n, self.n)  # LAPACK refuses a whole batch for one NaN
        X = X - xp.mean(X, axis=-1, keepdims=True)
        X = X - xp.mean(X, axis=-2, keepdims=True) + 1 / self.n  # the solution if nothing is negative
        noise = xp.clip(8 * xp.finfo(X.dtype).eps * (1 + xp.max(xp.abs(X), axis=(-2, -1), keepdims=True)), max=0.1)

        def step(going, f, g, S, G):
            Z = X - f - g
            r, c = _excess(xp.clip(Z, min=0), 1)
            worst = xp.maximum(xp.max(xp.abs(r), axis=-2, keepdims=True), xp.max(xp.abs(c), axis=-1, keepdims=True))
            going = worst > noise
            S = _support(Z - xp.where(going, 0, noise))  # at the end without what may be 0
            G = _inverse(S)
            df, dg = _solved(G, S, r, c)
            t = xp.where(going, _search(going, Z, df, dg, r, c), 0)
            return going, f + t * df, g + t * dg, S, G

        f = xp.zeros_like(X[..., :1])
        _, f, g, S, G = iterate(step, (f[..., :1, :] == 0, f, xp.matrix_transpose(f), 0 * X, 0 * X), _MOST)
        P = xp.clip(_balanced(S * (X - f - g), 1, S, G), min=0)  # rounding was that of X, and is that of P now
        fine = fine & (xp.max(xp.abs(_excess(P, 1)[0])[..., 0], axis=-1, keepdims=True) < 1e-3)
        return (xp.where(fine, flattened(P), xp.nan),), (flattened(S), flattened(G))

    def jvp(self, saved, dx):
        """The projection onto the matrices on S whose rows and columns have the sum 0."""
        S, G, dX = (matrices(a, self.n, self.n) for a in (*saved, dx))
        return (flattened(_balanced(S * dX, 0, S, G)),)

    def vjp(self, saved, c):
        """The Jacobian is symmetric."""
        return self.jvp(saved, c)


def _support(Z):
    return array_namespace(Z).astype(Z > 0, Z.dtype)


def _excess(P, total):
    """Sums of rows and of columns, less what they should be."""
    xp = array_namespace(P)
    return xp.sum(P, axis=-1, keepdims=True) - total, xp.sum(P, axis=-2, keepdims=True) - total


def _search(going, Z, df, dg, r, c):
    """The step along (df, dg) at which the dual objective is least, nearly; Newton's method in a bracket, from the step 1."""
    xp = array_namespace(Z)
    D = df + dg

    def slope(r, c):
        return -xp.sum(r * df, axis=-2, keepdims=True) - xp.sum(c * dg, axis=-1, keepdims=True)

    enough = 0.3 * xp.abs(slope(r, c))  # a better step saves fewer systems than it costs

    def step(going, t, low, high):
        P = xp.clip(Z - t * D, min=0)
        here = slope(*_excess(P, 1))
        curvature = xp.sum(_support(P) * D**2, axis=(-2, -1), keepdims=True)
        low, high = xp.where(here < 0, t, low), xp.where(here < 0, high, t)
        newton = t - here / xp.where(curvature > 0, curvature, 1)
        good = (curvature > 0) & (newton > low) & (newton < high)
        moved = xp.where(good, newton, xp.where(high < xp.inf, (low + high) / 2, 4 * t))
        going = going & (xp.abs(here) > enough)
        return going, xp.where(going, moved, t), low, high

    one = xp.ones_like(enough)
    return iterate(step, (going, one, 0 * one, one + xp.inf), _SEARCH)[1]


def _damping(S):
    return array_namespace(S).finfo(S.dtype).eps ** 0.5


def _inverse(S):
    """The inverse of the Schur complement of H + m I after elimination of f, symmetric (..., n, n)."""
    xp = array_namespace(S)
    m = _damping(S)
    rows, columns = xp.sum(S, axis=-1, keepdims=True) + m, xp.sum(S, axis=-2, keepdims=True) + m
    return xp.linalg.inv(identity(S) * columns - xp.matrix_transpose(S) @ (S / rows))


def _solved(G, S, r, c):
    """(H + m I)(df, dg) = (r, c)."""
    xp = array_namespace(S)
    rows = xp.sum(S, axis=-1, keepdims=True) + _damping(S)
    dg = xp.matrix_transpose(G @ (xp.matrix_transpose(c) - xp.matrix_transpose(S) @ (r / rows)))
    return (r - S @ xp.matrix_transpose(dg)) / rows, dg


def _balanced(P, total, S, G):
    """The matrix on S nearest to P, whose rows and columns have the sum `total`."""
    for _ in range(_REFINEMENTS):
        df, dg = _solved(G, S, *_excess(P, total))
        P = S * (P - df - dg)
    return P
