"""What the ready-made maps share."""

from __future__ import annotations

from array_api_compat import array_namespace

from ..diffmap import DiffMap
from ..errors import SolverError, listed


class Layer(DiffMap):
    """A native map that is known by its class and its settings, numbers and words: equal ones are one to caches and graphs.

    Arrays that `forward`, `jvp` and `vjp` return are new ones; one array may be returned in two places.
    """

    native = fresh = True

    def __init__(self, *settings):
        self.settings = settings

    def __repr__(self):
        return f"{type(self).__name__}{self.settings!r}"

    def __eq__(self, other):
        return type(self) is type(other) and self.settings == other.settings

    def __hash__(self):
        return hash((type(self), self.settings))

    def fingerprint(self):
        """Class and settings."""
        return f"{type(self).__module__}.{self!r}"


class PiecewiseLinear(Layer):
    """One whose first input is like its only output, and whose second derivatives are zero."""

    second_order = True

    def jvp2(self, saved, s, t):
        """Zero, with the leading dimensions of both."""
        return (0 * (s[0] * t[0]),)

    def vjp2(self, saved, t, c):
        """Zero."""
        return tuple(0 * (a * c[0][..., : a.shape[-1]]) for a in t)


def inner(xp, a, b):
    """Sums of products over the last axis, which stays with length 1."""
    return xp.sum(a * b, axis=-1, keepdims=True)


def times(M, x):
    """M x: (..., m, n), (..., n) -> (..., m)."""
    return (M @ x[..., None])[..., 0]


def matrices(x, rows, columns):
    """The last axis as matrices, in C order."""
    return array_namespace(x).reshape(x, (*x.shape[:-1], rows, columns))


def flattened(X):
    """Matrices as one axis, in C order."""
    return array_namespace(X).reshape(X, (*X.shape[:-2], X.shape[-2] * X.shape[-1]))


def norm(xp, x):
    """The Euclidean norm over the last axis, which stays with length 1; squares of large and tiny numbers are harmless."""
    big = xp.max(xp.abs(x), axis=-1, keepdims=True)
    unit = xp.where((big > 0) & (big < xp.inf), big, xp.ones_like(big))
    x = x / unit
    return unit * xp.sqrt(inner(xp, x, x))


def failing(wrong):
    """Flat batch indices of the rows for which an array (..., 1) of truth values is true."""
    if not wrong.any():
        return []
    xp = array_namespace(wrong)
    return [int(i) for i in xp.nonzero(xp.reshape(wrong, (-1,)))[0]]


def refuse(bad, like, message):
    """Raise SolverError for the items in which anything is bad. like: the input that has the batch; its NaN are no error."""
    xp = array_namespace(bad)
    if not bool(xp.any(bad)):
        return
    items = failing(xp.any(bad, axis=-1) & ~xp.any(xp.isnan(like), axis=-1))
    if items:
        raise SolverError(f"{message}; found in items {listed(items)}", items)
