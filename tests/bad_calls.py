"""The table of bad calls: what is passed to a layer, and the error, in each framework.

    layer(c, l):  min |x - c|^2,  l <= x <= 1      c and l of 2 entries

A row is (what makes the two values, or more of them, from a framework; options of the call; error; what its text must
contain). Rows of `ARRAYS` have arrays only, so that compiled code can take them as arguments.
"""

from __future__ import annotations

import fractions

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import tensorflow as tf
import torch
from jax.experimental import sparse as jax_sparse

from cvxlayers import ProblemError, ShapeError


def box():
    """(problem, parameters, variables) of the layer that is called."""
    c, l, x = cp.Parameter(2, name="c"), cp.Parameter(2, name="l"), cp.Variable(2, name="x")
    return cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= l, x <= 1]), [c, l], [x]


def _arrays(*shapes, dtype="float64"):
    return lambda fw: [fw.array(np.zeros(shape, dtype)) for shape in shapes]


SHAPE = r"'c' \(position 0\) has shape \({}\); expected \(2,\), or \(\.\.\., 2\) for a batch"
ARRAYS = {
    "one value": (_arrays(2), {}, ShapeError, "got 1 values; expected 2, one for each parameter: 'c', 'l'"),
    "three values": (_arrays(2, 2, 2), {}, ShapeError, "got 3 values; expected 2"),
    "a number": (_arrays((), 2), {}, ShapeError, SHAPE.format("")),
    "too many entries": (_arrays(3, 2), {}, ShapeError, SHAPE.format("3,")),
    "too few entries": (_arrays(1, 2), {}, ShapeError, SHAPE.format("1,")),
    "no entries": (_arrays(0, 2), {}, ShapeError, SHAPE.format("0,")),
    "a column": (_arrays((2, 1), 2), {}, ShapeError, SHAPE.format("2, 1")),
    "the batch last": (_arrays((2, 5), 2), {}, ShapeError, SHAPE.format("2, 5")),
    "the second value": (_arrays(2, (4, 3)), {}, ShapeError, r"'l' \(position 1\) has shape \(4, 3\)"),
    "batches": (_arrays((3, 2), (4, 2)), {}, ShapeError, r"do not broadcast; found 'c': \(3, 2\), 'l': \(4, 2\)"),
    "batches of two dimensions": (_arrays((5, 3, 2), (5, 2)), {}, ShapeError, "batch dimensions .* do not broadcast"),
    "an empty batch and a full one": (_arrays((0, 2), (3, 2)), {}, ShapeError, "batch dimensions .* do not broadcast"),
    "a complex value": (_arrays(2, 2, dtype="complex128"), {}, ShapeError, "'c' .* got a complex value; expected a real one"),
    "an unknown option": (_arrays(2, 2), {"solver_args": {"epsilon": 1}}, ProblemError, "has no option 'epsilon'; it has"),
    "options as text": (_arrays(2, 2), {"solver_args": "fast"}, ProblemError, "solver_args is a str; expected a dictionary"),
    "options as a list": (_arrays(2, 2), {"solver_args": [("eps", 1)]}, ProblemError, "solver_args is a list; expected a dict"),
    "an unknown on_error": (_arrays(2, 2), {"on_error": "ignore"}, ProblemError, "on_error is 'ignore'; expected 'raise' or"),
}

CONVERT = r"parameter 'c' \(position 0\) is an? .*; expected an? (tensor|array|dense one|plain one)|is a tensor of string"


def _first(value):
    """A row with this as the first of the two values."""
    return lambda fw: [value, fw.array(np.zeros(2))], {}, ShapeError, CONVERT


OBJECTS = {
    "None": _first(None),
    "text": (*_first("text")[:3], r"'c' \(position 0\) (is a str; expected|is a tensor of string|has shape \(\))"),
    "bytes": (*_first(b"12")[:3], r"'c' \(position 0\) (is a bytes; expected|is a tensor of string|has shape \(\))"),
    "a dictionary": _first({"c": 1.0}),
    "a set": _first({1.0, 2.0}),
    "an object": _first(object()),
    "a function": _first(len),
    "a generator": _first(k for k in (1.0, 2.0)),
    "a list of texts": _first(["a", "b"]),
    "a list with None": _first([None, 1.0]),
    "a list with holes": _first([[1.0], [2.0, 3.0]]),
    "a list of fractions": _first([fractions.Fraction(1, 2)] * 2),
    "a list of huge integers": _first([10**400, 1]),
    "an empty list": (*_first([])[:3], SHAPE.format("0,")),
    "an array of texts": _first(np.array(["a", "b"])),
    "an array of objects": _first(np.array([None, 1.0])),
    "an array of dates": _first(np.array(["2020-01-01", "2020-01-02"], "datetime64[D]")),
    "an array of records": _first(np.zeros(2, [("a", float)])),
    "a masked array": _first(np.ma.array([1.0, 2.0], mask=[True, False])),
    "a sparse array": _first(sp.coo_array(np.ones(2))),
    "a sparse matrix": _first(sp.csr_matrix(np.ones((1, 2)))),
    "a sparse tensor of torch": _first(torch.eye(2).to_sparse()[0]),
    "a CVXPY parameter": _first(cp.Parameter(2)),
    "a CVXPY constant": _first(cp.Constant(np.ones(2))),
    "a complex list": (*_first([1j, 1.0])[:3], "'c' .* got a complex value; expected a real one"),
    "a list with NaN": (*_first([np.nan, 1.0])[:2], ProblemError, "'c' .* NaN or infinite$"),
}

OWN = {
    "torch": {
        "sparse": lambda: torch.eye(2).to_sparse()[0],
        "sparse rows": lambda: torch.eye(2).to_sparse_csr(),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2)]),
        "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "eight bits": lambda: torch.ones(2).to(torch.float8_e4m3fn),
        "meta": lambda: torch.zeros(2, device="meta"),
    },
    "jax": {
        "sparse": lambda: jax_sparse.BCOO.fromdense(jnp.ones(2)),
        "keys": lambda: jax.random.split(jax.random.key(0)),
        "eight bits": lambda: jnp.ones(2, jnp.float8_e4m3fn),
        "a shape": lambda: jax.ShapeDtypeStruct((2,), np.float64),
    },
    "tensorflow": {
        "sparse": lambda: tf.sparse.from_dense(tf.ones(2)),
        "ragged": lambda: tf.ragged.constant([[1.0], [2.0, 3.0]]),
        "texts": lambda: tf.constant(["a", "b"]),
        "a list of tensors": lambda: tf.TensorArray(tf.float64, 2),
        "a symbol of Keras": lambda: tf.keras.Input((2,)),
        "a data set": lambda: tf.data.Dataset.range(2),
    },
}

# What looks odd and is fine: the values that it stands for.
FINE = {
    "integers": (lambda fw: fw.array(np.array([1, -2])), [1, -2]),
    "bytes of eight bits": (lambda fw: fw.array(np.array([1, 0], np.uint8)), [1, 0]),
    "booleans": (lambda fw: fw.array(np.array([True, False])), [1, 0]),
    "half precision": (lambda fw: fw.array(np.array([0.5, -0.5], np.float16)), [0.5, -0.5]),
    "a list": (lambda fw: [0.5, -0.5], [0.5, -0.5]),
    "a list of integers": (lambda fw: [1, -2], [1, -2]),
    "a tuple": (lambda fw: (0.5, -0.5), [0.5, -0.5]),
    "a range": (lambda fw: range(2), [0, 1]),
    "a NumPy array": (lambda fw: np.array([0.5, -0.5]), [0.5, -0.5]),
    "a strided array": (lambda fw: np.arange(8.0)[::-4] / 8, [0.875, 0.375]),
    "a batch of one": (lambda fw: fw.array(np.array([[0.5, -0.5]])), [[0.5, -0.5]]),
}
