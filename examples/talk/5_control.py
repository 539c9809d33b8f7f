# %% [markdown]
# # 5. Control: linear systems with limits
#
# Plans are solutions of programs, too. Here the system is linear and the costs are
# quadratic, so that the programs are convex; what the talk does with curved dynamics is
# in [the list of what is missing](README.md#what-does-not-exist-yet).

# %%
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch.func import jacrev, vmap

from cvxlayers.torch import qp
from pictures import show

torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False)
generator = torch.Generator().manual_seed(0)
randn = partial(torch.randn, generator=generator)
rand = partial(torch.rand, generator=generator)
equal = partial(torch.testing.assert_close, rtol=0, atol=1e-9)

# %% [markdown]
# ## Model Predictive Control
#
# With states $x_t$ and controls $u_t$, of which $\tau_t = (x_t, u_t)$, a plan is
#
# $$\tau^\star = \operatorname{argmin}_\tau\ \sum_t \frac{1}{2} \tau_t^\top C_t \tau_t + c_t^\top \tau_t \quad \text{subject to}\quad
#   x_0 = x_{\mathrm{init}},\quad x_{t+1} = F_t \tau_t + f_t,\quad \underline{u} \le u_t \le \bar{u}.$$
#
# That is a quadratic program in all $\tau_t$ at once. Its equalities are the dynamics,
# one block of rows for each state: first $x_{\mathrm{init}} - x_0 = 0$, then
# $F_t \tau_t + f_t - x_{t+1} = 0$.


# %%
def dynamics(F, f, x_init):
    """The matrix and the right side of the equalities. F: (T - 1, n, n + m), f: (T - 1, n)."""
    steps, n, size = F.shape
    pick = torch.eye(n, size)  # the state in tau
    later = torch.block_diag(*-pick.expand(steps + 1, n, size))
    moves = torch.nn.functional.pad(torch.block_diag(*F), (0, size, n, 0))
    return later + moves, -torch.cat([x_init, f.flatten()])


def plan(C, c, F, f, x_init, limit=None, speed=None, return_duals=False):
    """tau (T, n + m), with the multipliers of the dynamics (T, n) if wanted. Limits: of the last entry, of the second."""
    T, size = c.shape
    A, b = dynamics(F, f, x_init)
    G, h = [], []
    for entry, bound in ((size - 1, limit), (1, speed)):
        if bound is not None:
            rows = torch.eye(T * size)[entry::size]
            G, h = [*G, rows, -rows], [*h, torch.full((2 * T,), bound)]
    limits = {"G": torch.cat(G), "h": torch.cat(h)} if G else {}
    tau, nu, _ = qp(
        torch.block_diag(*C), c.flatten(), A, b, **limits, return_duals=True
    )
    return (tau.view(T, size), nu.view(T, -1)) if return_duals else tau.view(T, size)


# %% [markdown]
# The smallest: one number, $x_1 = x_0 + u_0$, costs $\frac{1}{2} (x_t^2 + u_t^2)$,
# $T = 2$. Then $u_0 = -x_0 / 2$; if $|u_t| \le 1/4$, it stays there, and a small change
# of $x_0$ changes nothing.

# %%
tiny = (
    torch.eye(2).expand(2, 2, 2),
    torch.zeros(2, 2),
    torch.ones(1, 1, 2),
    torch.zeros(1, 1),
)
for limit, u_0, slope in ((None, -0.5, -0.5), (0.25, -0.25, 0.0)):
    tau, derivative = (
        transform(lambda x, limit=limit: plan(*tiny, x, limit))(torch.ones(1))
        for transform in (lambda f: f, jacrev)
    )
    print(
        f"limit {limit}: u_0 = {tau[0, 1]:.2f}, du_0/dx_0 = {derivative[0, 1, 0]:.2f}"
    )
    equal(tau[0, 1], torch.tensor(u_0))
    equal(derivative[0, 1, 0], torch.tensor(slope))

# %% [markdown]
# ## Why model predictive control?
#
# Because a plan knows of limits before they are reached. A cart, 5 m from its goal, has
# a motor of at most 1 N, and must not be faster than 1 m/s. Plan, apply the first
# control, plan again: one way. The other is the best linear controller, whose controls
# are clipped. It breaks the speed limit.

# %%
dt, T = 0.2, 20


def cart(mass, drag):
    """F of position and speed."""
    force = dt / mass
    one, zero = torch.ones_like(force), torch.zeros_like(force)
    return torch.stack(
        [torch.stack([one, dt * one, zero]), torch.stack([zero, 1 - dt * drag, force])]
    )


C = torch.tensor([1.0, 0.1, 0.1]).diag().expand(T, 3, 3)
F = cart(torch.tensor(1.0), torch.tensor(0.1)).expand(T - 1, 2, 3)
c, f = torch.zeros(T, 3), torch.zeros(T - 1, 2)
gains = jacrev(lambda x: plan(C, c, F, f, x)[0, 2])(
    torch.zeros(2)
)  # without limits u_0 is linear in x

controllers = {
    "planned": lambda x: plan(C, c, F, f, x, limit=1.0, speed=1.0)[0, 2],
    "clipped": lambda x: (gains @ x).clip(-1, 1),
}
paths = {}
for name, controller in controllers.items():
    x, path = torch.tensor([-5.0, 0.0]), []
    for _ in range(60):
        u = controller(x)
        path.append(torch.cat([x, u[None]]))
        x = F[0] @ path[-1]
    paths[name] = torch.stack(path)
    print(
        f"{name}: fastest {paths[name][:, 1].max():.3f} m/s, strongest {paths[name][:, 2].abs().max():.3f} N, at the end {x[0]:+.3f} m"
    )
assert paths["planned"][:, 1].max() < 1 + 1e-9
assert paths["clipped"][:, 1].max() > 1.2
assert paths["planned"][-1, :2].norm() < 0.05

figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
for axis, k, name in zip(
    axes, range(3), ("position [m]", "speed [m/s]", "force [N]"), strict=True
):
    for controller, path in paths.items():
        axis.plot(dt * torch.arange(60), path[:, k], label=controller)
    if k:
        axis.axhline(1, color="0.5", lw=1, ls=":")
    axis.set(xlabel="time [s]", title=name)
axes[0].legend()
show()

# %% [markdown]
# ## Differentiating LQR control is easy
#
# Without limits it is the linear quadratic regulator, solved by a recursion backwards
# in time (Riccati) and a pass forwards. The slide has
# $\sum_t \tau_t^\top C_t \tau_t + c_t^\top \tau_t$; its formulas belong to the cost
# above, with $\frac{1}{2}$. Multiplier $\lambda_t$ is that of the rows that define
# $x_t$, and the gradient of the cost to go.


# %%
def lqr(C, c, F, f, x_init):
    """tau and lambda."""
    n, policies = len(x_init), []
    V, v = torch.zeros(n, n), torch.zeros(n)
    F, f = (
        torch.cat([F, 0 * F[:1]]),
        torch.cat([f, 0 * f[:1]]),
    )  # nothing comes after the last
    for C_t, c_t, F_t, f_t in zip(*(a.flip(0) for a in (C, c, F, f)), strict=True):
        Q, q = C_t + F_t.T @ V @ F_t, c_t + F_t.T @ (V @ f_t + v)
        K, k = (
            -torch.linalg.solve(Q[n:, n:], Q[n:, :n]),
            -torch.linalg.solve(Q[n:, n:], q[n:]),
        )
        V, v = Q[:n, :n] + Q[:n, n:] @ K, q[:n] + Q[:n, n:] @ k
        policies.append((K, k, V, v))
    x, tau, lam = x_init, [], []
    for (K, k, V, v), F_t, f_t in zip(policies[::-1], F, f, strict=True):
        tau.append(torch.cat([x, K @ x + k]))
        lam.append(V @ x + v)
        x = F_t @ tau[-1] + f_t
    return torch.stack(tau), torch.stack(lam)


T, n, m = 6, 3, 2
roots = randn(T, n + m, n + m)
theta = (
    roots @ roots.mT + torch.eye(n + m),
    randn(T, n + m),
    randn(T - 1, n, n + m),
    randn(T - 1, n),
    randn(n),
)
tau, lam = lqr(*theta)
for recursion, program in zip((tau, lam), plan(*theta, return_duals=True), strict=True):
    equal(recursion, program)
print(
    f"recursion and quadratic program: largest difference {(tau - plan(*theta)).abs().max():.0e}"
)

# %% [markdown]
# The gradients of a loss $\ell(\tau^\star)$ come from another such problem, with
# $\nabla_\tau \ell$ in place of $c$ and nothing in place of $f$ and $x_{\mathrm{init}}$
# (Amos and others, NeurIPS 2018). Its solution is $d_\tau$, $d_\lambda$, and
#
# $$\frac{\partial \ell}{\partial C_t} = \frac{1}{2} (d_{\tau_t} \otimes \tau_t + \tau_t \otimes d_{\tau_t}), \quad
#   \frac{\partial \ell}{\partial c_t} = d_{\tau_t}, \quad
#   \frac{\partial \ell}{\partial F_t} = d_{\lambda_{t+1}} \otimes \tau_t + \lambda_{t+1} \otimes d_{\tau_t}, \quad
#   \frac{\partial \ell}{\partial f_t} = d_{\lambda_{t+1}}, \quad
#   \frac{\partial \ell}{\partial x_{\mathrm{init}}} = d_{\lambda_0}.$$
#
# The slide prints $\partial \ell / \partial f_t = d_{\lambda_t}$, off by one: its
# matrix has $\lambda_t$ in the rows of $F_t$, its other formulas, as here, in the rows
# of $x_t$. (Where times begin with 1, as elsewhere in the talk, the last is
# $d_{\lambda_1}$.)

# %%
weights = randn(T, n + m)  # the gradient of the loss
C, c, F, f, x_init = theta
d_tau, d_lam = lqr(C, weights, F, torch.zeros_like(f), torch.zeros_like(x_init))
outer = vmap(torch.outer)
formulas = {
    "C": (outer(d_tau, tau) + outer(tau, d_tau)) / 2,
    "c": d_tau,
    "F": outer(d_lam[1:], tau[:-1]) + outer(lam[1:], d_tau[:-1]),
    "f": d_lam[1:],
    "x_init": d_lam[0],
}


def loss(*theta):
    """Of the plan by the quadratic program."""
    return (weights * plan(*theta)).sum()


for (name, formula), by_layer in zip(
    formulas.items(), jacrev(loss, tuple(range(5)))(*theta), strict=True
):
    by_layer = (by_layer + by_layer.mT) / 2 if name == "C" else by_layer
    equal(formula, by_layer)
    print(
        f"gradient in {name}: largest difference {(formula - by_layer).abs().max():.0e}"
    )

# %% [markdown]
# Both misprints, measured against central differences:


# %%
def difference(function, at, direction, step=1e-5):
    """The derivative of a function along a direction."""
    return (function(at + step * direction) - function(at - step * direction)) / (
        2 * step
    )


along = randn(T - 1, n)
measured = difference(lambda f: loss(C, c, F, f, x_init), f, along)
errors = [
    abs((form * along).sum() - measured).item() for form in (d_lam[:-1], d_lam[1:])
]
print(
    f"f: the printed formula is off by {errors[0]:.2f}, the right one by {errors[1]:.0e}"
)
assert errors[0] > 0.1
assert errors[1] < 1e-7

along = randn(T, n + m)
measured = difference(
    lambda c: loss(2 * C, c, F, f, x_init), c, along
)  # the printed cost, without 1/2
errors = []
for form in (
    C,
    2 * C,
):  # C as in the printed matrix, and what belongs to the printed cost
    d, _ = lqr(form, weights, F, torch.zeros_like(f), torch.zeros_like(x_init))
    errors.append(abs((d * along).sum() - measured).item())
print(
    f"c without 1/2: the printed formula is off by {errors[0]:.2f}, with 2 C for C by {errors[1]:.0e}"
)
assert errors[0] > 0.1
assert errors[1] < 1e-7

# %% [markdown]
# ## Differentiable Model Predictive Control
#
# With limits the plan is still a layer, so that what it is made of can be learned from
# what it should do. An expert drives the cart; its mass, its drag and what control
# costs are unknown to us. We see where it starts and what it does, in plans that are
# often at the limit of the motor, and follow the gradient of the difference, through
# the quadratic program, into the three numbers.

# %%
T = 12
starts = torch.stack([6 * rand(24) - 3, 2 * rand(24) - 1], 1)
c, f = torch.zeros(T, 3), torch.zeros(T - 1, 2)


def controls(logs, starts):
    """Of plans (batch, T) with mass, drag and the cost of control e^logs."""
    mass, drag, cost = logs.exp()
    C = torch.stack([torch.ones(()), torch.tensor(0.1), cost]).diag().expand(T, 3, 3)
    F = cart(mass, drag).expand(T - 1, 2, 3)
    return vmap(lambda x: plan(C, c, F, f, x, limit=1.0)[:, 2])(starts)


truth = torch.tensor([2.0, 0.5, 0.3]).log()
seen = controls(truth, starts)
print(f"{(seen.abs() > 1 - 1e-9).double().mean():.0%} of the controls are at the limit")

logs = torch.tensor([1.0, 0.1, 1.0]).log().requires_grad_()
optimizer, losses = (
    torch.optim.LBFGS(
        [logs], max_iter=60, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    ),
    [],
)


def error():
    """Of our plans, with its gradient."""
    optimizer.zero_grad()
    found = (controls(logs, starts) - seen).square().mean()
    found.backward()
    losses.append(found.item())
    return found


optimizer.step(error)
found = logs.detach().exp()
print(
    f"mass, drag, cost: {found}, of which {truth.exp()} are true; squared error {losses[0]:.1e} -> {losses[-1]:.0e}"
)
assert losses[-1] < 1e-10
equal(found, truth.exp(), atol=1e-4)
