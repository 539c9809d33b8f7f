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
from torch.nn.functional import pad

from cvxlayers.torch import qp
from pictures import show

torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False)
randn = partial(torch.randn, generator=torch.Generator().manual_seed(0))
equal = partial(torch.testing.assert_close, rtol=0, atol=1e-9)

# %% [markdown]
# ## Model Predictive Control
#
# With states $x_t$ and controls $u_t$, $\tau_t = (x_t, u_t)$, a plan minimizes
#
# $$\sum_t \frac{1}{2} \tau_t^\top C_t \tau_t + c_t^\top \tau_t
#   \quad \text{subject to}\quad x_0 = x_{\mathrm{init}},\quad
#   x_{t+1} = F_t \tau_t + f_t,\quad \underline{u} \le u_t \le \bar{u}.$$
#
# That is a quadratic program in all $\tau_t$ at once. Its equalities are the dynamics,
# one block of rows for each state: first $x_{\mathrm{init}} - x_0 = 0$, then
# $F_t \tau_t + f_t - x_{t+1} = 0$.


# %%
def dynamics(F, f, x_init):
    """The equalities: their matrix and right side. F: (T - 1, n, n + m)."""
    steps, n, size = F.shape
    states = torch.eye(n, size).expand(steps + 1, n, size)
    moves = pad(torch.block_diag(*F), (0, size, n, 0))
    return moves - torch.block_diag(*states), -torch.cat([x_init, f.flatten()])


def plan(C, c, F, f, x_init, limits=None, return_duals=False):
    """tau (T, n + m), and the multipliers (T, n). limits: {entry of tau: bound}."""
    T, size = c.shape
    inequalities = {}
    if limits:
        rows = torch.cat([torch.eye(T * size)[entry::size] for entry in limits])
        bounds = torch.tensor(list(limits.values())).repeat_interleave(T)
        inequalities = {"G": torch.cat([rows, -rows]), "h": bounds.repeat(2)}
    program = torch.block_diag(*C), c.flatten(), *dynamics(F, f, x_init)
    tau, nu, _ = qp(*program, **inequalities, return_duals=True)
    tau = tau.view(T, size)
    return (tau, nu.view(T, -1)) if return_duals else tau


# %% [markdown]
# The smallest: one number, $x_1 = x_0 + u_0$, costs $\frac{1}{2} (x_t^2 + u_t^2)$,
# $T = 2$. Then $u_0 = -x_0 / 2$; if $|u_t| \le 1/4$, it stays there, and a small change
# of $x_0$ changes nothing.

# %%
C, c = torch.eye(2).expand(2, 2, 2), torch.zeros(2, 2)
F, f = torch.ones(1, 1, 2), torch.zeros(1, 1)


def first_control(x_init, limits=None):
    """u_0."""
    return plan(C, c, F, f, x_init, limits)[0, 1:]


for limits, control, slope in ((None, -0.5, -0.5), ({1: 0.25}, -0.25, 0.0)):
    u_0 = first_control(torch.ones(1), limits)
    in_x_0 = jacrev(first_control)(torch.ones(1), limits)
    print(f"u_0 = {u_0.item():.2f}, du_0/dx_0 = {in_x_0.item():.2f}")
    equal(u_0, torch.tensor([control]))
    equal(in_x_0, torch.tensor([[slope]]))

# %% [markdown]
# ## Why model predictive control?
#
# Because a plan knows of limits before they are reached. A cart, 5 m from its goal, has
# a motor of at most 1 N, and must not be faster than 1 m/s. One way: plan, apply the
# first control, plan again. The other is the best linear controller, whose controls are
# clipped. It breaks the speed limit.

# %%
dt, T = 0.2, 20


def cart(mass, drag):
    """F, for tau = (position, speed, force)."""
    force = dt / mass
    one, zero = torch.ones_like(force), torch.zeros_like(force)
    position, speed = (one, dt * one, zero), (zero, 1 - dt * drag, force)
    return torch.stack([torch.stack(position), torch.stack(speed)])


C = torch.tensor([1.0, 0.1, 0.1]).diag().expand(T, 3, 3)
F = cart(torch.tensor(1.0), torch.tensor(0.1)).expand(T - 1, 2, 3)
c, f = torch.zeros(T, 3), torch.zeros(T - 1, 2)


def planned(x, limits=None):
    """The first control of a plan."""
    return plan(C, c, F, f, x, limits)[0, 2:]


gains = jacrev(planned)(torch.zeros(2))  # without limits it is linear in x
controllers = {
    "planned": lambda x: planned(x, {1: 1.0, 2: 1.0}),
    "clipped": lambda x: (gains @ x).clip(-1, 1),
}
paths = {}
for name, controller in controllers.items():
    x, path = torch.tensor([-5.0, 0.0]), []
    for _ in range(60):
        path.append(torch.cat([x, controller(x)]))
        x = F[0] @ path[-1]
    paths[name] = torch.stack(path)
    fastest = paths[name][:, 1].max()
    print(f"{name}: at most {fastest:.3f} m/s, ends {x[0].abs():.3f} m from the goal")
assert paths["planned"][:, 1].max() < 1 + 1e-9
assert paths["clipped"][:, 1].max() > 1.2
assert paths["planned"][-1, :2].norm() < 0.01

figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
for k, name in enumerate(("position [m]", "speed [m/s]", "force [N]")):
    for controller, path in paths.items():
        axes[k].plot(dt * torch.arange(60), path[:, k], label=controller)
    if k:
        axes[k].axhline(1, color="0.5", lw=1, ls=":")
    axes[k].set(xlabel="time [s]", title=name)
axes[0].legend()
show()

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
starts = randn(24, 2) * torch.tensor([2.0, 0.5])
c, f = torch.zeros(T, 3), torch.zeros(T - 1, 2)


def controls(logs):
    """Of plans (24, T) with the mass, the drag and the cost of control e^logs."""
    mass, drag, cost = logs.exp()
    C = torch.stack([torch.ones(()), torch.tensor(0.1), cost]).diag().expand(T, 3, 3)
    F = cart(mass, drag).expand(T - 1, 2, 3)
    return vmap(lambda x: plan(C, c, F, f, x, {2: 1.0})[:, 2])(starts)


truth = torch.tensor([2.0, 0.5, 0.3])
seen = controls(truth.log())
print(f"{(seen.abs() > 1 - 1e-9).double().mean():.0%} of the controls are at the limit")

logs, losses = torch.tensor([1.0, 0.1, 1.0]).log().requires_grad_(), []
options = {"max_iter": 60, "tolerance_change": 1e-14, "line_search_fn": "strong_wolfe"}
optimizer = torch.optim.LBFGS([logs], **options)


def imitation():
    """The squared error of our plans, with its gradient."""
    optimizer.zero_grad()
    error = (controls(logs) - seen).square().mean()
    error.backward()
    losses.append(error.item())
    return error


optimizer.step(imitation)
learned = logs.detach().exp()
print(f"squared error {losses[0]:.1e} -> {losses[-1]:.0e}")
print("mass, drag, cost:", learned)
assert losses[-1] < 1e-10
equal(learned, truth, atol=1e-4)

# %% [markdown]
# ## Differentiating LQR control is easy
#
# Without limits the plan is that of the linear quadratic regulator, solved by a
# recursion backwards in time (Riccati) and a pass forwards. The slide has
# $\sum_t \tau_t^\top C_t \tau_t + c_t^\top \tau_t$; its formulas belong to the cost
# above, with $\frac{1}{2}$. The multiplier $\lambda_t$ is that of the rows that define
# $x_t$: the gradient, in $x_t$, of the cost to go.


# %%
def lqr(C, c, F, f, x_init):
    """tau (T, n + m) and lambda (T, n)."""
    n, policies = len(x_init), []
    V, v = torch.zeros(n, n), torch.zeros(n)  # the cost to go: 1/2 x'Vx + v'x
    F, f = pad(F, (0, 0, 0, 0, 0, 1)), pad(f, (0, 0, 0, 1))  # after the last: nothing
    for C_t, c_t, F_t, f_t in zip(*(a.flip(0) for a in (C, c, F, f)), strict=True):
        Q, q = C_t + F_t.T @ V @ F_t, c_t + F_t.T @ (V @ f_t + v)
        K = -torch.linalg.solve(Q[n:, n:], Q[n:, :n])
        k = -torch.linalg.solve(Q[n:, n:], q[n:])
        V, v = Q[:n, :n] + Q[:n, n:] @ K, q[:n] + Q[:n, n:] @ k
        policies.append((K, k, V, v))
    x, tau, lam = x_init, [], []
    for (K, k, V, v), F_t, f_t in zip(policies[::-1], F, f, strict=True):
        tau.append(torch.cat([x, K @ x + k]))
        lam.append(V @ x + v)
        x = F_t @ tau[-1] + f_t
    return torch.stack(tau), torch.stack(lam)


T, n, m = 6, 3, 2
factors = randn(T, n + m, n + m)
C, c = factors @ factors.mT + torch.eye(n + m), randn(T, n + m)
F, f, x_init = randn(T - 1, n, n + m), randn(T - 1, n), randn(n)
theta = C, c, F, f, x_init

tau, lam = lqr(*theta)
for recursion, program in zip((tau, lam), plan(*theta, return_duals=True), strict=True):
    equal(recursion, program)
difference = (tau - plan(*theta)).abs().max()
print(f"recursion and quadratic program: largest difference {difference:.0e}")

# %% [markdown]
# The gradients of a loss $\ell(\tau^\star)$ come from another such problem, with
# $\nabla_\tau \ell$ in place of $c$ and nothing in place of $f$ and $x_{\mathrm{init}}$
# (Amos and others, NeurIPS 2018). Its solution is $d_\tau$, $d_\lambda$, and
#
# $$\frac{\partial \ell}{\partial C_t}
#   = \frac{1}{2} (d_{\tau_t} \otimes \tau_t + \tau_t \otimes d_{\tau_t}), \quad
#   \frac{\partial \ell}{\partial F_t}
#   = d_{\lambda_{t+1}} \otimes \tau_t + \lambda_{t+1} \otimes d_{\tau_t},$$
#
# $$\frac{\partial \ell}{\partial c_t} = d_{\tau_t}, \quad
#   \frac{\partial \ell}{\partial f_t} = d_{\lambda_{t+1}}, \quad
#   \frac{\partial \ell}{\partial x_{\mathrm{init}}} = d_{\lambda_0}.$$
#
# The slide prints $\partial \ell / \partial f_t = d_{\lambda_t}$, off by one: its
# matrix has $\lambda_t$ in the rows of $F_t$, its other formulas, as here, in the rows
# of $x_t$. (Where times begin with 1, as elsewhere in the talk, the last is
# $d_{\lambda_1}$.)

# %%
weights = randn(T, n + m)  # the gradient of the loss
nothing = torch.zeros(T - 1, n), torch.zeros(n)
outer = vmap(torch.outer)

d_tau, d_lam = lqr(C, weights, F, *nothing)
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


layers = jacrev(loss, tuple(range(5)))(*theta)
for (name, formula), by_layer in zip(formulas.items(), layers, strict=True):
    equal(formula, by_layer)
    difference = (formula - by_layer).abs().max()
    print(f"gradient in {name}: largest difference {difference:.0e}")

# %% [markdown]
# Both misprints, measured against central differences along a direction: the index, and
# $\frac{1}{2}$, without which $2 C$ has to take the place of $C$ in the matrix.


# %%
def central(function, at, direction, step=1e-5):
    """The derivative along a direction."""
    up, down = (function(at + sign * step * direction) for sign in (1, -1))
    return (up - down) / (2 * step)


along = randn(T - 1, n)
measured = central(lambda f: loss(C, c, F, f, x_init), f, along)
forms = d_lam[:-1], d_lam[1:]
printed, right = (((form * along).sum() - measured).abs() for form in forms)
print(f"gradient in f: printed, off by {printed:.2f}; right, off by {right:.0e}")
assert printed > 0.1
assert right < 1e-7

along = randn(T, n + m)
measured = central(lambda c: loss(2 * C, c, F, f, x_init), c, along)  # no 1/2
forms = (lqr(matrix, weights, F, *nothing)[0] for matrix in (C, 2 * C))
printed, right = (((form * along).sum() - measured).abs() for form in forms)
print(f"gradient in c: printed, off by {printed:.2f}; right, off by {right:.0e}")
assert printed > 0.1
assert right < 1e-7
