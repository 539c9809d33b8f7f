"""The talk: a page for each script of `examples/talk/`, run as a notebook, with what its cells print and draw.

The build fails if a cell does, or if one writes to stderr. What has not changed since the last build does not run again.
"""

import asyncio
import hashlib
import os
import re
import shutil
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[2]
TALK, BUILD = ROOT / "examples" / "talk", ROOT / "build" / "talk"


def generate(app):
    """Run the scripts, write the pages."""
    scripts = sorted(TALK.glob("[1-9]*.py"))
    pages = Path(app.srcdir) / "talk"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir()
    BUILD.mkdir(parents=True, exist_ok=True)
    shared = [*sorted((ROOT / "cvxlayers").rglob("*.py")), *TALK.glob("pictures.py"), *TALK.parent.glob("*.mplstyle")]
    state = b"".join(path.read_bytes() for path in shared)
    notebooks = asyncio.run(_all(scripts, state))
    for script, notebook in zip(scripts, notebooks, strict=True):
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _links(cell.source)
        notebook.cells.append(nbformat.v4.new_markdown_cell(BELOW.format(name=script.name)))
        nbformat.write(notebook, pages / f"{script.stem}.ipynb")
    names = "\n".join(script.stem for script in scripts)
    (pages / "index.md").write_text(_links((TALK / "README.md").read_text()) + INDEX.format(names=names))


async def _all(scripts, state):
    slots = asyncio.Semaphore(os.cpu_count())
    return await asyncio.gather(*(_run(script, state, slots) for script in scripts))


async def _run(script, state, slots):
    """The notebook of a script, with its outputs."""
    record = BUILD / f"{script.stem}.ipynb"
    key = hashlib.sha256(state + script.read_bytes()).hexdigest()
    if record.exists() and (found := nbformat.read(record, 4)).metadata.get("key") == key:
        return found
    notebook = jupytext.read(script)
    notebook.metadata.update(key=key, kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"})
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | {"PYTHONPATH": str(ROOT)}
    quiet = ["--log-level=ERROR"]  # there are warnings that the kernel talks over local sockets
    client = NotebookClient(notebook, timeout=300, extra_arguments=quiet, resources={"metadata": {"path": str(TALK)}})
    client.log.setLevel("WARNING")
    try:
        async with slots:
            await client.async_execute(env=environment)
    except CellExecutionError as error:
        raise ExtensionError(f"examples/talk/{script.name} failed:\n{error}") from error
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if output.output_type == "stream" and output.name == "stderr":
            raise ExtensionError(f"examples/talk/{script.name} writes to stderr:\n{output.text}")
    nbformat.write(notebook, record)
    return notebook


def _links(text):
    """Links between files of the repository become links between pages."""
    text = re.sub(r"\]\(\.\./(\w+)\.py\)", r"](../gallery/\1.rst)", text)
    text = text.replace("](../../docs/", "](../").replace("](README.md", "](index.md")
    return re.sub(r"\]\(([1-9]\w+)\.py", r"](\1.ipynb", text)


BELOW = """---

Run it yourself: `python examples/talk/{name}`, or {{download}}`take the file </../examples/talk/{name}>`, which Jupyter (with
jupytext), VS Code and Spyder open as a notebook; `pictures.py`, beside it, is the look of the figures."""

INDEX = """
```{{toctree}}
:hidden:

{names}
```
"""


def setup(app):
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
