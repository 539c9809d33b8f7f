"""The gallery: a page for each script of `examples/`, with what it says, draws, prints, and its code.

The build runs every script as a user runs it, in a process of its own, with a figure of its own, and fails if one fails. What
has not changed since the last build does not run again.
"""

import ast
import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import prose
from sphinx.errors import ExtensionError
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, BUILD = ROOT / "examples", ROOT / "build" / "gallery"
FIRST = ["quickstart", "swap_frameworks", "degenerate_gradients"]  # then the others, by name

RUN = """
import pathlib, sys
sys.path.insert(0, {folder!r})
import {name}
{name}.main(figure=pathlib.Path({figure!r}))
"""


def generate(app):
    """Run the scripts, write the pages."""
    scripts = sorted(EXAMPLES.glob("*.py"), key=lambda p: (FIRST.index(p.stem) if p.stem in FIRST else len(FIRST), p.stem))
    BUILD.mkdir(parents=True, exist_ok=True)
    pages = Path(app.srcdir) / "gallery"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir()
    state = _digest(*sorted((ROOT / "cvxlayers").rglob("*.py")), *EXAMPLES.glob("*.mplstyle"))
    arguments = [_main_arguments(script) for script in scripts]  # here: ast.parse of Python 3.11 is not for threads
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        runs = list(threads.map(lambda script, names: _run(script, names, state), scripts, arguments))
    cards = [_page(script, run, pages) for script, run in zip(scripts, runs, strict=True)]
    cards = [card for _, card in sorted(cards, key=lambda c: c[0])]  # those without a picture last
    (pages / "index.rst").write_text(INDEX.format(cards="\n".join(cards), names="\n".join(f"   {s.stem}" for s in scripts)))


def _digest(*files):
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _run(script, arguments, state):
    """{"output", "seconds"} of a run; the figure lies beside it, if the script draws one."""
    name = script.stem
    record, figure = BUILD / f"{name}.json", BUILD / f"{name}.png"
    key = hashlib.sha256(f"{state}{_digest(script)}".encode()).hexdigest()
    if record.exists() and (found := json.loads(record.read_text()))["key"] == key:
        return found
    if "figure" in arguments:
        code = RUN.format(folder=str(EXAMPLES), name=name, figure=str(figure))
        command = [sys.executable, "-c", code]
    else:
        drawing = ["--figure", str(figure)] if "--figure" in script.read_text() else []
        command = [sys.executable, str(script), *drawing]
    environment = {**os.environ, "MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise ExtensionError(f"examples/{script.name} failed:\n{done.stderr[-3000:]}")
    logging.getLogger(__name__).info("examples/%s: %.0f s", script.name, seconds)
    output = re.sub(r"^figure: .*\n", "", done.stdout, flags=re.M).replace(str(figure), f"examples/figures/{name}.png")
    found = {"key": key, "output": output.strip(), "seconds": seconds}
    record.write_text(json.dumps(found))
    return found


def _main_arguments(script):
    mains = [node for node in ast.parse(script.read_text()).body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    return [a.arg for a in mains[0].args.args] if mains else []


def _page(script, run, pages):
    """Write the page; return whether it has no picture, and the card that leads to it."""
    name = script.stem
    source = ast.parse(script.read_text())
    first, _, body = ast.get_docstring(source).partition("\n\n")
    body, _, after = body.partition("\n\nTry next:")
    first, after = " ".join(first.split()), " ".join(after.split())
    title, rest = re.match(r"(.*?)(?:[:;] |, and |\.$|\. |$)(.*)", re.sub(r" \(.*?\)", "", first)).groups()
    drawn = _pictures(BUILD / f"{name}.png", pages)
    page = PAGE.format(
        name=name,
        title=prose.inline(title),
        line="=" * len(prose.inline(title)),
        first=prose.inline(first) if first.rstrip(".") != title else "",
        body=prose.to_rst(body),
        picture=f".. image:: {name}.png\n   :alt: {title}\n   :target: ../_images/{name}.png" if drawn else "",
        output="\n   ".join([".. code-block:: text\n", *run["output"].splitlines()]) if run["output"] else "",
        seconds=run["seconds"],
        after=f".. admonition:: Try next\n   :class: tip\n\n   {prose.inline(_capital(after))}" if after else "",
        below=source.body[0].end_lineno + 2,
    )
    (pages / f"{name}.rst").write_text(page)
    card = [f".. grid-item-card:: {prose.inline(title)}", f"   :link: {name}", "   :link-type: doc"]
    card += [f"   :img-top: {name}-thumbnail.png", f"   :img-alt: {title}"] if drawn else []
    card += ["", f"   {prose.inline(_capital(rest))}", ""]
    return not drawn, "\n".join(f"   {line}" if line else "" for line in card)


def _pictures(figure, pages):
    """Copy the figure, and a small one; whether there is a figure."""
    from PIL import Image

    if figure.exists():
        shutil.copy(figure, pages / figure.name)
        with Image.open(figure) as picture:
            picture.thumbnail((720, 480))
            picture.save(pages / f"{figure.stem}-thumbnail.png")
    return figure.exists()


def _capital(text):
    return text[:1].upper() + text[1:]


PAGE = """{title}
{line}

{first}

{body}

{picture}

{output}

Made in {seconds:.0f} s, when these pages were built. Run it yourself: ``python examples/{name}.py``, or
:download:`take the file </../examples/{name}.py>`.

{after}

.. literalinclude:: /../examples/{name}.py
   :language: python
   :lines: {below}-
"""

INDEX = """Gallery
=======

The scripts of ``examples/``: each opens with the mathematics, draws a figure, and ends with what to try next. The build of
these pages has run all of them.

.. grid:: 1 1 2 2
   :gutter: 3

{cards}

.. toctree::
   :hidden:

{names}
"""


def setup(app):
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
