"""The pages: `make docs` builds them from these files and the library's docstrings."""

import os
import re
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sphinx.pycode import ModuleAnalyzer

import robustra_tf

project = "robustra_tf"
copyright = "2026, the robustra_tf developers"
author = "The robustra_tf developers"
release = version = robustra_tf.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
highlight_language = "text"
# Docstrings write code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_use_rtype = False
viewcode_line_numbers = True

html_theme = "furo"
html_title = f"robustra_tf {release}"
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
html_css_files = ["wide.css"]
html_static_path = ["_static"]


def _escape(app, what, name, obj, options, lines):
    """Stars in docstrings are meant as they stand, as in the shape [n, *shape]: no emphasis."""
    for number, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [re.sub(r"\*(?=\w)", r"\\*", part) for part in parts[::2]]
        lines[number] = "`".join(parts)


def _one_signature(module):
    """Has a module's functions shown with their defaults, not as type checkers tell calls apart."""
    found = ModuleAnalyzer.for_module(module)
    found.analyze()
    found.overloads.clear()


def setup(app):
    """Sphinx calls this."""
    _one_signature("robustra_tf.certificates.certify")
    app.connect("autodoc-process-docstring", _escape, priority=900)
