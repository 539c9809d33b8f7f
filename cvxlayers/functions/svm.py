"""Support vector machines, and heads of few-shot learning, on quadratic programs: differentiable in the data."""

from __future__ import annotations

import numpy as np

from ..errors import ProblemError, ShapeError, listed
from .base import size_of
from .quadratic import Quadratic


class Svm(Quadratic):
    """svm_binary, svm_crammer_singer, ridge_head."""

    def svm_binary(self, X, y, C=1.0, *, bias=True, return_duals=False, solver=None):
        """The linear support vector machine: (w, b) = argmin |w|^2 + C sum max(0, 1 - y_i (w'x_i + b)).

        X: (..., n, d), a sample in each row. y: (..., n), labels 1 and -1, without derivative. C >= 0: (...), or a number.
        Returns w: (..., d) and b: (...), which is 0 with bias=False; with return_duals also alpha: (..., n), where w = sum
        alpha_i y_i x_i, 0 <= alpha <= C/2. (scikit-learn's SVC has |w|^2/2, so that its C is C/2 here, and its dual_coef_ is
        alpha y.)

        Solved is the dual, of which b is a multiplier; where no sample is on the margin, it is one of many. Samples
        may be equal. Raises ShapeError unless there is a label for each sample, and ProblemError for C < 0, for other labels,
        and for one class with a bias, where they have values: compiled code cannot see them.
        Source: Cortes, Vapnik, "Support-vector networks", Machine Learning 1995.
        """
        X, y, C = self._all(X, y, C)
        self._check_size("C", C)
        n = _samples(X, y)
        labels = self._arrays.values(y)
        if labels is not None:
            self._check_labels(labels, (-1, 1), least=2 if bias else 1)
        ones, eye = np.ones(n), np.eye(n)
        y = self._arrays.cast(y, X)
        signed = self._with_axis(y) * X
        Q = self._arrays.matmul(signed, self._transposed(signed))
        p, G, half = (self._arrays.asarray(a, X) for a in (-ones, np.concatenate([eye, -eye]), np.r_[ones, 0 * ones] / 2))
        A, b = (self._row(y), self._arrays.asarray(np.zeros(1), X)) if bias else (None, None)
        h = self._with_axis(self._arrays.cast(C, X)) * half
        alpha, nu, _ = self.qp(Q, p, A, b, G, h, return_duals=True, solver=solver)
        w = self._arrays.matmul(self._row(alpha), signed)[..., 0, :]
        b = nu[..., 0] if bias else 0 * w[..., 0]
        return (w, b, alpha) if return_duals else (w, b)

    def svm_crammer_singer(self, query, support, labels, n_way, C=0.1, *, ridge=0.0, return_duals=False, solver=None):
        """Logits of the multiclass support vector machine that separates the support set: a head for few-shot learning.

            W = argmin 1/2 |W|^2 + C sum_i max_m (w_m'x_i - w_{y_i}'x_i + 1[m != y_i])          logits = query W'

        query: (..., q, d), support: (..., n, d), labels: (..., n) in 0 ... n_way - 1, without derivative, C >= 0: (...) or a
        number. Returns logits: (..., q, n_way); with return_duals also alpha: (..., n, n_way), W = alpha' support, of the dual

            min 1/2 <alpha, (K + ridge I) alpha> - sum_i alpha_{i, y_i}  s.t. alpha_{i,m} <= C 1[m = y_i], sum_m alpha_{i,m} = 0

        with K = support support'. MetaOptNet's head has ridge=1, which makes its matrix definite; it is not needed here, where
        samples may be equal. Raises ShapeError where d or the number of labels differ, ProblemError for C < 0, for labels
        out of range, and for a single class, where they have values: compiled code cannot see them.
        Sources: Crammer, Singer, JMLR 2001; Lee, Maji, Ravichandran, Soatto, "Meta-learning with differentiable convex
        optimization", CVPR 2019.
        """
        query, support, labels, C = self._all(query, support, labels, C)
        self._check_size("C", C)
        n, eye = _samples(support, labels, query), np.eye(n_way)
        one_hot = self._one_hot(labels, n_way, support)
        K = self._arrays.matmul(support, self._transposed(support)) + self._arrays.asarray(ridge * np.eye(n), support)
        lead, size = self._arrays.shape(K)[:-2], n * n_way
        apart = self._arrays.reshape(K, (*lead, n, 1, n, 1)) * self._arrays.asarray(eye[:, None, :], support)
        Q = self._arrays.reshape(apart, (*lead, size, size))
        target = self._merged(one_hot, 2)
        A, b, G = (self._arrays.asarray(a, support) for a in (np.repeat(np.eye(n), n_way, 1), np.zeros(n), np.eye(size)))
        h = self._with_axis(self._arrays.cast(C, support)) * target
        alpha = self._split(self.qp(Q, -target, A, b, G, h, solver=solver), (n, n_way))
        logits = self._arrays.matmul(self._arrays.matmul(query, self._transposed(support)), alpha)
        return (logits, alpha) if return_duals else logits

    def ridge_head(self, query, support, labels, n_way, lam=50.0):
        """Logits of ridge regression to the labels: query support' (support support' + lam I)^-1 Y, Y of zeros and ones.

        query: (..., q, d), support: (..., n, d), labels: (..., n) in 0 ... n_way - 1, lam: (...) or a number, positive. Returns
        logits: (..., q, n_way). Raises ShapeError and ProblemError as `svm_crammer_singer` does. Source: Bertinetto, Henriques,
        Torr, Vedaldi, "Meta-learning with differentiable closed-form solvers", ICLR 2019.
        """
        query, support, labels, lam = self._all(query, support, labels, lam)
        self._check_size("lam", lam, zero=False)
        n = _samples(support, labels, query)
        K = self._arrays.matmul(support, self._transposed(support))
        lam = self._with_axis(self._with_axis(self._arrays.cast(lam, support)))
        K = K + lam * self._arrays.asarray(np.eye(n), support)
        weights = self._arrays.matmul(self._arrays.inverse(K), self._one_hot(labels, n_way, support, least=1))
        return self._arrays.matmul(self._arrays.matmul(query, self._transposed(support)), weights)

    def _transposed(self, x):
        return self._arrays.moveaxis(x, -1, -2)

    def _row(self, x):
        """Vectors as matrices of one row."""
        shape = self._arrays.shape(x)
        return self._arrays.reshape(x, (*shape[:-1], 1, shape[-1]))

    def _one_hot(self, labels, count, like, least=2):
        """Labels 0 ... count - 1 as rows of the identity matrix."""
        values = self._arrays.values(labels)
        if values is not None:
            self._check_labels(values, range(count), least)
        return self._arrays.cast(self._with_axis(labels) == self._arrays.cast(np.arange(count), labels), like)

    def _check_size(self, name, value, zero=True):
        """Raise ProblemError for negative numbers, and for 0 unless it is allowed."""
        values = self._arrays.values(self._arrays.floating(value))
        if values is not None and (values < 0 if zero else values <= 0).any():
            raise ProblemError(f"{name} is {values.min()}; expected {'0 or more' if zero else 'a positive number'}")

    @staticmethod
    def _check_labels(values, allowed, least):
        wrong = ~np.isin(values, list(allowed))
        if wrong.any():
            raise ProblemError(
                f"found the labels {listed(np.unique(values[wrong]).tolist())}; expected {listed(list(allowed))}"
            )
        rows = np.sort(values.reshape(-1, values.shape[-1]), -1)
        few = np.flatnonzero((np.diff(rows, axis=-1) != 0).sum(-1) + 1 < least)
        if few.size:
            raise ProblemError(
                f"in batch items {listed(few.tolist())} all labels are the same; expected {least} classes or more"
            )


def _samples(X, y, query=None):
    """The number of samples. Raises ShapeError unless there is a label for each, and queries have the same features."""
    if len(X.shape) < 2 or not y.shape or size_of(X, -2) != size_of(y, -1):
        raise ShapeError(f"found samples {tuple(X.shape)} and labels {tuple(y.shape)}; expected (..., n, d) and (..., n)")
    if query is not None and (len(query.shape) < 2 or size_of(query, -1) != size_of(X, -1)):
        raise ShapeError(f"query has the shape {tuple(query.shape)}; expected (..., q, {size_of(X, -1)}), as support has")
    return size_of(X, -2)
