"""The three frameworks behind one interface, for test bodies that run in each of them."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import torch

import cvxlayers.jax
import cvxlayers.tensorflow
import cvxlayers.torch


class Torch:
    """PyTorch."""

    name, module = "torch", cvxlayers.torch
    session = contextlib.nullcontext

    @staticmethod
    def array(value, dtype=None):
        """An array of the framework; dtype by its NumPy name."""
        return torch.tensor(np.asarray(value), dtype=getattr(torch, dtype) if dtype else None)

    @staticmethod
    def gradients(function, values):
        """Gradients of a scalar function of several arrays; of the framework's convention for complex ones."""
        leaves = [v.clone().requires_grad_() for v in values]
        return torch.autograd.grad(function(*leaves), leaves)

    @staticmethod
    def dot(a, w):
        """The real inner product with a NumPy array."""
        return (torch.conj(torch.tensor(w)).to(a.dtype) * a).sum().real


class Jax:
    """JAX with 64-bit numbers."""

    name, module = "jax", cvxlayers.jax

    @staticmethod
    def session():
        """What a test runs in."""
        return jax.enable_x64(True)

    @staticmethod
    def array(value, dtype=None):
        """An array of the framework; dtype by its NumPy name."""
        return jnp.asarray(value, dtype)

    @staticmethod
    def gradients(function, values):
        """Gradients of a scalar function of several arrays, in torch's convention for complex ones: conjugate to JAX's."""
        return [jnp.conj(g) for g in jax.grad(function, tuple(range(len(values))))(*values)]

    @staticmethod
    def dot(a, w):
        """The real inner product with a NumPy array."""
        return jnp.sum(jnp.conj(jnp.asarray(w, a.dtype)) * a).real


class TensorFlow:
    """TensorFlow, eager."""

    name, module = "tensorflow", cvxlayers.tensorflow
    session = contextlib.nullcontext

    @staticmethod
    def array(value, dtype=None):
        """An array of the framework; dtype by its NumPy name."""
        return tf.convert_to_tensor(np.asarray(value, dtype))

    @staticmethod
    def gradients(function, values):
        """Gradients of a scalar function of several arrays."""
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = function(*values)
        return tape.gradient(loss, values)

    @staticmethod
    def dot(a, w):
        """The real inner product with a NumPy array."""
        return tf.math.real(tf.reduce_sum(tf.math.conj(tf.cast(w, a.dtype)) * a))


FRAMEWORKS = {f.name: f for f in (Torch, Jax, TensorFlow)}


def numpy(array):
    """An array of any framework as a NumPy array."""
    return array.detach().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
