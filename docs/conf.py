"""The site: `make docs` builds it, strictly, into build/site."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0")  # else TensorFlow speaks of itself

import cvxlayers

project, author, copyright = "cvxlayers", "the cvxlayers authors", "the cvxlayers authors; Apache-2.0"
version = release = cvxlayers.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design", "sphinx-mathjax-offline"]
extensions += ["prose", "gallery", "talk"]  # our own, in _ext
exclude_patterns = ["_ext", "figures"]
nitpicky = True
smartquotes = False  # x' is a transpose
highlight_language = "none"  # of what is indented: formulas

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the extension talk has run them

autoclass_content = "both"  # the constructor beside the class
autodoc_typehints = "none"  # the docstrings say what things are
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # what torch says of its modules

html_theme = "furo"
html_title = "cvxlayers"
html_static_path, html_favicon = ["_static"], "_static/favicon.svg"
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1668b3", "color-brand-content": "#1668b3"},
    "dark_css_variables": {"color-brand-primary": "#7db8f0", "color-brand-content": "#7db8f0"},
}
copybutton_exclude = ".linenos, .gp, .go"
