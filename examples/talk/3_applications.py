# %% [markdown]
# # 3. Applications: selection, permutations, support vector machines
#
# Layers that replace an argmax, a sort, or a classifier that is trained inside of a
# network.

# %%
from functools import partial

import cvxpy as cp
import matplotlib.pyplot as plt
import torch
from scipy.optimize import linear_sum_assignment
from torch.func import jacrev

from cvxlayers import sets
from cvxlayers.torch import (
    CvxpyLayer,
    constrained_softmax,
    constrained_sparsemax,
    gumbel_sinkhorn,
    lml,
    project,
    qp,
    sinkhorn,
    soft_rank,
    soft_sort,
    sparsemax,
    svm_binary,
)
from pictures import show

torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False)
generator = torch.Generator().manual_seed(0)
randn = partial(torch.randn, generator=generator)
equal = partial(torch.testing.assert_close, rtol=0, atol=1e-9)

# %% [markdown]
# ## Applications of differentiable convex optimization
#
# What the slide lists, and where to find it:
#
# - hard constraints that are learned: [Sudoku from data](../sudoku.py);
# - projections: below, and [the activation functions](../closed_forms.py),
#   [top-k](../topk.py), [sorting](../learn_to_sort.py);
# - meta-learning:
#   [few-shot learning with a support vector machine](../few_shot_svm.py);
# - control: [part 5](5_control.py), where it is linear.
#
# Its other items wait in
# [the list of what is missing](README.md#what-does-not-exist-yet). Amortized
# optimization, of which the projections are a part, looks like this: any guess, of a
# network for instance, becomes feasible, and stays differentiable.

# %%
A, b, G, h = randn(2, 6), randn(2), -torch.eye(6), torch.ones(6)
guess = randn(50, 6)
answer = project(guess, sets.Polyhedron(A, b, G, h))


def violation(y):
    """Of A y = b and G y <= h."""
    return torch.maximum((y @ A.T - b).abs().amax(), (y @ G.T - h).amax()).item()


print(f"violation: {violation(guess):.2f} before, {violation(answer):.0e} after")
assert violation(answer) < 1e-12
equal(project(answer, sets.Polyhedron(A, b, G, h)), answer)
J = jacrev(lambda y: project(y, sets.Polyhedron(A, b, G, h)))(guess[0])
equal(J @ J, J)  # the derivative of a projection on flat pieces is a projection
equal(A @ J, torch.zeros(2, 6))  # and stays on the plane

# %% [markdown]
# ## From the softmax to soft/differentiable top-k
#
# The left program of the slide is the softmax. Upper bounds $u$ on its entries make it
# the constrained softmax (Martins, Kreutzer 2017), squares instead of the entropy the
# sparsemax (Martins, Astudillo 2016), and both the constrained sparsemax (Malaviya,
# Ferreira, Martins 2018). What is above a bound is cut, and shared among the others in
# proportion.

# %%
x, u = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 0.5])
print("softmax              ", x.softmax(0))
print("constrained softmax  ", constrained_softmax(x, u))
print("sparsemax            ", sparsemax(x / 2))
print("constrained sparsemax", constrained_sparsemax(x / 2, u))
equal(constrained_softmax(x, torch.ones(3)), x.softmax(0))
equal(constrained_softmax(x, u), torch.cat([x[:2].softmax(0) / 2, u[2:]]))
equal(sparsemax(x / 2), torch.tensor([0.0, 0.25, 0.75]))
equal(constrained_sparsemax(x / 2, u), torch.tensor([0.0, 0.5, 0.5]))

# %% [markdown]
# The right program is the limited multi-label projection (Amos, Koltun, Kolter 2019),
# which spreads a total of $k$:
#
# $$\mathrm{LML}_k(x) = \operatorname{argmin}_y\ -y^\top x - H_b(y)
#   \quad \text{subject to}\quad 0 \le y \le 1,\ 1^\top y = k$$
#
# It is $\sigma(x + \nu)$ with the one number $\nu$ that makes the sum $k$. Its
# derivative is $\mathrm{diag}(w) - w w^\top / 1^\top w$, $w = y (1 - y)$.
#
# The two slides of the talk look alike, but the right one with $k = 1$ is not the left
# one: $H_b$ is the entropy of $n$ coins, $H$ that of one die.

# %%
y_, x_ = cp.Variable(3), cp.Parameter(3)
coins = cp.sum(cp.entr(y_) + cp.entr(1 - y_))
objective = cp.Minimize(-y_ @ x_ - coins)
for k in (1, 2):
    y = lml(x, k)
    print(f"LML_{k}  ", y)
    layer = CvxpyLayer(cp.Problem(objective, [cp.sum(y_) == k]), [x_], [y_])
    equal(layer(x)[0], y)
    w = y * (1 - y)
    equal(jacrev(lml)(x, k), w.diag() - w.outer(w) / w.sum())
print("softmax", x.softmax(0))
equal(lml(x, 1), torch.tensor([0.1415, 0.3094, 0.5491]), atol=5e-5)
equal(x.softmax(0), torch.tensor([0.0900, 0.2447, 0.6652]), atol=5e-5)

# %% [markdown]
# With a temperature, $\mathrm{LML}_k$ of $x / \tau$, it becomes the indicator of the
# $k$ largest as $\tau \to 0$.

# %%
scores = randn(8).sort(descending=True).values
top_3 = torch.tensor([1.0] * 3 + [0.0] * 5)
figure, axis = plt.subplots(figsize=(6, 3.5))
for j, tau in enumerate((1.0, 0.2, 0.01)):
    y, places = lml(scores, 3, tau), torch.arange(1, 9) + 0.27 * (j - 1)
    axis.bar(places, y, width=0.25, label=rf"$\tau$ = {tau}")
axis.set(xlabel="rank of the score", ylabel="y, of sum 3", xticks=range(1, 9))
axis.legend()
show()
equal(lml(scores, 3, 0.005), top_3)

# %% [markdown]
# ## Differentiable permutations, sorting and SVMs
#
# $$S(X / \tau) = \operatorname{argmax}_P\ \langle P, X \rangle + \tau H(P)
#   \quad \text{subject to}\quad P \in \mathcal{B}_N$$
#
# over the doubly stochastic matrices, whose corners are the permutations
# (Gumbel-Sinkhorn: Mena and others, ICLR 2018). The usual algorithm normalizes rows and
# columns in turns, twenty times, and differentiates the turns. When $\tau$ is low, that
# ends far from doubly stochastic; the layer goes on to the solution, and differentiates
# that.

# %%
X, tau = randn(5, 5), 0.02
P, turns = sinkhorn(X, tau), X / tau
for _ in range(20):
    turns = turns - turns.logsumexp(1, keepdim=True)
    turns = turns - turns.logsumexp(0, keepdim=True)
for name, matrix in (("after 20 turns", turns.exp()), ("of the layer", P)):
    print(f"sums of rows {name} are off by {(matrix.sum(1) - 1).abs().max():.0e}")
equal(torch.cat([P.sum(0), P.sum(1)]), torch.ones(10))
assert (turns.exp().sum(1) - 1).abs().max() > 1e-2

best = torch.zeros(5, 5)
best[linear_sum_assignment(X, maximize=True)] = 1
equal(sinkhorn(X, 1e-3), best)  # the limit, a permutation
samples = gumbel_sinkhorn(X, tau, n_samples=1000, generator=generator)
equal(samples.sum(2), torch.ones(1000, 5))
frequent = samples.round().unique(dim=0, return_counts=True)[1].max()
print(f"the most frequent of 1000 samples comes {frequent} times")

# %% [markdown]
# Optimal is $X = \tau \log P + f 1^\top + 1 g^\top$, with multipliers $f$ and $g$ of
# rows and columns. For two by two this is a sigmoid.

# %%
P = sinkhorn(X)
rest = X - P.log()
equal(rest, rest[:, :1] + rest[:1] - rest[0, 0])
small = randn(2, 2)
cross = small[0, 0] + small[1, 1] - small[0, 1] - small[1, 0]
equal(sinkhorn(small, 0.3)[0, 0], (cross / (2 * 0.3)).sigmoid())

# %% [markdown]
# With squares instead of the entropy it is the projection onto the Birkhoff polytope;
# the projection onto the hull of all orders of one vector, the permutahedron, sorts and
# ranks (Blondel and others, ICML 2020), at the cost of a sort.

# %%
nearest = project(X, sets.Birkhoff())
one, I = torch.ones(1, 5), torch.eye(5)
sums = torch.cat([I.kron(one), one.kron(I)]), torch.ones(10)  # of rows, of columns
positive = -torch.eye(25), torch.zeros(25)
equal(nearest.flatten(), qp(torch.eye(25), -X.flatten(), *sums, *positive))

v = torch.tensor([0.3, -1.2, 2.0, 0.9])
print("soft ranks", soft_rank(v))
print("ranks     ", soft_rank(v, 0.1))
equal(soft_rank(v, 0.1), torch.tensor([2.0, 1.0, 4.0, 3.0]))
equal(soft_sort(v, 0.1), v.sort().values)

# %% [markdown]
# A support vector machine is a solution, too, and so is its decision boundary a
# function of the data (MetaOptNet: Lee and others, CVPR 2019):
#
# $$w^\star, b^\star = \operatorname{argmin}_{w, b}\ |w|^2
#   + C \sum_i \max(0, 1 - y_i (w^\top x_i + b))$$
#
# Of two points $p$ and $q$, one in each class, and $C$ large, the boundary is halfway
# between: $w = 2 (p - q) / \left|p - q\right|^2$.

# %%
pair, signs = randn(2, 2), torch.tensor([1, -1])
gap = pair[0] - pair[1]
square = gap @ gap
in_pair, _ = jacrev(svm_binary)(pair, signs, 100.0)
equal(svm_binary(pair, signs, 100.0)[0], 2 * gap / square)
equal(in_pair[:, 0], 2 * torch.eye(2) / square - 4 * gap.outer(gap) / square**2)

# %% [markdown]
# Of many points, only those on the margin or beyond can move the boundary. The arrows
# show where each would have to go to turn it counterclockwise.

# %%
labels = torch.tensor([1, -1]).repeat(15)
points = randn(30, 2) + 1.1 * labels[:, None] * torch.tensor([1.0, 0.6])


def direction(points):
    """The angle of w."""
    w, _ = svm_binary(points, labels, 0.2)
    return torch.atan2(w[1], w[0])


w, b = svm_binary(points, labels, 0.2)
turn = jacrev(direction)(points)
margin = labels * (points @ w + b)
idle, influence = margin > 1 + 1e-6, turn.norm(dim=1)
print(f"{int(idle.sum())} of 30 points are clear of the margin, and have no influence;")
print(f"the most influential turns the boundary by {influence.max():.2f} rad per unit")
equal(influence[idle], torch.zeros(int(idle.sum())))
assert influence.max() > 0.1

figure, axis = plt.subplots(figsize=(5.5, 4.5))
for sign, color in ((1, "C0"), (-1, "C1")):
    axis.plot(*points[labels == sign].T, ".", color=color, ms=10, label=f"y = {sign}")
across = torch.tensor([-4.0, 4.0])
for level, style in ((0, "-"), (1, ":"), (-1, ":")):
    axis.plot(across, (level - b - w[0] * across) / w[1], color="0.4", lw=1.2, ls=style)
arrows = {"angles": "xy", "scale_units": "xy", "scale": 0.15, "width": 0.005}
axis.quiver(*points[~idle].T, *turn[~idle].T, color="0.2", zorder=3, **arrows)
axis.set(xlim=(-4, 4), ylim=(-3.5, 3.5), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
axis.legend(loc="upper right")
show()
