"""The peers of the layer: each is a plug-in, a function (case, leaves) -> iterator of (name, forward, backward).

forward() -> the layer's outputs as a list of arrays; backward(gx) -> the gradients of all parameters at the solution of the
forward before it. A plug-in yields nothing for problems that its package does not take, and is left out where the package is
not installed. Settings are the packages' own, but for what they print.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from qp_forms import FORMS, outputs


def torch_calls(layer, leaves):
    """forward and backward of a function of torch tensors."""
    state = {}

    def forward():
        state["outputs"] = layer(*leaves)
        return [o.detach().numpy() for o in state["outputs"]]

    def backward(gx):
        return [g.numpy() for g in torch.autograd.grad(state["outputs"], leaves, gx, allow_unused=False)]

    return forward, backward


def cvxpylayers(case, leaves):
    """cvxpylayers, with diffcp and with Moreau."""
    from cvxpylayers.torch import CvxpyLayer

    problem, parameters, variables, _ = case.build(**case.arguments)
    for name, solver in (("cvxpylayers, diffcp", "DIFFCP"), ("cvxpylayers, Moreau", "MOREAU")):
        yield name, lambda solver=solver: torch_calls(CvxpyLayer(problem, parameters, variables, solver=solver), leaves)


def moreau(case, leaves):
    """moreau.torch on the QP, with the sparsity of its values; its active set or interior point, as it chooses."""
    import moreau as package
    from moreau.torch import Solver

    form = FORMS.get(case.build.__name__)
    if not form:
        return
    B = leaves[-1].shape[0]

    def conic(*values):
        Q, p, G, h, A, b = form(torch, *values)
        if A is None:
            return Q, p, G, h, 0
        return Q, p, torch.cat([A, G], 1), torch.cat([b, h], 1), b.shape[1]

    def made():
        Q, p, A, b, zero = conic(*(v.detach() for v in leaves))
        of_Q, of_A = ((M != 0).any(0) for M in (Q, A))
        patterns = [a for mask in (of_Q, of_A) for a in _csr(mask)]
        cones = package.Cones(num_zero_cones=zero, num_nonneg_cones=b.shape[1] - zero)
        settings = package.Settings(device="cpu", batch_size=B, enable_grad=True)
        solver = Solver(p.shape[1], b.shape[1], *patterns, cones=cones, settings=settings)

        def layer(*values):
            Q, p, A, b, _ = conic(*values)
            return [outputs(case.build.__name__, solver.solve(Q[:, of_Q], A[:, of_A], p, b).x)]

        return torch_calls(layer, leaves)

    yield "moreau.torch", made


def qpth(case, leaves):
    """qpth's QPFunction (OptNet)."""
    from qpth.qp import QPFunction

    def solve(Q, p, G, h, A, b):
        none = torch.empty(0, dtype=p.dtype)
        return QPFunction(verbose=-1)(Q, p, G, h, none if A is None else A, none if b is None else b)

    yield from _torch_qp(case, leaves, "qpth", solve)


def proxsuite(case, leaves):
    """proxsuite's QPLayer."""
    from proxsuite.torch.qplayer import QPFunction

    def solve(Q, p, G, h, A, b):
        A, b = (p.new_empty(len(p), 0, p.shape[1]), p.new_empty(len(p), 0)) if A is None else (A, b)
        return QPFunction()(Q, p, A, b, G, torch.full_like(h, -1e20), h)[0]

    yield from _torch_qp(case, leaves, "proxsuite QPLayer", solve)


def qpax(case, leaves):
    """qpax under jit and vmap."""
    import jax.numpy as jnp
    import qpax as package

    def solve(Q, p, G, h, A, b):
        A, b = (jnp.zeros((0, p.size)), jnp.zeros(0)) if A is None else (A, b)
        return package.solve_qp_primal(Q, p, A, b, G, h)

    yield from _jax_qp(case, leaves, "qpax", solve)


def jaxopt(case, leaves):
    """jaxopt's OSQP under jit and vmap."""
    import jaxopt as package

    def solve(Q, p, G, h, A, b):
        solver = package.OSQP()
        equal = {} if A is None else {"params_eq": (A, b)}
        return solver.run(params_obj=(Q, p), params_ineq=(G, h), **equal).params.primal

    yield from _jax_qp(case, leaves, "jaxopt OSQP", solve)


PEERS = {f.__name__: f for f in (cvxpylayers, moreau, qpth, proxsuite, qpax, jaxopt)}


ENDLESS = {("qpax", "sudoku")}  # no answer within a minute
DENSE = 128  # variables up to which packages for dense QPs are asked: beyond it a call takes them seconds to minutes


def _dense_form(case, leaves):
    """The QP form of a case, where it is small enough."""
    form = FORMS.get(case.build.__name__)
    if form and form(torch, *(v.detach()[:1] for v in leaves))[1].shape[1] <= DENSE:
        return form
    return None


def _torch_qp(case, leaves, name, solve):
    form = _dense_form(case, leaves)
    if not form:
        return

    def layer(*values):
        return [outputs(case.build.__name__, solve(*form(torch, *values)))]

    yield name, lambda: torch_calls(layer, leaves)


def _jax_qp(case, leaves, name, solve):
    form = _dense_form(case, leaves)
    if not form or (name, case.build.__name__) in ENDLESS:
        return

    def made():
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)

        def layer(*values):
            return outputs(case.build.__name__, jax.vmap(solve)(*form(jnp, *values)))

        values = [jnp.asarray(v.detach().numpy()) for v in leaves]
        both = jax.jit(partial(jax.vjp, layer))
        pull = jax.jit(lambda vjp, g: vjp(g))
        state = {}

        def forward():
            x, state["vjp"] = both(*values)
            return [np.asarray(x)]

        def backward(gx):
            return [np.asarray(g) for g in pull(state["vjp"], jnp.asarray(gx[0].numpy()))]

        return forward, backward

    yield name, made


def _csr(mask):
    rows = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    return rows, mask.nonzero()[:, 1].contiguous()
