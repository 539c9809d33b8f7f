"""Keras 3: `CvxpyLayer` as a `keras.layers.Layer`, on the backend that Keras runs on (TensorFlow, JAX or torch).

A saved model holds the name of a registered function that builds the problem, not a pickle: loading a pickle would run
whatever code is in the file.
"""

from __future__ import annotations

import importlib

from .batching import leading_dims
from .errors import MissingDependencyError, ProblemError

try:
    import keras
except ImportError as error:
    raise MissingDependencyError("cvxlayers.keras needs Keras 3; pip install 'cvxlayers[tensorflow]'") from error

__all__ = ["CvxpyLayer"]


@keras.saving.register_keras_serializable("cvxlayers")
class CvxpyLayer(keras.layers.Layer):
    """The solution of a parametrized CVXPY problem as a Keras layer.

    build_problem: a function without arguments that returns (problem, parameters, variables). To save a model, register
    it with `@keras.saving.register_keras_serializable()`. solver, gp, solver_args, derivative, mu, tau, on_error: as elsewhere.

    The input is one tensor (batch, *shape), or a list with one for each parameter; leading dimensions broadcast. The output
    is one tensor for one variable, else a tuple, in the compute dtype. Raises as the layers of the backend do, and ProblemError
    for a builder of anything else and for complex problems. Exact derivatives flow through `model.fit`. TensorFlow cannot
    compile the layer with XLA (jit_compile=True), and Keras is told not to try.
    """

    def __init__(
        self,
        build_problem,
        *,
        solver=None,
        gp=False,
        solver_args=None,
        derivative="implicit",
        mu=None,
        tau=None,
        on_error="raise",
        **kwargs,
    ):
        super().__init__(**{"autocast": False, **kwargs})  # half precision would round the parameters
        backend = keras.backend.backend()
        if backend not in ("tensorflow", "jax", "torch"):
            raise MissingDependencyError(f"cvxlayers.keras has no layer for the Keras backend {backend!r}")
        self.build_problem = build_problem
        self.options = {"solver": solver, "gp": gp, "solver_args": solver_args, "derivative": derivative}
        self.options |= {"mu": mu, "tau": tau, "on_error": on_error}
        self.supports_jit = backend != "tensorflow"
        built = build_problem()
        if not isinstance(built, tuple) or len(built) != 3:
            raise ProblemError("build_problem must return (problem, parameters, variables)")
        layer = importlib.import_module(f"cvxlayers.{backend}").CvxpyLayer(*built, **self.options)
        complex_ones = [i.name for i in (*layer._handle.map.parameters, *layer._handle.map.outputs) if i.complex]
        if complex_ones:
            raise ProblemError(f"Keras has no complex layers; {', '.join(complex_ones)} is complex")
        self._solve, self._info = layer.__call__, layer._handle.map  # Keras would wrap a torch module itself

    def call(self, inputs):
        """The solution for these parameters."""
        outputs = tuple(keras.ops.cast(o, self.compute_dtype) for o in self._solve(*_values(inputs)))
        return outputs[0] if len(outputs) == 1 else outputs

    def compute_output_spec(self, inputs):
        """Shapes and dtypes of the outputs; unknown batch dimensions stay unknown."""
        info = self._info
        leads = leading_dims([tuple(v.shape) for v in _values(inputs)], info.parameters)
        lead = tuple(next((d for d in sizes if d != 1), 1) for sizes in zip(*leads, strict=True))
        outputs = tuple(keras.KerasTensor((*lead, *o.shape), dtype=self.compute_dtype) for o in info.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def get_config(self):
        """What rebuilds the layer: the registered builder and the options."""
        return {
            **super().get_config(),
            **self.options,
            "build_problem": keras.saving.serialize_keras_object(self.build_problem),
        }

    @classmethod
    def from_config(cls, config):
        """The layer of a configuration."""
        return cls(**{**config, "build_problem": keras.saving.deserialize_keras_object(config["build_problem"])})


def _values(inputs):
    return list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
