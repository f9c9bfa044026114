"""Sphinx's settings; `make docs` builds the site."""

import sys
import tomllib
from pathlib import Path

import firedrake  # noqa: F401
import irksome  # noqa: F401  before any page makes a form

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "femnn"
author = "The femnn authors"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "docs.site.extension"]
exclude_patterns = ["site"]
templates_path = ["_templates"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

# Other projects' names (no page needs the network, so there is no inventory of them), and what
# docstrings say of their own object.
nitpick_ignore_regex = [
    ("py:.*", r"(firedrake|matplotlib|numpy|pandas|petsc4py|pyadjoint|scipy|torch|ufl|xarray)\..*"),
    ("py:(attr|meth|func)", r"[a-z_]+"),
    ("py:class", "AutoregressiveCovariance|Module"),
]

linkcheck_timeout = 15
linkcheck_retries = 2

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "none"  # numpydoc's sections have them
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = "femnn"
html_static_path = ["_static"]
html_css_files = ["femnn.css"]
html_show_sourcelink = False

html_sidebars = {"index": [], "gallery": []}  # pages without others below them
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc", "notebook"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
copyright = "The femnn authors"
