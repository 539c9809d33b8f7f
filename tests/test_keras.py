"""The Keras layer on its three backends: fit, predict, save and load. Keras has one backend for each process."""

import subprocess
import sys

import pytest

TRAIN = """
import os, sys
os.environ["KERAS_BACKEND"], path = sys.argv[1:]
import cvxpy as cp, keras, numpy as np
from cvxlayers.keras import CvxpyLayer

@keras.saving.register_keras_serializable()
def box():
    x, y, u = cp.Parameter(3), cp.Variable(3), cp.Parameter(nonneg=True)
    return cp.Problem(cp.Minimize(cp.sum_squares(y - x)), [cp.sum(y) == 1, y >= -u]), [x, u], [y]

features, width = keras.Input((2,)), keras.Input(())
model = keras.Model([features, width], CvxpyLayer(box)([keras.layers.Dense(3)(features), width]))
assert model.output_shape == (None, 3)
model.compile(keras.optimizers.Adam(0.05), "mse")
rng = np.random.default_rng(0)
z = rng.standard_normal((70, 2)).astype("float32")  # 32 + 32 + 6
u = np.full(70, 0.1, "float32")
weights = rng.standard_normal((2, 3))
target = z @ weights - (z @ weights).mean(1, keepdims=True) + 1 / 3
history = model.fit([z, u], target, epochs=8, verbose=0).history["loss"]
assert history[-1] < 0.8 * history[0], history
before = model.predict([z, u], verbose=0)
assert np.allclose(before.sum(1), 1, atol=1e-5) and (before >= -0.1 - 1e-5).all()
model.save(path)
again = keras.models.load_model(path)
assert np.array_equal(again.predict([z, u], verbose=0), before)
layer = model.layers[-1]
assert layer.supports_jit == (keras.backend.backend() != "tensorflow")
half = CvxpyLayer(box, dtype="mixed_float16")([np.ones((2, 3), "float16"), np.ones(2, "float16")])
assert keras.backend.standardize_dtype(half.dtype) == "float16"

def spectrum():
    c, y = cp.Parameter(2, complex=True), cp.Variable(2, complex=True)
    return cp.Problem(cp.Minimize(cp.sum_squares(y - c))), [c], [y]

for build, shape in ((lambda: box()[:2], ()), (spectrum, ()), (box, (4,))):
    try:
        CvxpyLayer(build)([keras.Input(shape), width])
    except ValueError as error:
        print(" ".join(str(error).split()))
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_fit_predict_save_and_load(backend, tmp_path):
    command = [sys.executable, "-c", TRAIN, backend, str(tmp_path / "model.keras")]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:]
    tuple_, complex_, shape = out.stdout.strip().splitlines()[-3:]
    assert tuple_ == "build_problem must return (problem, parameters, variables)"
    assert complex_.startswith("Keras has no complex layers")
    assert "has shape (None, 4); expected (3,)" in shape
