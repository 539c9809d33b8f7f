# %% [markdown]
# # 1. Warm-up: standard operations as optimization layers
#
# What an optimization layer is, what it is for, and three activation functions that are
# layers of this kind.

# %%
from functools import partial

import cvxpy as cp
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.func import jacrev

from cvxlayers import sets
from cvxlayers.torch import CvxpyLayer, optimal_transport, project
from pictures import show

torch.set_num_threads(1)  # the networks are small: a second thread gains nothing
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False)
randn = partial(torch.randn, generator=torch.Generator().manual_seed(0))
equal = partial(torch.testing.assert_close, rtol=0, atol=1e-9)

# %% [markdown]
# ## Can we throw big neural networks at every problem?
#
# At many. Here one learns a simple piece of reasoning, the projection onto the simplex
# of the $y \ge 0$ with $\sum_i y_i = 1$, from 2000 examples. It comes close on points
# like those of the examples, and not on larger ones; and what it answers is not in the
# set.

# %%
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
x = randn(2000, 4)
y = project(x, sets.Simplex())
for _ in range(300):
    loss = (network(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

new = randn(2000, 4)
for scale in (1, 10):
    answer, exact = network(scale * new), project(scale * new, sets.Simplex())
    error, off = (answer - exact).norm(dim=1).mean(), (answer.sum(1) - 1).abs().max()
    print(f"{scale:2} x as large: error {error:.3f}, sum of y off by up to {off:.3f}")
    assert off > 1e-2
    equal(exact.sum(1), torch.ones(2000), atol=1e-12)

# %% [markdown]
# ## Optimization-based modeling for machine learning
#
# The projection itself is a layer like any other: it has a derivative, so modules
# before and behind it train with it, and the constraint holds at every step of the
# training, to rounding.


# %%
class Mixture(nn.Module):
    """A weighted mean of four learned numbers; x decides on the weights."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Linear(2, 4)
        self.values = nn.Linear(4, 1, bias=False)

    def forward(self, x):
        self.weights = project(self.scores(x), sets.Simplex())
        return self.values(self.weights)[:, 0]


model, x = Mixture(), randn(200, 2)
optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.1), []
for _ in range(100):
    loss = (model(x) - x.amax(1).clip(-1, 1)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    equal(model.weights.sum(1), torch.ones(200), atol=1e-12)
    assert (model.weights >= 0).all()
print(f"squared error {losses[0]:.3f} -> {losses[-1]:.3f}")
assert losses[-1] < 0.1 * losses[0]

# %% [markdown]
# ## Why optimization-based modeling?
#
# Because some operations *are* optimization problems, which are known, and need not be
# learned. Transport is one: the cheapest way to move masses from points $u_i$ to points
# $v_j$ at a cost of $\left|u_i - v_j\right|^2$. On a line, the smallest goes to the
# smallest, and so on. The program says nothing of sorting, and finds it; the derivative
# of its value in $u$ is known, too.
#
# The talk moves digits: so does [the example of the gallery](../digits_transport.py).

# %%
u, v = randn(2, 6)


def moved(u):
    """The value and the plan, entropic with a temperature that is low."""
    return optimal_transport((u[:, None] - v).square(), eps=1e-4)


value, plan = moved(u)
print((6 * plan).round().int())
equal(6 * plan[u.argsort()][:, v.argsort()], torch.eye(6))
sorted_v = v.sort().values[u.argsort().argsort()]  # the partner of each
equal(jacrev(lambda u: moved(u)[0])(u), 2 * (u - sorted_v) / 6)

# %% [markdown]
# ## Optimization layers model hard constraints
#
# A polygon and an ellipse, each a constraint of a program that looks for the nearest
# point. Whatever goes in, what comes out is in the set. (That the sets themselves can
# be learned, see [polytope](../polytope.py).)

# %%
angles = 2 * torch.pi * torch.arange(5) / 5 + 0.3
G, h = torch.stack([angles.cos(), angles.sin()], 1), torch.ones(5)
L = torch.tensor([[0.7, -0.5], [0.0, 1.0]])

y, point = cp.Variable(2), cp.Parameter(2)
nearest = cp.Minimize(cp.sum_squares(y - point))
polygon = CvxpyLayer(cp.Problem(nearest, [G.numpy() @ y <= h.numpy()]), [point], [y])
ellipse = CvxpyLayer(cp.Problem(nearest, [cp.norm(L.numpy() @ y) <= 1]), [point], [y])

points = 1.1 * randn(60, 2)
(in_polygon,), (in_ellipse,) = polygon(points), ellipse(points)
outside = max((in_polygon @ G.T - h).max(), (in_ellipse @ L.T).norm(dim=1).max() - 1)
print(f"outside of their set by at most {max(outside.item(), 0):.0e}")
assert outside < 1e-12

figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True)
turn = torch.linspace(0, 2 * torch.pi, 200)
corners = torch.linalg.solve(torch.stack([G, G.roll(-1, 0)], 1), torch.ones(5, 2))
borders = corners, torch.linalg.solve(L, torch.stack([turn.cos(), turn.sin()])).T
found, names = (in_polygon, in_ellipse), ("polygon", "ellipse")
for axis, border, inside, name in zip(axes, borders, found, names, strict=True):
    axis.fill(*border.T, color="0.88")
    axis.plot(*torch.stack([points, inside], 1).permute(2, 1, 0), color="0.6", lw=0.8)
    axis.plot(*points.T, ".", color="C1", label="in")
    axis.plot(*inside.T, ".", color="C0", label="out")
    axis.set(title=name, aspect="equal", xlabel="$y_1$")
axes[0].set_ylabel("$y_2$")
axes[1].legend()
show()

# %% [markdown]
# ## Convex optimization is expressive
#
# The program is convex in $y$. Its solution
# $y^\star(x) = \operatorname{argmin}_y f(y; x)$ is a function of $x$ that need not be
# convex, nor concave: with linear constraints alone it can be any continuous piecewise
# linear function (Hempel, Goulart, Lygeros, ECC 2013). Here is a hat.

# %%
x, r, y = cp.Parameter(), cp.Variable(3), cp.Variable()
squares = cp.Minimize(cp.sum_squares(r - (x + [1.0, 0.0, -1.0])))
rows = [r >= 0, y == r[0] - 2 * r[1] + r[2]]
hat = CvxpyLayer(cp.Problem(squares, rows), [x], [y])

a, b = randn(2, 1000)
gap = (hat(a)[0] + hat(b)[0]) / 2 - hat((a + b) / 2)[0]  # convex: >= 0, concave: <= 0
print(f"mean of the values - value of the mean: {gap.min():.2f} ... {gap.max():.2f}")
assert gap.min() < -0.5
assert gap.max() > 0.2
equal(hat(a)[0], (1 - a.abs()).clip(0))

# %% [markdown]
# ## The ReLU is a convex optimization layer
#
# $$\mathrm{ReLU}(x) = \operatorname{argmin}_y\ \frac{1}{2} \left|y - x\right|^2
#   \quad \text{subject to}\quad y \ge 0$$
#
# The conditions of optimality, $y - x = \lambda \ge 0$, $y \ge 0$, $\lambda y = 0$,
# leave two cases: $y = x$ where $x > 0$, and $y = 0$ where $x < 0$. The derivative is 1
# and 0. (The proofs of this slide and the next two are in section 2 of Amos' thesis,
# CMU 2019.)

# %%
n = 5
x, y = cp.Parameter(n), cp.Variable(n)
nearest = cp.Problem(cp.Minimize(cp.sum_squares(y - x) / 2), [y >= 0])
relu = CvxpyLayer(nearest, [x], [y])

t = torch.tensor([-20.0, -1.0, -1e-3, 1e-3, 3.0])
print(relu(t)[0])
equal(relu(t)[0], torch.relu(t))
equal(jacrev(lambda t: relu(t)[0])(t), torch.diag((t > 0).double()))

# %% [markdown]
# ## The sigmoid is a convex optimization layer
#
# $$\sigma(x) = \operatorname{argmin}_y\ -y^\top x - H_b(y)
#   \quad \text{subject to}\quad 0 \le y \le 1$$
#
# with the binary entropy $H_b(y) = -\sum_i y_i \log y_i + (1 - y_i) \log(1 - y_i)$,
# which keeps $y$ away from 0 and 1 by itself. Optimal is $x = \log y - \log(1 - y)$,
# and $\sigma' = y (1 - y)$, also where it is small: at $x = \pm 20$.

# %%
H_b = cp.sum(cp.entr(y) + cp.entr(1 - y))
sigmoid = CvxpyLayer(cp.Problem(cp.Minimize(-x @ y - H_b)), [x], [y])

t = torch.tensor([-20.0, -1.0, 0.0, 1.0, 20.0])
value, slope = torch.sigmoid(t), torch.sigmoid(t) * torch.sigmoid(-t)
equal(sigmoid(t)[0], value)
J = jacrev(lambda t: sigmoid(t)[0])(t)
equal(J, torch.diag(slope), atol=1e-13)
print("derivatives", " ".join(f"{d:.3g}" for d in J.diagonal()))

# %% [markdown]
# ## The soft-argmax is a convex optimization layer
#
# $$\pi_\Delta(x / \tau) = \operatorname{argmax}_y\ y^\top x + \tau H(y)
#   \quad \text{subject to}\quad y \ge 0,\ 1^\top y = 1$$
#
# is the softmax of $x/\tau$. The temperature is a parameter like $x$: with
# $y = \pi_\Delta(x/\tau)$,
#
# $$\frac{\partial y}{\partial x} = \frac{1}{\tau} ( \mathrm{diag}(y) - y y^\top ),
#   \qquad \frac{\partial y}{\partial \tau}
#   = -\frac{1}{\tau} \frac{\partial y}{\partial x}\, x.$$
#
# For $\tau \to 0$ it becomes the argmax, and $y$ is shared evenly among scores that are
# equal.

# %%
tau = cp.Parameter(nonneg=True)
program = cp.Problem(cp.Maximize(x @ y + tau * cp.sum(cp.entr(y))), [cp.sum(y) == 1])
soft_argmax = CvxpyLayer(program, [x, tau], [y])

scores, temperature = torch.tensor([1.0, 2.0, 0.5, 1.5, -1.0]), torch.tensor(0.7)
y_star = soft_argmax(scores, temperature)[0]
derivatives = jacrev(lambda *v: soft_argmax(*v)[0], argnums=(0, 1))
in_scores, in_tau = derivatives(scores, temperature)
equal(y_star, torch.softmax(scores / temperature, 0))
equal(in_scores, (y_star.diag() - y_star.outer(y_star)) / temperature)
equal(in_tau, -in_scores @ scores / temperature)

one_hot, tied = torch.eye(5)[1], torch.tensor([2.0, 2.0, 0.5, 1.5, -1.0])
for low in (1.0, 0.3, 0.1, 0.02):
    distance = (soft_argmax(scores, torch.tensor(low))[0] - one_hot).abs().max()
    print(f"tau {low:4}: {distance:.1e} from the argmax")
assert distance < 1e-10
equal(soft_argmax(tied, torch.tensor(0.02))[0], torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0]))

t = torch.linspace(-3, 3, 200)
figure, axis = plt.subplots(figsize=(6, 3.5))
for k, low in enumerate((2.0, 1.0, 0.3, 0.05)):
    inputs = torch.stack([t, *scores[1:].expand(200, 4).T], 1)
    y_1 = soft_argmax(inputs, torch.tensor(low))[0][:, 0]
    axis.plot(t, y_1, color=f"C{k}", label=rf"$\tau$ = {low}")
axis.axvline(2, color="0.5", lw=1, ls=":")
axis.set(xlabel="score $x_1$; the largest other score is 2", ylabel="$y_1$")
axis.legend()
show()

# %% [markdown]
# ## How can we generalize this?
#
# $$z_{i+1}(z_i) = \operatorname{argmin}_z\ f_\theta(z, z_i)
#   \quad \text{subject to}\quad z \in C_\theta(z_i)$$
#
# Where there is a closed form, differentiate that. Here is a layer that has none:
# amounts $z$ that follow $W z_i$, share a budget $\beta$, and avoid being large
# together. $W$ and $\beta$ are $\theta$. It is differentiated implicitly, by its
# conditions of optimality, and two of them make a network. (The talk writes
# $C_\theta(z, z_i)$: the set of $z$ may not depend on $z$.)

# %%
W, z_in, budget = cp.Parameter((3, 3)), cp.Parameter(3), cp.Parameter(nonneg=True)
z = cp.Variable(3)
follow = cp.sum_squares(z - W @ z_in) + cp.log_sum_exp(z)
program = cp.Problem(cp.Minimize(follow), [z >= 0, cp.sum(z) <= budget])
layer = CvxpyLayer(program, [W, z_in, budget], [z])


def network(W_1, W_2, beta, z):
    """Two layers."""
    return layer(W_2, layer(W_1, z, beta)[0], beta)[0]


W_1, W_2 = 0.4 * randn(2, 3, 3) + torch.eye(3)
inputs = W_1, W_2, torch.tensor(1.2), torch.tensor([1.0, 2.0, 1.5])
print(network(*inputs))
inputs = [a.clone().requires_grad_() for a in inputs]
assert gradcheck(network, inputs, atol=1e-7, rtol=1e-6)  # against finite differences
