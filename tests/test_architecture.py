"""Dependencies point one way, files stay small, and importing one framework does not bring in another."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cvxlayers"
FILES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = {"torch", "jax", "tensorflow", "keras"}
SOLVER_PACKAGES = {
    "moreau": {"solvers/moreau.py"},
    "moreau_cpu": {"solvers/moreau.py"},
    "clarabel": {"solvers/clarabel.py"},
    "scs": {"solvers/scs.py"},
    "ecos": {"solvers/ecos.py"},
    "diffcp": {"solvers/diffcp.py", "derivatives/diffcp.py"},
}
CVXPY = {"canonicalize.py", "checks.py", "duals.py", "expressions.py", "lifting.py", "sensitivities.py"}
LAYERS = [
    "errors",
    "sets",
    "threads",
    "memory",
    "cones",
    "native",
    "turned",
    "program",
    "units",
    "batching",
    "diffmap",
    "loops",
    "factors",
    "calls",
    "parameters",
    "param_map",
    "formulas",
    "recover",
    "linsolve",
    "kkt",
    "residual",
    "solvers",
    "config",
    "info",
    "ladder",
    "derivatives",
    "shortcut",
    "duals",
    "checks",
    "expressions",
    "lifting",
    "canonicalize",
    "layer",
    "informed",
    "uniqueness",
    "sensitivities",
    "handles",
    "interface",
    "layers",
    "functions",
    "torch",
    "jax",
    "tensorflow",
    "keras",
]  # each may import those before it


def imports(path):
    """(top-level module, relative level, dotted name) of every import of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], 0, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level and not node.module:
            yield from ((alias.name, node.level, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0], node.level, node.module or ""


def name_of(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_outside_packages_are_imported_only_in_their_file(path):
    own = name_of(path)
    for top, level, dotted in imports(path):
        if level:
            continue
        assert own in SOLVER_PACKAGES.get(top, {own}), f"{own} imports {dotted}"
        assert top not in FRAMEWORKS or own.split("/")[0].removesuffix(".py") == top, f"{own} imports {dotted}"
        if top == "cvxpy":
            assert own in CVXPY, f"{own} imports {dotted}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_arrows_point_one_way(path):
    own = path.relative_to(PACKAGE).parts
    here = own[0].removesuffix(".py")
    if here == "__init__":
        return
    for top, level, dotted in imports(path):
        if level == len(own):  # from the package itself
            target = top or dotted
            assert LAYERS.index(target) < LAYERS.index(here), f"{name_of(path)} imports {target}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_small_and_say_what_they_are(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))


def test_the_guide_lists_the_parts_in_this_order():
    guide = (PACKAGE.parent / "docs" / "architecture.md").read_text().partition("    cvxlayers/\n")[2].partition("\n\n")[0]
    assert [line.split()[0].rstrip("/").removesuffix(".py") for line in guide.splitlines()] == LAYERS


def test_the_guide_knows_the_sources_of_the_engine():
    guide = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    sources = {path.name for path in (PACKAGE / "native" / "src").iterdir()}
    headers = {f"{path.stem}.h" for path in (PACKAGE / "native" / "src").glob("*.cpp")} | {"export.h"}  # of what they declare
    assert {name for name in sources - headers if f"`{name}`" not in guide} == set()


def test_importing_the_core_brings_in_no_framework():
    code = (
        "import sys, cvxpy\nbefore = set(sys.modules)\nimport cvxlayers\n"
        "print({m.split('.')[0] for m in set(sys.modules) - before} & {'torch', 'jax', 'tensorflow', 'keras'})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_the_public_names():
    import cvxlayers

    assert set(cvxlayers.__all__) <= set(dir(cvxlayers))
