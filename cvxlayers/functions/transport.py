"""Soft assignment and optimal transport."""

from __future__ import annotations

import inspect

from ..errors import ProblemError, ShapeError
from ..layers.sinkhorn import Sinkhorn
from .base import Base, axis_of, size_of


class Transport(Base):
    """Sinkhorn's map and its relatives."""

    def sinkhorn(self, X, tau=1.0, *, tol=None):
        """The soft assignment argmax <X, P> + tau H(P) over the doubly stochastic matrices, H(P) = -sum P log P.

        X: scores (..., N, N). tau: a positive temperature, a number or (...); both have derivatives, also second ones. As tau
        goes to 0, P goes to the permutation that maximizes <X, P>, if it is unique. An entry of -inf forbids an
        assignment: it is exactly 0 in P. tol: the largest error of a sum of a row; by default that of rounding; columns
        are exact. Returns P (..., N, N).

        Raises ShapeError unless X is square, and SolverError, which names the items, if tau <= 0 or no permutation avoids the
        forbidden entries; in compiled code, and if X has NaN or +inf, such an item is NaN. Source: Adams, Zemel, "Ranking via
        Sinkhorn propagation", 2011; Mena et al., "Learning latent permutations with Gumbel-Sinkhorn networks", ICLR 2018.
        Method: Newton's on the dual.
        """
        X, tau = self._all(X, tau)
        n, m = self._sides(X)
        if n != m:
            raise ShapeError(f"scores of shape {tuple(X.shape)} are not square; expected (..., N, N), or use optimal_transport")
        X, tau, ones = self._all(X, tau, [1.0] * n)
        return self._plan(X, ones, ones, tau, tol)[0]

    def gumbel_sinkhorn(self, X, tau=1.0, *, n_samples=1, noise=1.0, tol=None, **randomness):
        """Random soft permutations: sinkhorn(X + noise * G, tau), the entries of G independent standard Gumbel variables.

        As tau goes to 0 these are permutations. X: (..., N, N). noise: a number or (...). randomness: key= in JAX, where it is
        required; generator= (torch.Generator) in torch; generator= (tf.random.Generator) or seed= (of stateless operations) in
        TensorFlow. Without it torch and TensorFlow take the global generator. Returns (n_samples, ..., N, N), with derivatives
        for X, noise and tau. Raises as `sinkhorn`, and ProblemError for other randomness. Source: Mena et al., "Learning latent
        permutations with Gumbel-Sinkhorn networks", ICLR 2018.
        """
        self._check_randomness(randomness)
        X, noise, tau = map(self._arrays.floating, self._all(X, noise, tau))
        self._sides(X)
        shape = (int(n_samples), *self._arrays.shape(X))
        noise = self._with_axis(self._with_axis(noise))
        return self.sinkhorn(X + noise * self._arrays.gumbel(shape, X, **randomness), tau, tol=tol)

    def optimal_transport(self, C, a=None, b=None, eps=0.1, *, tol=None):
        """Entropic optimal transport: (value, plan) of min <C, P> - eps H(P) over P >= 0 with P1 = a, P'1 = b.

        C: costs (..., n, m). a, b: masses (..., n) and (..., m), nonnegative and of equal sums; by default 1/n and 1/m. eps: a
        positive number or (...). H(P) = -sum P log P, so P = exp((f + g' - C) / eps) and the value is a'f + b'g; <C, plan>
        is the cost alone. Returns value (...), plan (..., n, m); rows and columns without mass are exactly 0. tol: as in
        `sinkhorn`, relative.

        The value is differentiated by the envelope theorem: P in C, f + eps/2 and g + eps/2 in a and b, -H(P) in eps; the plan
        implicitly. Masses count only as far as they can change: derivatives are those along equal sums of a and b, in the
        gauge a'f = b'g; masses of 0 have none, for there they would be infinite. Second derivatives exist likewise.

        Raises SolverError, which names the items, if eps <= 0, if a mass is negative, if the sums differ by more than the cube
        root of rounding, relatively, or if entries of inf in C leave no plan; in compiled code such an item is NaN.
        Source: Cuturi, "Sinkhorn distances", NeurIPS 2013.
        """
        given = [v for v in (C, a, b, eps) if v is not None]
        C = self._all(*given)[0]
        n, m = self._sides(C)
        C, a, b, eps = self._all(C, [1 / n] * n if a is None else a, [1 / m] * m if b is None else b, eps)
        for name, v, k in (("a", a, n), ("b", b, m)):
            if not v.shape or v.shape[-1] != k:
                raise ShapeError(
                    f"masses {name} have the shape {tuple(v.shape)}; expected (..., {k}) for costs {tuple(C.shape)}"
                )
        plan, value = self._plan(-self._arrays.floating(C), a, b, eps, tol)
        return -value[..., 0], plan

    def _check_randomness(self, given):
        known = list(inspect.signature(self._arrays.gumbel).parameters.values())[2:]
        wrong = sorted(given.keys() - {p.name for p in known})
        lacking = [p.name for p in known if p.default is p.empty and p.name not in given]
        if wrong or lacking:
            names = ", ".join(f"{p.name}=" for p in known)
            found = f"has no option {wrong[0]!r}" if wrong else f"needs {lacking[0]}="
            raise ProblemError(f"gumbel_sinkhorn {found}; in this framework randomness comes from: {names}")

    def _sides(self, X):
        axis_of(X, -2, None)
        return size_of(X, -2, 1), size_of(X, -1, 1)

    def _plan(self, X, a, b, tau, tol):
        n, m = self._sides(X)
        tol = None if tol is None else float(tol)
        P, V = self._apply(Sinkhorn(n, m, tol), self._merged(X, 2), a, b, self._with_axis(tau))
        return self._split(P, (n, m)), V
