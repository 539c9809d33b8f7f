"""PyTorch: every transformation of a layer, on the same few cases."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

from cvxlayers.torch import CvxpyLayer, lift

from .custom_maps import Cube, Product, SmoothCube
from .problems import CASES
from .torch_support import leaves, make, qp_function

SOME = ("qp", "socp", "psd_variable", "entropy", "geometric", "complex_least_squares", "parameter_kinds")


@pytest.fixture(scope="module")
def qp():
    return qp_function()


@pytest.mark.parametrize("name", CASES)
def test_gradcheck_in_both_modes(name):
    layer, values = make(name)
    assert torch.autograd.gradcheck(layer, leaves(values), check_forward_ad=True, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", [n for n in SOME if n != "complex_least_squares"])  # torch.func: real functions only
def test_jacrev_is_jacfwd(name):
    layer, values = make(name)
    everything = tuple(range(len(values)))
    for a, b in zip(jacrev(layer, everything)(*values), jacfwd(layer, everything)(*values), strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.allclose(x, y, rtol=1e-9, atol=1e-9)


def test_jacobians_solve_once_and_factorize_once(qp):
    f, values, _ = qp
    count = {"solve": 0, "vjp": 0}
    layer = f.__closure__[0].cell_contents
    diffmap = layer._handle.map
    solve, pull = diffmap.forward, diffmap.vjp
    diffmap.forward = lambda *a: count.update(solve=count["solve"] + 1) or solve(*a)
    diffmap.vjp = lambda *a: count.update(vjp=count["vjp"] + 1) or pull(*a)
    try:
        jacrev(f, 1)(*values)
        assert count == {"solve": 1, "vjp": 1}
        count.update(solve=0, vjp=0)
        vmap(grad(lambda q: f(values[0], q, *values[2:]).sum()))(torch.stack([values[1]] * 6))
        assert count == {"solve": 1, "vjp": 1}
    finally:
        del diffmap.forward, diffmap.vjp


def test_vmap_over_any_arguments(qp):
    f, values, _ = qp
    stacks = [torch.stack([v * (1 + 0.01 * k) for k in range(4)], dim=-1) for v in values]
    for which in ([1], [0, 3], [0, 1, 2, 3]):
        dims = tuple(-1 if i in which else None for i in range(4))
        args = [stacks[i] if i in which else values[i] for i in range(4)]
        out = vmap(f, dims)(*args)
        for k in range(4):
            expected = f(*(stacks[i][..., k] if i in which else values[i] for i in range(4)))
            assert torch.allclose(out[k], expected, atol=1e-9)


def test_nested_vmap_and_its_compositions(qp):
    f, (L, p, G, h), w = qp
    ps, hs = torch.stack([p, 1.1 * p, 0.9 * p]), torch.stack([h, h + 0.1])

    def loss(p, h):
        return (f(L, p, G, h) * w).sum()

    both = vmap(lambda h: vmap(lambda p: grad(loss, (0, 1))(p, h))(ps))(hs)
    jac = vmap(jacrev(loss), (0, None))(ps, h)
    fwd = vmap(jacfwd(loss), (0, None))(ps, h)
    tangent = vmap(lambda p: jvp(lambda p: f(L, p, G, h), (p,), (w,))[1])(ps)
    for i, hh in enumerate(hs):
        for j, pp in enumerate(ps):
            expected = grad(loss, (0, 1))(pp, hh)
            assert torch.allclose(both[0][i, j], expected[0], atol=1e-9)
            assert torch.allclose(both[1][i, j], expected[1], atol=1e-9)
    for j, pp in enumerate(ps):
        assert torch.allclose(jac[j], grad(loss)(pp, h), atol=1e-9)
        assert torch.allclose(fwd[j], grad(loss)(pp, h), atol=1e-9)
        assert torch.allclose(tangent[j], jacrev(f, 1)(L, pp, G, h) @ w, atol=1e-9)


def test_forward_ad_and_func_jvp_vjp(qp):
    f, values, w = qp
    t = torch.ones_like(values[1])
    expected = jacrev(f, 1)(*values) @ t
    with forward_ad.dual_level():
        out = forward_ad.unpack_dual(f(values[0], forward_ad.make_dual(values[1], t), *values[2:]))
    assert torch.allclose(out.tangent, expected, atol=1e-10)
    assert torch.allclose(jvp(lambda p: f(values[0], p, *values[2:]), (values[1],), (t,))[1], expected, atol=1e-10)
    _, pull = vjp(f, *values)
    assert torch.allclose(pull(w)[1], w @ jacrev(f, 1)(*values), atol=1e-10)


@pytest.mark.parametrize("name", SOME)
def test_float32_in_float32_out(name):
    layer, values = make(name)
    single = [v.to(torch.complex64 if v.is_complex() else torch.float32).requires_grad_() for v in values]
    out, exact = layer(*single), layer(*values)
    assert all(o.dtype in (torch.float32, torch.complex64) for o in out)
    assert all(torch.allclose(o.detach().to(e.dtype), e, atol=1e-5) for o, e in zip(out, exact, strict=True))
    sum(o.abs().sum() for o in out).backward()
    assert all(v.grad.dtype == v.dtype for v in single)


def test_mixed_half_and_integer_dtypes(qp):
    f, (L, p, G, h), _ = qp
    assert f(L.float(), p, G, h).dtype == torch.float64
    assert f(L.half(), p.half(), G.half(), h.half()).dtype == torch.float32
    assert (
        f(
            torch.eye(5, dtype=torch.int64),
            torch.ones(5, dtype=torch.int64),
            torch.zeros(7, 5, dtype=torch.int64),
            torch.ones(7, dtype=torch.int64),
        ).dtype
        == torch.get_default_dtype()
    )
    (L32, p64) = (L.float().requires_grad_(), p.clone().requires_grad_())
    f(L32, p64, G, h).sum().backward()
    assert (L32.grad.dtype, p64.grad.dtype) == (torch.float32, torch.float64)


def test_autocast(qp):
    f, (L, p, G, h), _ = qp
    linear = torch.nn.Linear(5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out = f(L.float(), linear(p.float()), G.float(), h.float())
    out.sum().backward()
    assert out.dtype == torch.float32
    assert linear.weight.grad.isfinite().all()


def test_results_come_back_on_the_device_of_the_inputs(qp):
    f, values, _ = qp
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = [torch.empty(v.shape, dtype=v.dtype, device="cuda") for v in values]
        assert f(*fake).device.type == "cuda"


def test_leading_dimensions_and_broadcasting(qp):
    f, (L, p, G, h), _ = qp
    scale = torch.linspace(0.9, 1.1, 6, dtype=p.dtype).reshape(2, 3)
    out = f(L, p * scale[..., None], G, h + torch.zeros(3, 1, dtype=p.dtype))
    assert out.shape == (2, 3, 5)
    assert torch.allclose(out[1, 2], f(L, p * scale[1, 2], G, h), atol=1e-10)
    assert f(L[None], p, G[None, None], h).shape == (1, 1, 5)


def test_the_gradient_of_a_broadcast_input_is_the_sum(qp):
    f, (L, p, G, h), w = qp
    ps = torch.stack([p, 1.1 * p, 0.9 * p])
    shared = leaves([L, G])
    (f(shared[0], ps, shared[1], h) * w).sum().backward()
    total = [sum(g) for g in zip(*(grad(lambda L, G, p=p: (f(L, p, G, h) * w).sum(), (0, 1))(L, G) for p in ps), strict=True)]
    for a, b in zip(shared, total, strict=True):
        assert torch.allclose(a.grad, b, atol=1e-9)


@pytest.mark.parametrize("name", SOME)
def test_an_empty_batch(name):
    layer, values = make(name)
    empty = [v.expand(0, *v.shape).clone().requires_grad_() for v in values]
    out = layer(*empty)
    assert all(o.shape[0] == 0 for o in out)
    sum(o.abs().sum() for o in out).backward()
    assert all(v.grad.shape == v.shape for v in empty)


def test_an_empty_batch_of_complex_numbers():
    a, z = cp.Parameter(2, complex=True), cp.Variable(complex=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.square(cp.real(z))), [z == a[0] + 2 * a[1]]), [a], [z])
    values = torch.zeros(0, 2, dtype=torch.complex128, requires_grad=True)
    (out,) = layer(values)
    assert out.shape == (0,) and out.dtype == torch.complex128
    out.abs().sum().backward()
    assert values.grad.shape == (0, 2)


def test_partial_gradients_and_single_outputs():
    layer, values = make("qp")
    h = values[3].clone().requires_grad_()
    layer(*values[:3], h)[1].sum().backward()
    assert h.grad.abs().sum() > 0
    x, _ = layer(*values)
    assert not x.requires_grad


def test_a_parameter_without_effect_has_zero_gradient():
    b, k, x = cp.Parameter(2), cp.Parameter(), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b) + k)), [b, k], [x])
    k0 = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (out,) = layer(torch.ones(2, dtype=torch.float64), k0)
    assert out.shape == (3, 2)
    out.sum().backward()
    assert torch.equal(k0.grad, torch.zeros(3, dtype=torch.float64))


def test_a_problem_without_parameters():
    x = cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x <= 0.5]), [], [x])
    assert torch.allclose(layer()[0], torch.full((2,), 0.5))


def test_checkpoint(qp):
    f, values, w = qp
    a, b = leaves(values), leaves(values)
    (checkpoint(f, *a, use_reentrant=False) * w).sum().backward()
    (f(*b) * w).sum().backward()
    assert all(torch.equal(x.grad, y.grad) for x, y in zip(a, b, strict=True))


def test_batched_autograd_grad_says_what_to_use(qp):
    f, (L, p, G, h), _ = qp
    p = p.clone().requires_grad_()
    with pytest.raises(NotImplementedError, match=r"torch\.func\.jacrev"):
        torch.autograd.grad(f(L, p, G, h), p, torch.eye(5, dtype=p.dtype), is_grads_batched=True)


def test_a_layer_inside_of_a_module():
    layer, values = make("qp")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.layer = torch.nn.Linear(2, 5, dtype=torch.float64), layer

        def forward(self, z):
            return self.layer(values[0], self.linear(z), *values[2:])[0]

    model = Model()
    z = torch.ones(3, 2, dtype=torch.float64)
    weights = dict(model.named_parameters())
    g = grad(lambda w: functional_call(model, w, z).sum())(weights)
    model(z).sum().backward()
    assert torch.allclose(g["linear.weight"], model.linear.weight.grad)
    assert model.eval()(z).shape == (3, 5)
    assert list(model.state_dict()) == ["linear.weight", "linear.bias"]


def test_results_own_their_memory(qp):
    layer, values = make("qp")
    before = [v.clone() for v in values]
    x, y = layer(*values)
    x.zero_()
    y.zero_()
    assert all(torch.equal(a, b) for a, b in zip(values, before, strict=True))
    assert layer(*values)[0].abs().sum() > 0


def test_numbers_and_arrays_are_converted():
    b, s, x = cp.Parameter(2), cp.Parameter(nonneg=True), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b) + s * cp.sum(x))), [b, s], [x])
    assert torch.allclose(layer(np.array([1.0, 2.0]), 0.5)[0], torch.tensor([0.75, 1.75], dtype=torch.float64))


def test_conjugated_and_negated_views():
    layer, (A, b) = make("complex_least_squares")
    assert torch.allclose(layer(A.conj(), b.conj())[0], layer(A.conj().resolve_conj(), b.conj().resolve_conj())[0])
    c, x = cp.Parameter(3), cp.Variable(3)
    real = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c))), [c], [x])
    assert torch.allclose(real(b.conj().imag)[0], -b.imag)


def test_torch_jit_trace_is_refused():
    layer, values = make("qp")
    with pytest.raises(NotImplementedError, match="freeze"):
        torch.jit.trace(layer, tuple(values), check_trace=False)


def test_options_of_one_call():
    layer, values = make("socp")
    expected = layer(*values)[0]
    assert torch.allclose(layer(*values, solver_args={"max_iter": 150})[0], expected)
    with pytest.raises(ValueError, match="no option 'speed'"):
        layer(*values, solver_args={"speed": 11})


def test_lift_makes_a_function_of_any_map():
    cube = lift(Cube())
    x = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cube, (x,), check_forward_ad=True)
    assert torch.equal(vmap(lambda x: cube(x)[0])(x.detach()[None]), x.detach()[None] ** 3)


def test_a_native_map():
    cube = lift(SmoothCube(True))
    x = torch.tensor([[1.0, 2.0, -3.0], [0.5, 1.0, 4.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cube, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(cube, (x,), check_fwd_over_rev=True)
    single = x.detach().float()
    assert cube(single)[0].dtype == torch.float32
    H = vmap(hessian(lambda x: cube(x[None])[0].sum()))(single)
    assert torch.allclose(H, torch.diag_embed(6 * single))
    with pytest.raises(NotImplementedError, match="third"):
        jacfwd(hessian(lambda x: cube(x[None])[0].sum()))(single[0])


@pytest.mark.parametrize("native", [False, True], ids=["host", "native"])
def test_inputs_with_different_batches(native):
    f = lift(Product(native))
    a, b = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3), torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
    assert torch.autograd.gradcheck(f, leaves([a, b]), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, leaves([a, b]), check_fwd_over_rev=True)
    H = vmap(hessian(lambda a, b: (f(a[None], b)[0] ** 2).sum(), (0, 1)), (0, None))(a, b)
    assert torch.allclose(H[0][1][:, :, 0], torch.diag_embed(4 * a * b))
