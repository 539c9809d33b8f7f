# %% [markdown]
# # 4. Practice: layers in ten lines
#
# Derivatives by hand, and how they go wrong; then the talk's code listings, as they run
# today, and a use besides learning.

# %%
from functools import partial

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch.autograd import gradcheck
from torch.func import jacrev

from cvxlayers import sets
from cvxlayers.torch import CvxpyLayer, project, qp
from pictures import show

torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False)
randn = partial(torch.randn, generator=torch.Generator().manual_seed(0))
equal = partial(torch.testing.assert_close, rtol=0, atol=1e-9)

# %% [markdown]
# ## Optimization layers need to be carefully implemented
#
# The quadratic program of part 2, with the slide's names: $z^\star$ minimizes
# $\frac{1}{2} z^\top Q z + q^\top z$ subject to $A z = b$ and $G z \le h$. The slide
# differentiates its conditions of optimality, and solves once for the gradients of a
# loss $\ell(z^\star)$:
#
# $$\begin{bmatrix} Q & G^\top D(\lambda) & A^\top \\ G & D(G z - h) & 0 \\
#   A & 0 & 0 \end{bmatrix} \begin{bmatrix} d_z \\ d_\lambda \\ d_\nu \end{bmatrix}
#   = -\begin{bmatrix} \nabla_z \ell \\ 0 \\ 0 \end{bmatrix}$$
#
# Of its six gradients, five are right:
#
# $$\nabla_Q \ell = \frac{1}{2} (d_z z^\top + z d_z^\top), \quad
#   \nabla_A \ell = d_\nu z^\top + \nu d_z^\top,$$
#
# $$\nabla_q \ell = d_z, \quad \nabla_b \ell = -d_\nu, \quad
#   \nabla_h \ell = -D(\lambda) d_\lambda.$$
#
# The sixth is printed as
# $\nabla_G \ell = D(\lambda) (d_\lambda z^\top + \lambda d_z^\top)$, in which the
# second term has $\lambda^2$. Right is
#
# $$\nabla_G \ell = D(\lambda)\, d_\lambda z^\top + \lambda\, d_z^\top.$$
#
# (It is so in the thesis, too; the code of `qpth` is right.) Both forms are measured
# here against central differences.

# %%
n, k, m = 4, 1, 5
factor, z, A, G, nu = randn(n, n), randn(n), randn(k, n), randn(m, n), randn(k)
lam, slack = torch.tensor([[1.5, 0.4, 0.0, 0.0, 0.0], [0.0, 0.0, 0.3, 0.5, 1.0]])
Q = factor @ factor.T + torch.eye(n)
q, b, h = -(Q @ z + A.T @ nu + G.T @ lam), A @ z, G @ z + slack  # z is optimal
theta = Q, q, A, b, G, h
loss = randn(n)  # its gradient in z

for computed, known in zip(qp(*theta, return_duals=True), (z, nu, lam), strict=True):
    equal(computed, known)
zeros = torch.zeros
rows = [
    torch.cat([Q, G.T * lam, A.T], 1),
    torch.cat([G, (G @ z - h).diag(), zeros(m, k)], 1),
    torch.cat([A, zeros(k, m + k)], 1),
]
d = torch.linalg.solve(torch.cat(rows), torch.cat([-loss, zeros(m + k)]))
d_z, d_lam, d_nu = d.split([n, m, k])

in_Q, in_q = (d_z.outer(z) + z.outer(d_z)) / 2, d_z
in_A, in_b = d_nu.outer(z) + nu.outer(d_z), -d_nu
in_G, in_h = (lam * d_lam).outer(z) + lam.outer(d_z), -lam * d_lam
gradients = in_Q, in_q, in_A, in_b, in_G, in_h
printed = lam[:, None] * (d_lam.outer(z) + lam.outer(d_z))


def value(*theta):
    """The loss at the solution."""
    return qp(*theta) @ loss


step = 1e-5
changes = step * torch.eye(m * n).view(-1, m, n)  # one entry of G each: a batch
up, down = (value(Q, q, A, b, G + sign * changes, h) for sign in (1, -1))
measured = ((up - down) / (2 * step)).view(m, n)

error_printed, error_right = ((form - measured).abs().max() for form in (printed, in_G))
print(f"gradient in G, of size {measured.abs().max():.2f}:")
print(f"printed: off by {error_printed:.2f}, right: off by {error_right:.0e}")
assert error_printed > 1e-2
assert error_right < 1e-8

# %% [markdown]
# ## Why should practitioners care?
#
# Because they should not have to: two slides of formulas are one call. The layer
# returns the gradients above, all six, and the same program in CVXPY does, without
# anybody having derived anything.

# %%
every = tuple(range(6))
for by_hand, by_layer in zip(gradients, jacrev(value, every)(*theta), strict=True):
    equal(by_hand, by_layer)

# %% [markdown]
# ## Differentiable convex optimization layers
#
# The layer of Agrawal and others (NeurIPS 2019) has three steps: parameters are mapped
# to the data of a conic program, the program is solved, and the solution is mapped to
# the variables. CVXPY's rules for parameters ("DPP") make the first and the last
# affine: the data of a midpoint are the midpoint of the data. All the rest of the
# derivative is that of part 2.

# %%
F, g, rho = cp.Parameter((6, 3)), cp.Parameter(6), cp.Parameter(nonneg=True)
x = cp.Variable(3)
lasso = cp.Problem(cp.Minimize(cp.norm(F @ x - g) + rho * cp.norm1(x)), [x >= 0])
assert lasso.is_dpp()


def data(*values):
    """A, b, c."""
    for parameter, value in zip((F, g, rho), values, strict=True):
        parameter.value = value.numpy()
    found = lasso.get_problem_data(cp.CLARABEL)[0]
    return found["A"].toarray(), found["b"], found["c"]


one, two = ([randn(shape).abs() for shape in ((6, 3), (6,), ())] for _ in range(2))
middle = [(v + w) / 2 for v, w in zip(one, two, strict=True)]
for of_one, of_two, of_middle in zip(
    data(*one), data(*two), data(*middle), strict=True
):
    np.testing.assert_allclose(of_middle, (of_one + of_two) / 2, atol=1e-14)

layer = CvxpyLayer(lasso, parameters=[F, g, rho], variables=[x])
print(layer(*one)[0])
assert gradcheck(lambda *v: layer(*v)[0], [v.requires_grad_() for v in one])

# %% [markdown]
# ## A new way of rapidly prototyping optimization layers
#
# Write it, and it is a layer. The nearest increasing sequence takes a line; its
# derivative, known for this one, averages over blocks of equal values. The next idea,
# no jump of more than 1, is one more constraint.

# %%
v, y = cp.Parameter(6), cp.Variable(6)
nearest, steps = cp.Minimize(cp.sum_squares(y - v)), cp.diff(y)
increasing = CvxpyLayer(cp.Problem(nearest, [steps >= 0]), [v], [y])
careful = CvxpyLayer(cp.Problem(nearest, [steps >= 0, steps <= 1]), [v], [y])

series = torch.tensor([1.0, 3.0, 2.0, 2.5, 6.0, 5.0])
print(increasing(series)[0])
print(careful(series)[0])
equal(increasing(series)[0], torch.from_numpy(isotonic_regression(series.numpy()).x))
blocks = torch.block_diag(*(torch.ones(k, k) / k for k in (1, 3, 2)))
equal(jacrev(lambda v: increasing(v)[0])(series), blocks)
assert careful(series)[0].diff().max() < 1 + 1e-9

# %% [markdown]
# ## Code example: OptNet QP
#
# The listings of the talk run with three changes. CVXPY wants `@` for products of
# matrices, where `*` still works and warns. This one uses the name `p` both for a
# vector and for a number of rows: the vector is `q` here, as in the formula beside it.
# And `out`, `out_vars` and `params` are called `variables` and `parameters` today;
# cvxlayers takes them by their old names, too. The term `quad_form(x, Q)`, with a
# parameter as its matrix, is not DPP; [the layer rewrites it](../../docs/dpp.md).

# %%
n, m, p = 4, 1, 5
Q = cp.Parameter((n, n), PSD=True)
q = cp.Parameter(n)
A = cp.Parameter((m, n))
b = cp.Parameter(m)
G = cp.Parameter((p, n))
h = cp.Parameter(p)
x = cp.Variable(n)
obj = cp.Minimize(0.5 * cp.quad_form(x, Q) + q.T @ x)
cons = [A @ x == b, G @ x <= h]
prob = cp.Problem(obj, cons)
layer = CvxpyLayer(prob, params=[Q, q, A, b, G, h], out=[x])

equal(layer(*theta)[0], qp(*theta))
layers = jacrev(lambda *v: layer(*v)[0] @ loss, every)(*theta)
for by_hand, by_layer in zip(gradients, layers, strict=True):
    equal(by_hand, by_layer)
print(layer(*theta)[0])

# %% [markdown]
# ## Code example: the sigmoid
#
# As printed, but for `@`.

# %%
n = 3
x = cp.Parameter(n)
y = cp.Variable(n)
obj = cp.Minimize(-x.T @ y - cp.sum(cp.entr(y) + cp.entr(1.0 - y)))
prob = cp.Problem(obj)
layer = CvxpyLayer(prob, params=[x], out_vars=[y])

t = torch.tensor([-2.0, 0.0, 5.0])
print(layer(t)[0])
equal(layer(t)[0], t.sigmoid())

# %% [markdown]
# ## Code example: constraint modeling
#
# Projection onto a polytope and onto an ellipsoid, whose $G$, $h$, $A$ and $z$ may be
# learned: see [the example](../polytope.py).

# %%
m, n = 3, 2
G = cp.Parameter((m, n))
h = cp.Parameter(m)
p = cp.Parameter(n)
y = cp.Variable(n)
obj = cp.Minimize(0.5 * cp.sum_squares(y - p))
cons = [G @ y <= h]
prob = cp.Problem(obj, cons)
polytope = CvxpyLayer(prob, params=[p, G, h], out=[y])

A = cp.Parameter((n, n), PSD=True)
z = cp.Parameter(n)
p = cp.Parameter(n)
y = cp.Variable(n)
obj = cp.Minimize(0.5 * cp.sum_squares(y - p))
cons = [0.5 * cp.quad_form(y - z, A) <= 1]
prob = cp.Problem(obj, cons)
ellipsoid = CvxpyLayer(prob, params=[p, A, z], out=[y])

# %% [markdown]
# Against closed forms. In a corner of the polytope $y$ solves its two equations, and
# moves with their right sides. For $A = 2 I$, $z = 0$ the ellipsoid is the unit disk:
# $y = p / |p|$, $\mathrm{D}_p y = (I - y y^\top) / |p|$,
# $\mathrm{D}_z y = I - \mathrm{D}_p y$.

# %%
p, h = torch.tensor([2.0, 2.0]), torch.ones(3)
G = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
equal(polytope(p, G, h)[0], torch.ones(2))
equal(jacrev(lambda h: polytope(p, G, h)[0])(h), torch.eye(2, 3))
equal(polytope(p, G, h)[0], project(p, sets.Polyhedron(G=G, h=h)))

p, A, z = torch.tensor([3.0, 4.0]), 2 * torch.eye(2), torch.zeros(2)
y = ellipsoid(p, A, z)[0]
print("nearest point of the disk to (3, 4):", y)
equal(y, torch.tensor([0.6, 0.8]))
in_p, _, in_z = jacrev(lambda *v: ellipsoid(*v)[0], (0, 1, 2))(p, A, z)
equal(in_p, (torch.eye(2) - y.outer(y)) / 5)
equal(in_z, torch.eye(2) - in_p)

# %% [markdown]
# ## Connections to sensitivity and perturbation analysis
#
# The same derivatives say how a result depends on its data, and statistics has used
# them for long. Logistic regression, with a penalty that makes its minimum unique (the
# slide has none), on points $x_i$ with labels $y_i$ of 0 or 1, and $\theta = (w, b)$:
#
# $$\theta^\star = \operatorname{argmin}_\theta\ \frac{1}{n} \sum_i r_i
#   ( \log(1 + e^{t_i}) - y_i t_i ) + \rho |w|^2, \qquad t_i = w^\top x_i + b$$
#
# The weights $r_i$ are 1. With $s_i = \sigma(t_i)$ and $H$ the Hessian, the closed form
# is
#
# $$\frac{\partial \theta^\star}{\partial x_i} = -\frac{1}{n} H^{-1} ( s_i (1 - s_i)
#   \begin{bmatrix} x_i \\ 1 \end{bmatrix} w^\top
#   + (s_i - y_i) \begin{bmatrix} I \\ 0 \end{bmatrix} ).$$

# %%
n, rho = 30, 0.02
labels = (torch.arange(n) % 2).double()
points = randn(n, 2) + (2 * labels[:, None] - 1) * torch.tensor([1.0, 0.7])

X, r, theta = cp.Parameter((n, 2)), cp.Parameter(n, nonneg=True), cp.Variable(3)
logits = X @ theta[:2] + theta[2]
losses = cp.logistic(logits) - cp.multiply(labels.numpy(), logits)
penalized = r @ losses / n + rho * cp.sum_squares(theta[:2])
fit = CvxpyLayer(cp.Problem(cp.Minimize(penalized)), [X, r], [theta])

ones = torch.ones(n)
best = fit(points, ones)[0]
in_points, in_weights = jacrev(lambda *v: fit(*v)[0], (0, 1))(points, ones)

Z, w = torch.cat([points, ones[:, None]], 1), best[:2]
s = (Z @ best).sigmoid()
curvature, error = (s * (1 - s))[:, None], (s - labels)[:, None, None]
H = Z.T @ (Z * curvature) / n + 2 * rho * torch.tensor([1.0, 1.0, 0.0]).diag()
inner = (curvature * Z)[:, :, None] * w + error * torch.eye(3, 2)
closed_form = -torch.linalg.solve(H, inner).movedim(0, 1) / n
difference = (in_points - closed_form).abs().max()
print(f"derivatives up to {in_points.abs().max():.2f}, difference {difference:.0e}")
equal(in_points, closed_form)

# %% [markdown]
# The derivative in the weights foretells what happens when a point is left out. Doing
# it, thirty times, is one call with a batch of weights.

# %%
(left_out,) = fit(points, 1 - torch.eye(n))
pairs = torch.stack([-in_weights.T.flatten(), (left_out - best).flatten()])
correlation = torch.corrcoef(pairs)[0, 1]
print(f"correlation of what is foretold and what happens: {correlation:.3f}")
assert correlation > 0.95

angle = (in_points[1] * w[0] - in_points[0] * w[1]) / (w @ w)  # of w
figure, axis = plt.subplots(figsize=(5.5, 4.5))
for label, color in ((1, "C0"), (0, "C1")):
    axis.plot(*points[labels == label].T, ".", color=color, ms=10, label=f"y = {label}")
across = torch.tensor([-4.0, 4.0])
axis.plot(across, -(best[2] + w[0] * across) / w[1], color="0.4", lw=1.2)
arrows = {"angles": "xy", "scale_units": "xy", "scale": 0.06, "width": 0.005}
axis.quiver(*points.T, *angle.T, color="0.2", zorder=3, **arrows)
axis.set(xlim=(-4, 4), ylim=(-3.5, 3.5), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
axis.set(title="where to move a point to turn the boundary")
axis.legend(loc="upper right")
show()
