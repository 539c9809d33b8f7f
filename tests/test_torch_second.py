"""PyTorch: second derivatives, in every order and by double backward."""

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from cvxlayers.torch import lift

from .conic import ROWS
from .custom_maps import Cube
from .support import central, largest
from .torch_support import conic_loss, leaves, make, qp_function

SOME = ("qp", "socp", "psd_variable", "entropy", "geometric", "complex_least_squares", "parameter_kinds")


@pytest.fixture(scope="module")
def qp():
    return qp_function()


ORDERS = {
    "hessian": hessian,
    "reverse over reverse": lambda f, i: jacrev(jacrev(f, i), i),
    "reverse over forward": lambda f, i: jacrev(jacfwd(f, i), i),
    "forward over forward": lambda f, i: jacfwd(jacfwd(f, i), i),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cone", ROWS)
def test_hessians_are_differences_of_gradients(cone, order):
    values, loss = conic_loss(cone)
    everything = tuple(range(4))
    H = ORDERS[order](loss, everything)(*values)
    directions = [torch.randn(v.shape, dtype=v.dtype, generator=torch.Generator().manual_seed(1)) for v in values]
    expected = central(lambda v: grad(loss, everything)(*v), values, directions)
    found = [sum(torch.tensordot(h, d, d.dim()) for h, d in zip(row, directions, strict=True)) for row in H]
    assert largest(found, expected) <= 1e-8


@pytest.mark.parametrize("name", SOME)
def test_gradgradcheck(name):
    layer, values = make(name)
    assert torch.autograd.gradgradcheck(layer, leaves(values), check_fwd_over_rev=True, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cone", ROWS)
def test_gradgradcheck_of_each_cone(cone):
    values, loss = conic_loss(cone)
    assert torch.autograd.gradgradcheck(loss, leaves(values), check_fwd_over_rev=True, atol=1e-5, rtol=1e-4)


def test_vmap_of_hessian(qp):
    f, (L, p, G, h), _ = qp
    batch = torch.stack([p, 1.1 * p, 0.9 * p])
    H = hessian(lambda p: (f(L, p, G, h) ** 3).sum())
    assert torch.allclose(vmap(H)(batch), torch.stack([H(p) for p in batch]), atol=1e-10)


def test_third_derivatives_raise(qp):
    f, (L, p, G, h), _ = qp
    with pytest.raises(NotImplementedError, match="third derivatives"):
        jacfwd(hessian(lambda L: f(L, p, G, h).sum()))(L)
    p = p.clone().requires_grad_()
    (g,) = torch.autograd.grad((f(L, p, G, h) ** 2).sum(), p, create_graph=True)
    (second,) = torch.autograd.grad(g.sum(), p, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        second.sum().backward()


def test_what_is_no_third_derivative_does_not_raise(qp):
    """A backward is asked for the gradients of all arguments at once, also for those nobody wants."""
    f, (L, p, G, h), w = qp

    def loss(p):
        return (f(L, p, G, h) ** 3).sum()

    H = hessian(loss)(p)
    assert torch.allclose(torch.autograd.functional.hvp(loss, p, w)[1], H @ w)
    p, v = p.clone().requires_grad_(), w.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(p), p, create_graph=True)
    (product,) = torch.autograd.grad(g @ v, p, create_graph=True)
    assert torch.allclose(torch.autograd.grad(product.sum(), v, retain_graph=True)[0], H.sum(0))
    with pytest.raises(NotImplementedError, match="third derivatives"):
        torch.autograd.grad(product.sum(), p)


def test_forward_mode_by_two_backwards_of_a_map_without_second_derivatives():
    x, t = torch.tensor([[1.0, 2.0, -3.0]]), torch.tensor([[1.0, -1.0, 2.0]])
    assert torch.allclose(torch.autograd.functional.jvp(lambda x: lift(Cube())(x)[0], x, t)[1], 3 * x**2 * t)


def test_a_map_without_second_derivatives_raises():
    cube = lift(Cube())
    x = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(cube(x)[0].sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="Cube has no jvp2"):
        g.sum().backward()
    with pytest.raises(NotImplementedError, match="Cube has no jvp2"):
        hessian(lambda x: cube(x)[0].sum())(x.detach())
