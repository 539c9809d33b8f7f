"""The gallery: a page for each script of `examples/`, with what it says, draws, prints, and its code.

The build runs every script, in a process of its own, and fails if one fails. Most run as a user runs them, and the page shows
the figure of this run. Those of `SMALLER` take long: they run at a reduced size, as the page says, and it shows the
figure in `examples/figures/`, which is that of the full run. What has not changed since the last build does not run again.
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
# What to pass, on the command line or to main(...), to the scripts that take more than half a minute of one processor.
SMALLER = {"quickstart": ["--quick"], "distributed": ["--items", "200", "--steps", "20"]}
FIRST = ["quickstart", "swap_frameworks", "degenerate_gradients"]  # then the others, by name

RUN = """
import pathlib, sys
sys.path.insert(0, {folder!r})
import {name}
{name}.main(figure=pathlib.Path({figure!r}), **{options!r})
"""


def generate(app):
    """Run the scripts, write the pages."""
    scripts = sorted(EXAMPLES.glob("*.py"), key=lambda p: (FIRST.index(p.stem) if p.stem in FIRST else len(FIRST), p.stem))
    BUILD.mkdir(parents=True, exist_ok=True)
    pages = Path(app.srcdir) / "gallery"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir()
    state = _digest(*sorted((ROOT / "cvxlayers").rglob("*.py")), *EXAMPLES.glob("*.mplstyle"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        runs = list(threads.map(lambda script: _run(script, state), scripts))
    cards = [_page(script, run, pages) for script, run in zip(scripts, runs, strict=True)]
    cards = [card for _, card in sorted(cards, key=lambda c: c[0])]  # those without a picture last
    (pages / "index.rst").write_text(INDEX.format(cards="\n".join(cards), names="\n".join(f"   {s.stem}" for s in scripts)))


def _digest(*files):
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _run(script, state):
    """{"output", "seconds"} of a run; the figure lies beside it, if the script draws one."""
    name, smaller = script.stem, SMALLER.get(script.stem)
    record, figure = BUILD / f"{name}.json", BUILD / f"{name}.png"
    key = hashlib.sha256(f"{state}{_digest(script)}{smaller}".encode()).hexdigest()
    if record.exists() and (found := json.loads(record.read_text()))["key"] == key:
        return found
    if "figure" in _main_arguments(script):
        code = RUN.format(folder=str(EXAMPLES), name=name, figure=str(figure), options=smaller or {})
        command = [sys.executable, "-c", code]
    else:
        drawing = ["--figure", str(figure)] if "--figure" in script.read_text() else []
        command = [sys.executable, str(script), *(smaller or []), *drawing]
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
    from PIL import Image

    name, smaller = script.stem, SMALLER.get(script.stem)
    code = ast.parse(script.read_text())
    first, _, body = ast.get_docstring(code).partition("\n\n")
    first = " ".join(first.split())
    title, rest = re.match(r"(.*?)(?:[:;] |, and |\.$|\. |$)(.*)", re.sub(r" \(.*?\)", "", first)).groups()
    figure = (EXAMPLES / "figures" if smaller else BUILD) / f"{name}.png"
    lines = [title, "=" * len(title), ""]
    if first.rstrip(".") != title:
        lines += [prose.inline(first), ""]
    body, _, after = body.partition("\n\nTry next:")
    lines += [prose.to_rst(body), ""]
    image = []
    if figure.exists():
        shutil.copy(figure, pages / f"{name}.png")
        with Image.open(figure) as picture:
            picture.thumbnail((720, 480))
            picture.save(pages / f"{name}-thumbnail.png")
        lines += [f".. image:: {name}.png", f"   :alt: {title}", ""]
        image = [f"   :img-top: {name}-thumbnail.png", f"   :img-alt: {title}"]
    if run["output"]:
        lines += [".. code-block:: text", "", *(f"   {line}" for line in run["output"].splitlines()), ""]
    arguments = smaller if isinstance(smaller, list) else [f"{k}={v}" for k, v in (smaller or {}).items()]
    how = f"With ``{' '.join(arguments)}``, in {run['seconds']:.0f} s, when these pages were built" if smaller else ""
    how = f"{how}; the figure is that of the full run." if how and image else f"{how}." if how else ""
    how = how or f"Made in {run['seconds']:.0f} s, when these pages were built."
    lines += [
        f"{how} Run it yourself: ``python examples/{name}.py``, or :download:`take the file </../examples/{name}.py>`.",
        "",
    ]
    if after:
        lines += [".. admonition:: Try next", "   :class: tip", "", f"   {prose.inline(_capital(' '.join(after.split())))}", ""]
    below = f"   :lines: {code.body[0].end_lineno + 2}-"  # the docstring
    lines += [f".. literalinclude:: /../examples/{name}.py", "   :language: python", below, ""]
    (pages / f"{name}.rst").write_text("\n".join(lines))
    card = [
        f".. grid-item-card:: {title}",
        f"   :link: {name}",
        "   :link-type: doc",
        *image,
        "",
        f"   {prose.inline(_capital(rest))}",
        "",
    ]
    return not image, "\n".join(f"   {line}" if line else "" for line in card)


def _capital(text):
    return text[:1].upper() + text[1:]


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
