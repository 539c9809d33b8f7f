"""Package metadata, and the native engine: an optional extension. `make demo` and `make test` do everything else."""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

TEST = ["diffcp", "ecos", "hypothesis", "matplotlib", "mpmath", "pytest", "pytest-xdist", "ray", "scikit-learn", "scs", "tqdm"]

SOURCES = Path("cvxlayers/native/src")
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-wrapv", "-fvisibility=hidden"]
FLAGS += os.environ.get("CVXLAYERS_CXXFLAGS", "").split()  # for `make sanitize`
ALONE = ["-mprefer-vector-width=512", "-fno-tree-loop-vectorize"]  # else sums round otherwise than in the other builds
# The builds of the engine, best first: name, problems in a register, flags. Which one runs is decided when it is loaded.
BUILDS = {
    "x86_64": [
        ("v4_8", 8, ["-march=x86-64-v4", "-mprefer-vector-width=512"]),
        ("v4_4", 4, ["-march=x86-64-v4"]),
        ("v4_2", 2, ["-march=x86-64-v4"]),
        ("v4_1", 1, ["-march=x86-64-v4", *ALONE]),
        ("v3_4", 4, ["-march=x86-64-v3"]),
        ("v3_2", 2, ["-march=x86-64-v3"]),
        ("v3_1", 1, ["-march=x86-64-v3", *ALONE]),
        ("v2_2", 2, ["-march=x86-64-v2"]),
    ],
    "any": [("base_2", 2, [])],
}
WIDEST = ("v4_8", "v3_4", "v2_2", "base_2")  # their lanes fill a register: these have the maps of rows as well


class BuildEngine(build_ext):
    """Compiles the engine once for each build, and leaves out those that this compiler cannot make."""

    def build_extension(self, extension):
        if self.compiler.compiler_type != "unix":
            raise CompileError("the native engine needs GCC or Clang; cvxlayers works without it, slower on QPs")
        machine = platform.machine().lower().replace("amd64", "x86_64")
        temporary = Path(self.build_temp)
        with ThreadPoolExecutor(os.cpu_count()) as threads:  # each is a process of the compiler
            tasks = {b[0]: threads.submit(self._engine, temporary, *b) for b in BUILDS.get(machine, BUILDS["any"])}
            common = threads.submit(
                self._objects,
                [SOURCES / f"{name}.cpp" for name in ("plan", "pool", "ops", "isotonic", "shortcut")],
                temporary,
                [],
                [],
            )
            made = {name: task.result() for name, task in tasks.items() if task.exception() is None}
        if not made:
            raise CompileError("the native engine does not compile here; cvxlayers works without it, slower on QPs")
        lists = {"BUILDS(X)": made, "ROWS(X)": [name for name in WIDEST if name in made]}
        macros = [(macro, " ".join(f"X({name})" for name in names)) for macro, names in lists.items()]
        objects = self._objects([SOURCES / "api.cpp"], temporary, macros, [])
        objects += common.result() + [o for part in made.values() for o in part]
        path = self.get_ext_fullpath(extension.name)
        self.compiler.link_shared_object(objects, path, extra_postargs=["-pthread"], target_lang="c++")

    def _engine(self, temporary, name, lanes, flags):
        sources = ["engine", "rows"] if name in WIDEST else ["engine"]
        return self._objects(
            [SOURCES / f"{s}.cpp" for s in sources], temporary / name, [("BUILD", name), ("LANES", str(lanes))], flags
        )

    def _objects(self, sources, directory, macros, flags):
        options = {"output_dir": str(directory), "macros": macros, "extra_postargs": [*FLAGS, *flags]}
        return self.compiler.compile([str(s) for s in sources], include_dirs=[str(SOURCES)], **options)


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
    ext_modules=[Extension("cvxlayers.native._engine", [str(p) for p in sorted(SOURCES.glob("*.cpp"))], optional=True)],
    cmdclass={"build_ext": BuildEngine},
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
    },
)
