"""Formulas as MathML, which browsers draw by themselves: no script, no fonts, nothing from elsewhere."""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging


def _inline(writer, node):
    writer.body.append(_mathml(node))
    raise nodes.SkipNode


def _block(writer, node):
    writer.body.append(f'<div class="math">{_mathml(node, as_block=True)}</div>')  # which scrolls where it is too wide
    raise nodes.SkipNode


def _mathml(node, **how):
    try:
        return tex2mathml(node.astext(), **how)
    except MathError as error:
        logging.getLogger(__name__).warning("no MathML of %r: %s", node.astext(), error, location=node)
        return ""


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}
