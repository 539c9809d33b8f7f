# %% [markdown]
# # 2. Theory: the derivative of a solution
#
# A solution is defined by equations, the conditions of optimality, and the derivative
# follows from these: for roots, quadratic programs, and conic programs, which contain
# almost all that is convex.

# %%
from functools import partial

import cvxpy as cp
import matplotlib.pyplot as plt
import torch
from torch.func import hessian, jacrev

from cvxlayers import sets
from cvxlayers.torch import CvxpyLayer, project, qp
from pictures import show

torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False)
randn = partial(torch.randn, generator=torch.Generator().manual_seed(0))
equal = partial(torch.testing.assert_close, rtol=0, atol=1e-9)

# %% [markdown]
# ## The Implicit Function Theorem
#
# Where $g(x, f(x)) = 0$ defines $f$, and $\mathrm{D}_y g$ is invertible there (Dini
# 1877; Dontchev, Rockafellar 2009),
#
# $$\mathrm{D}_x f(x) = -\mathrm{D}_y g(x, f(x))^{-1}\, \mathrm{D}_x g(x, f(x)).$$
#
# The slide gives $g$ values in $\mathbb{R}$. They have to be in $\mathbb{R}^m$, as many
# as $y$ has entries, or there is no inverse.
#
# First $y^3 + y = x$, of which the closed form of the derivative is $1 / (3 y^2 + 1)$.
# How $y$ was found, here by Newton's method, does not matter.


# %%
def root(g, x, y, steps=30):
    """y with g(x, y) = 0, by Newton's method."""
    for _ in range(steps):
        y = y - torch.linalg.solve(jacrev(g, 1)(x, y), g(x, y))
    return y


def implicit(g, x, y):
    """The theorem."""
    in_x, in_y = jacrev(g, (0, 1))(x, y)
    return -torch.linalg.solve(in_y, in_x)


def cubic(x, y):
    """One equation."""
    return y**3 + y - x


x = torch.tensor([2.5])
y = root(cubic, x, torch.zeros(1))
slope = implicit(cubic, x, y)
print(f"x = {x.item()}, y = {y.item():.4f}, dy/dx = {slope.item():.4f}")
equal(slope, 1 / (3 * y**2 + 1)[:, None], atol=1e-14)

xs, ys = torch.linspace(-4, 4, 100), torch.linspace(-2, 2, 100)
figure, axis = plt.subplots(figsize=(6, 3.5))
values = cubic(xs, ys[:, None])
others = {"levels": [-6, -4, -2, 2, 4, 6], "linestyles": "solid", "linewidths": 1}
axis.contour(xs, ys, values, colors="0.8", **others)
axis.contour(xs, ys, values, levels=[0], colors="C0")
axis.plot([], color="C0", label="g(x, y) = 0")
ends = torch.tensor([-1.5, 1.5])
axis.plot(x + ends, y + slope[0] * ends, "C1", label="slope by the theorem")
axis.plot(x, y, "o", color="C1")
axis.set(xlabel="x", ylabel="y")
axis.legend(loc="lower right", frameon=True, framealpha=1, edgecolor="none")
show()

# %% [markdown]
# Then a minimum:
#
# $$y^\star(x) = \operatorname{argmin}_y\ \frac{1}{2} \left|y - x\right|^2
#   + \log \sum_i e^{y_i}$$
#
# is a root of the gradient $y - x + \pi(y)$, where $\pi$ is the softmax, so that
# $\mathrm{D} y^\star = (I + \mathrm{diag}(\pi) - \pi \pi^\top)^{-1}$. The layer gives
# the same.


# %%
def energy(x, y):
    """What is minimized in y."""
    return (y - x).square().sum() / 2 + y.logsumexp(0)


x = torch.tensor([2.0, 1.0, -1.0])
y = root(jacrev(energy, 1), x, torch.zeros(3))
J = implicit(jacrev(energy, 1), x, y)
soft = y.softmax(0)
equal(J, torch.linalg.inv(torch.eye(3) + soft.diag() - soft.outer(soft)))

x_, y_ = cp.Parameter(3), cp.Variable(3)
program = cp.Problem(cp.Minimize(cp.sum_squares(y_ - x_) / 2 + cp.log_sum_exp(y_)))
layer = CvxpyLayer(program, [x_], [y_])
equal(layer(x)[0], y)
equal(jacrev(lambda x: layer(x)[0])(x), J)
print(J)

# %% [markdown]
# ## Implicitly differentiating a convex quadratic program
#
# OptNet (Amos, Kolter, ICML 2017) is the layer
#
# $$x^\star = \operatorname{argmin}_x\ \frac{1}{2} x^\top Q x + p^\top x
#   \quad \text{subject to}\quad A x = b,\ G x \le h.$$
#
# With multipliers $\nu$ and $\lambda$, $z^\star = (x^\star, \lambda^\star, \nu^\star)$
# is a root of
#
# $$\mathcal{R}(z, \theta) = \begin{bmatrix} Q x + p + A^\top \nu + G^\top \lambda \\
#   \mathrm{diag}(\lambda) (G x - h) \\ A x - b \end{bmatrix},
#   \qquad \theta = (Q, p, A, b, G, h),$$
#
# which is all that the theorem needs. The layer `qp` solves it, and its derivatives in
# the six arguments are those of the theorem.

# %%
n, k, m = 5, 2, 6
factor, p, A, G = randn(n, n), randn(n), randn(k, n), randn(m, n)
Q, feasible, slack = factor @ factor.T + 0.1 * torch.eye(n), randn(n), randn(m).abs()
theta = Q, p, A, A @ feasible, G, G @ feasible + slack


def residual(z, Q, p, A, b, G, h):
    """The conditions of optimality."""
    x, lam, nu = z.split([n, m, k])
    return torch.cat([Q @ x + p + A.T @ nu + G.T @ lam, lam * (G @ x - h), A @ x - b])


def solution(*theta):
    """z."""
    x, nu, lam = qp(*theta, return_duals=True)
    return torch.cat([x, lam, nu])


z = solution(*theta)
equal(residual(z, *theta), torch.zeros(n + m + k))
lam = z[n : n + m]
print("multipliers of the inequalities:", lam)
assert (lam > 1e-3).any()
assert (lam == 0).any()

in_z, *in_theta = jacrev(residual, tuple(range(7)))(z, *theta)
layers = jacrev(solution, tuple(range(6)))(*theta)
for name, by_theorem, by_layer in zip("QpAbGh", in_theta, layers, strict=True):
    by_theorem = -torch.linalg.solve(in_z, by_theorem.flatten(1)).view(by_layer.shape)
    if name == "Q":  # symmetric, and so is its gradient
        by_theorem = (by_theorem + by_theorem.mT) / 2
    equal(by_theorem, by_layer)
    difference = (by_theorem - by_layer).abs().max()
    print(f"dz/d{name}: {tuple(by_layer.shape)}, largest difference {difference:.0e}")

# %% [markdown]
# ## Background: cones and conic programs
#
# $$x^\star = \operatorname{argmin}_x\ c^\top x
#   \quad \text{subject to}\quad b - A x \in \mathcal{K}$$
#
# The slide's cones, as constraints in CVXPY. Each is a layer that projects: $\Pi(v)$ is
# right if it is in the cone, at a right angle to $v - \Pi(v)$, and $v - \Pi(v)$ makes
# no acute angle with any point of the cone. (The order of the entries of the
# exponential cone, $y e^{x/y} \le z$, is CVXPY's, too. Its part with $y = 0$ is
# $x \le 0$, $z \ge 0$.)

# %%
v, s = cp.Parameter(3), cp.Variable(3)
S = cp.bmat([[s[0], s[1]], [s[1], s[2]]])
cones = {
    "zero": [s == 0],
    "free": [],
    "nonnegative": [s >= 0],
    "second-order": [cp.SOC(s[0], s[1:])],
    "semidefinite": [S >> 0],
    "exponential": [cp.ExpCone(s[0], s[1], s[2])],
}
points = randn(100, 3)
projections = {}
for name, constraints in cones.items():
    # S has its entry s_1 twice, and so does the inner product
    weight = torch.tensor([1.0, 2.0 if name == "semidefinite" else 1.0, 1.0])
    distance = cp.sum(cp.multiply(weight.numpy(), cp.square(s - v)))
    layer = CvxpyLayer(cp.Problem(cp.Minimize(distance), constraints), [v], [s])
    (found,) = layer(points)
    rest = weight * (points - found)
    equal((rest * found).sum(1), torch.zeros(100))
    assert (rest @ found.T).max() < 1e-9
    projections[name] = found
    inside = (found - points).norm(dim=1) < 1e-9
    print(f"{name:<12} {inside.double().mean():4.0%} of the points are in it")

t, w = points[:, 0], points[:, 1:]
equal(projections["zero"], torch.zeros(100, 3))
equal(projections["free"], points)
equal(projections["nonnegative"], points.clip(0))
equal(projections["second-order"], project(points, sets.SecondOrderCone()))
matrices = points[:, [0, 1, 1, 2]].view(100, 2, 2)
nearest = project(matrices, sets.PSD()).flatten(1)[:, [0, 1, 3]]
equal(projections["semidefinite"], nearest)
x, y, z = projections["exponential"].T
curved = y > 1e-9
assert (y * (x / y).exp() - z)[curved].max() < 1e-9
assert torch.cat([-y, x[~curved], -z[~curved]]).max() < 1e-9

# %% [markdown]
# CVXPY makes a conic program of almost every convex problem. What it makes of this one:

# %%
y = cp.Variable(4)
objective = cp.Minimize(cp.norm(y) + cp.log_sum_exp(y))
problem = cp.Problem(objective, [y >= -1, cp.sum(y) == 0.5])
data = problem.get_problem_data(cp.CLARABEL)[0]
rows = data["dims"]
print("A:", data["A"].shape, f"of which zero: {rows.zero}, nonnegative: {rows.nonneg},")
print(f"second-order: {rows.soc}, exponential: {rows.exp} x 3")
assert data["A"].shape[0] == rows.zero + rows.nonneg + sum(rows.soc) + 3 * rows.exp
assert (rows.soc, rows.exp) == ([5], 4)

# %% [markdown]
# ## Implicitly differentiating a conic program
#
# One variable $v$ holds both the slack $s = b - A x$ and the multiplier $y$:
# $y = \Pi(v)$ and $s = \Pi(v) - v$, where $\Pi$ is the projection onto the dual cone
# $\mathcal{K}^*$. Then $z = (x, v)$ is a root of
#
# $$\mathcal{R}(z, \theta)
#   = \begin{bmatrix} c + A^\top \Pi(v) \\ A x + \Pi(v) - v - b \end{bmatrix},
#   \qquad \theta = (A, b, c),$$
#
# and for a loss $\ell(x^\star)$ one linear system gives all gradients (section 7 of
# Amos' thesis; Busseti, Moursi, Boyd 2019):
#
# $$\mathrm{D}_z \mathcal{R} \begin{bmatrix} d_x \\ d_v \end{bmatrix}
#   = -\begin{bmatrix} \nabla_x \ell \\ 0 \end{bmatrix},
#   \qquad d_y = \mathrm{D}\Pi\, d_v,$$
#
# $$\nabla_c \ell = d_x, \qquad \nabla_b \ell = -d_y, \qquad
#   \nabla_A \ell = d_y x^\top + y\, d_x^\top.$$
#
# The program has an equality, two inequalities and a second-order cone, with all data
# as parameters of a layer.

# %%
n, rows = 4, [1, 2, 4]
m = sum(rows)


def dual_projection(v):
    """On the dual cone: free, nonnegative, second-order."""
    free, sign, soc = v.split(rows)
    return torch.cat([free, sign.clip(0), project(soc, sets.SecondOrderCone())])


def residual(z, A, b, c):
    """The conditions of optimality."""
    x, v = z.split([n, m])
    y = dual_projection(v)
    return torch.cat([c + A.T @ y, A @ x + y - v - b])


A_, b_, c_ = cp.Parameter((m, n)), cp.Parameter(m), cp.Parameter(n)
x_, s_ = cp.Variable(n), cp.Variable(m)
equations = s_ == b_ - A_ @ x_
in_cone = [s_[:1] == 0, s_[1:3] >= 0, cp.SOC(s_[3], s_[4:])]
program = cp.Problem(cp.Minimize(c_ @ x_), [equations, *in_cone])
conic = CvxpyLayer(program, [A_, b_, c_], [x_, s_, equations.dual_variables[0]])

A, v = randn(m, n), torch.cat([torch.tensor([0.7, 1.0, -0.5, 0.3]), randn(3)])
y = dual_projection(v)
theta = A, A @ randn(n) + y - v, -A.T @ y  # so that v is optimal

x, s, y = conic(*theta)
z = torch.cat([x, y - s])
equal(residual(z, *theta), torch.zeros(n + m))

loss = torch.tensor([1.0, -2.0, 0.5, 3.0])  # its gradient
right = -torch.cat([loss, torch.zeros(m)])
d = torch.linalg.solve(jacrev(residual)(z, *theta), right)
d_x, d_y = d[:n], jacrev(dual_projection)(z[n:]) @ d[n:]
formulas = d_y.outer(x) + y.outer(d_x), -d_y, d_x

layers = jacrev(lambda *theta: conic(*theta)[0] @ loss, (0, 1, 2))(*theta)
for name, by_formula, by_layer in zip("Abc", formulas, layers, strict=True):
    equal(by_formula, by_layer)
    difference = (by_formula - by_layer).abs().max()
    print(f"gradient in {name}: largest difference {difference:.0e}")

# %% [markdown]
# The exponential cone has no projection in closed form; its layers are as exact. Of
# $\min x + a y$ subject to $x y \ge 1$, written as $\log x + \log y \ge 0$, the
# solution is $x = \sqrt{a}$, with the derivatives $1 / (2 \sqrt a)$ and
# $-1 / (4 a \sqrt a)$.

# %%
a, x, y = cp.Parameter(nonneg=True), cp.Variable(), cp.Variable()
program = cp.Problem(cp.Minimize(x + a * y), [cp.log(x) + cp.log(y) >= 0])
layer = CvxpyLayer(program, [a], [x, y])


def x_star(a):
    """The first variable."""
    return layer(a)[0]


three = torch.tensor(3.0)
first, second = jacrev(x_star)(three), hessian(x_star)(three)
print(f"x {x_star(three):.6f}, first derivative {first:.6f}, second {second:.6f}")
equal(x_star(three), three.sqrt())
equal(first, 1 / (2 * three.sqrt()))
equal(second, -1 / (4 * three**1.5))
