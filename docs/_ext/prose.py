"""Docstrings of this project are prose: backticks are code, what is indented by four is a formula or code, and a sentence
that begins with the name of an argument and a colon describes it. Here they become reStructuredText.
"""

import inspect
import re

INDENT = 4


def to_rst(text, names=()):
    """reStructuredText of a docstring. names: of the arguments, whose sentences become a list."""
    parts, block, code = [], [], False
    for line in [*inspect.cleandoc(text).splitlines(), ""]:
        indented = line.startswith(" " * INDENT)
        if block and (not line.strip() or indented != code):
            parts.append(_literal(block) if code else _paragraph(block, names))
            block = []
        if line.strip():
            block, code = [*block, line], indented
    return "\n\n".join(parts) + "\n"


def _literal(lines):
    if lines[0].lstrip().startswith(">>>"):
        return inspect.cleandoc("\n".join(lines))
    indent = min(len(line) - len(line.lstrip()) for line in lines) - INDENT
    return "\n".join(["::", "", *(line[indent:] for line in lines)])


def _paragraph(lines, names):
    if not names:
        return inline("\n".join(lines))
    text = " ".join(line.strip() for line in lines)
    name = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    name = rf"(?:{name})(?: \([^)]*\))?"  # with a shape
    starts = rf"(?:(?P<names>{name}(?:, (?:or )?{name})*): |(?=(?:Returns|Raises|Sources?:?) ))"
    found, described = list(re.finditer(rf"(?:^|(?<=[.:;] )){starts}", text)), []
    if not found:
        return inline(text)
    for m, end in zip(found, [*(n.start() for n in found[1:]), len(text)], strict=True):
        words = inline(text[m.end() : end].strip())
        if m["names"]:
            described.append(
                "- " + re.sub(r"\w+", lambda w: f"**{w[0]}**" if w[0] in names else w[0], m["names"]) + ": " + words
            )
        else:
            described.append(f"\n{words}\n")
    return "\n".join([inline(text[: found[0].start()].strip()), "", *described]).strip()


def inline(text):
    """One paragraph: `code` stays code, and nothing else has a meaning."""
    parts = re.split(r"`+([^`]+)`+", text)
    parts[::2] = [re.sub(r"([\\*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{part}``" for part in parts[1::2]]
    joined = parts[0]
    for before, after in zip(parts[1::2], parts[2::2], strict=True):  # a literal ends at a space or at punctuation
        joined += before + ("\\ " if after[:1].isalnum() else "") + after
    return joined


def _docstring(app, what, name, obj, options, lines):
    try:
        names = set(inspect.signature(obj).parameters) - {"self", "args", "kwargs"} if callable(obj) else set()
    except (TypeError, ValueError):
        names = set()
    own = [line for line in lines if not line.startswith("Create new instance of ")]  # what Python says of named tuples
    lines[:] = to_rst("\n".join(own), names).splitlines()


def _skip(app, what, name, obj, skip, options):
    """Fields of named tuples say nothing that the docstring of the class does not say."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True}
