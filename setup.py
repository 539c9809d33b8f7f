"""Package metadata. `pip install .` needs nothing but Python; `make demo` and `make test` do everything else."""

from pathlib import Path

from setuptools import find_packages, setup

TEST = ["diffcp", "ecos", "hypothesis", "matplotlib", "mpmath", "pytest", "pytest-xdist", "scikit-learn", "scs", "tqdm"]

setup(
    name="cvxlayers",
    version="0.1.0",
    description="Differentiable convex optimization layers: a parametrized CVXPY problem in PyTorch, JAX and TensorFlow",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["cvxlayers", "cvxlayers.*"]),
    package_data={"cvxlayers": ["py.typed"]},
    install_requires=[
        "array-api-compat>=1.9",
        "clarabel>=0.10",
        "cvxpy>=1.9,<2",
        'moreau>=0.4; platform_system == "Linux" or (platform_system == "Darwin" and platform_machine == "arm64")',
        "numpy>=2.0",
        "scipy>=1.13",
        "threadpoolctl>=3",
    ],
    extras_require={
        "torch": ["torch>=2.13"],
        "jax": ["jax>=0.6"],
        "tensorflow": ["tensorflow>=2.21", "keras>=3"],
        "examples": ["matplotlib", "scikit-learn", "tqdm"],
        "test": TEST,
        "docs": ["myst-parser", "sphinx"],
    },
)
