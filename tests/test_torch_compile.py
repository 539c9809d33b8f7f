"""PyTorch: layers under torch.compile and torch.export, where errors of other mechanisms are silent."""

import gc
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch._functorch.aot_autograd import aot_module_simplified, make_boxed_func
from torch.func import grad, hessian, jacrev, jvp, vmap

from cvxlayers.torch import lift

from .custom_maps import Cube, SmoothCube
from .torch_support import leaves, make, qp_function


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.fixture(scope="module")
def qp():
    return qp_function()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_whole_graph_forward_and_backward(qp, backend):
    f, values, w = qp
    compiled = torch.compile(f, fullgraph=True, backend=backend)
    a, b = leaves(values), leaves(values)
    out = compiled(*a)
    (out * w).sum().backward()
    (f(*b) * w).sum().backward()
    assert torch.equal(out, f(*b))
    for x, y in zip(a, b, strict=True):
        assert torch.allclose(x.grad, y.grad, atol=1e-12)


def test_compile_with_a_dynamic_batch_makes_one_graph(qp):
    f, (L, p, G, h), _ = qp
    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for B in (4, 7, 5):
        batch = p.expand(B, -1) * torch.linspace(0.9, 1.1, B, dtype=p.dtype)[:, None]
        assert torch.allclose(compiled(L, batch, G, h), f(L, batch, G, h))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(
            lambda f, v, w: jvp(lambda p: f(v[0], p, *v[2:]), (v[1],), (w,))[1], id="jvp"
        ),  # silently 0 for a bare custom op
        pytest.param(lambda f, v, w: grad(lambda p: (f(v[0], p, *v[2:]) * w).sum())(v[1]), id="grad"),
        pytest.param(lambda f, v, w: jacrev(f, 1)(*v), id="jacrev"),
        pytest.param(lambda f, v, w: vmap(lambda p: f(v[0], p, *v[2:]))(torch.stack([v[1], w])), id="vmap"),
    ],
)
def test_compile_of_transforms(qp, transform):
    f, values, w = qp
    expected = transform(f, values, w)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(
        torch.compile(lambda *v: transform(f, v, w), fullgraph=True, backend="aot_eager")(*values), expected, atol=1e-10
    )


def test_compile_a_training_step():
    torch.manual_seed(0)
    layer, values = make("qp")
    model = torch.nn.Sequential(torch.nn.Linear(3, 5, dtype=torch.float64))
    step = torch.compile(lambda z: layer(values[0], model(z), *values[2:])[0], backend="aot_eager")
    optimizer, z = torch.optim.SGD(model.parameters(), 0.05), torch.ones(8, 3, dtype=torch.float64)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = ((step(z) - 0.1) ** 2).sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_export(qp):
    layer, values = make("qp")
    program = torch.export.export(layer, tuple(values))
    assert torch.equal(program.module()(*values)[0], layer(*values)[0])


def test_opcheck(qp):
    layer, values = make("qp")
    args = [v.reshape(1, -1) for v in values]
    torch.library.opcheck(
        torch.ops.cvxlayers.host.default,
        (layer._handle.key, "forward", args),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_options_of_one_call(qp):
    layer, values = make("socp")
    compiled = torch.compile(lambda *v: layer(*v, solver_args={"max_iter": 150})[0], fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*values), layer(*values)[0])


EXPORT = """
import sys, torch, cvxpy as cp
from cvxlayers import ProblemError
from cvxlayers.torch import CvxpyLayer
x, b = cp.Variable(3), cp.Parameter(3)
def layer(factor):
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - factor * b)), [x >= 0]), [b], [x])
path, value = sys.argv[2], torch.tensor([1.0, -2.0, 3.0])
if sys.argv[1] == "save":
    torch.export.save(torch.export.export(layer(1), (value,)), path)
else:
    other = layer(7)
    program = torch.export.load(path).module()
    try:
        program(value)
    except Exception as error:
        print("layer that does not exist" in str(error))
    same = layer(1)
    print(program(value)[0].tolist())
"""


def test_a_saved_graph_finds_its_layer_or_says_that_it_is_missing(tmp_path):
    for action in ("save", "load"):
        command = [sys.executable, "-c", EXPORT, action, str(tmp_path / "graph.pt2")]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[0] == "True"
    assert out.split("\n")[1] == "[1.0, 0.0, 3.0]"


def test_a_traced_layer_outlives_its_module():
    layer, values = make("qp")
    expected = layer(*values)[0]
    program = torch.export.export(layer, tuple(values)).module()
    del layer
    gc.collect()
    assert torch.equal(program(*values)[0], expected)


def test_a_lifted_map():
    x = torch.tensor(np.array([[1.0, 2.0, -3.0]]))
    cube = lift(Cube())
    assert torch.equal(torch.compile(cube, fullgraph=True, backend="aot_eager")(x)[0], x**3)


def test_a_native_map_is_compiled_with_its_operations():
    cube, graphs = lift(SmoothCube(True)), []

    def backend(graph, inputs):
        def keep(graph, inputs):
            graphs.append(graph.print_readable(print_output=False))
            return make_boxed_func(graph.forward)

        return aot_module_simplified(graph, inputs, fw_compiler=keep, bw_compiler=keep)

    x = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    y = torch.compile(cube, fullgraph=True, backend=backend)(x)[0]
    y.sum().backward()
    assert torch.equal(y, x**3) and torch.allclose(x.grad, 3 * x.detach() ** 2)
    assert any("aten.pow" in g for g in graphs) and not any("cvxlayers.host" in g for g in graphs)


def test_compile_of_a_hessian(qp):
    f, (L, p, G, h), w = qp
    H = hessian(lambda p: (f(L, p, G, h) ** 2 * w).sum())
    expected = H(p)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(torch.compile(H, fullgraph=True, backend="aot_eager")(p), expected, atol=1e-10)
