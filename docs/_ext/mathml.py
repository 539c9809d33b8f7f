"""Formulas as MathML, which browsers draw by themselves: no script, no fonts, nothing from elsewhere."""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging


def _mathml(writer, node, block=False):
    try:
        writer.body.append(tex2mathml(node.astext(), as_block=block))
    except MathError as error:
        logging.getLogger(__name__).warning("no MathML of %r: %s", node.astext(), error, location=node)
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_mathml, None), (lambda writer, node: _mathml(writer, node, block=True), None))
    return {"parallel_read_safe": True}
