"""Sphinx's settings for the site; notebooks/site/build.py prepares the folder of pages that it reads."""

import re

project = "apo_edu"
author = "the apo_edu authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_static"]
root_doc = "index"

nb_execution_mode = "off"  # build.py ran them
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_number_source_lines = False
myst_enable_extensions = ["dollarmath", "amsmath", "html_image", "deflist"]
myst_dmath_double_inline = True  # a displayed formula inside a paragraph
myst_heading_anchors = 3
# A link to a file that is no page stays a link in the repository's own words.
suppress_warnings = ["myst.header", "myst.xref_missing", "mystnb.unknown_mime_type"]

mathjax_path = "mathjax/tex-svg.js"
mathjax_options = {"defer": "defer"}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
highlight_language = "none"  # an indented block is as often a formula as Python
napoleon_google_docstring = True
napoleon_custom_sections = [("Fields", "params_style")]
add_module_names = False
default_role = "py:obj"  # `name` in a docstring is code, and a link where it is ours

html_theme = "pydata_sphinx_theme"
html_title = "apo_edu"
html_static_path = ["_static"]
html_css_files = ["strip.css", "site.css"]
html_js_files = [("questions.js", {"defer": "defer"}), ("strip.js", {"defer": "defer"}),
                 ("reading.js", {"defer": "defer"})]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # excerpts are fetched, which a browser refuses from a file
html_last_updated_fmt = None
html_context = {"default_mode": "auto"}
html_sidebars = {name: [] for name in ("index", "map", "glossary")}  # pages without pages below them
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": {"lessons/*": [], "assignments/*": [], "api/*": ["page-toc"], "results/*": []},
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copyright = "the apo_edu authors; Apache-2.0"
language = "en"


def as_restructured_text(app, what, name, thing, options, lines: list[str]) -> None:
    """What the docstrings leave to the eye: an indented block is verbatim, and a class's "name: meaning" lines are fields."""
    known = set(getattr(thing, "__annotations__", ())) if what == "class" else set()
    told, part = [], ""  # the part that a line belongs to: "", "block", "fields", or a section such as "Args:"
    for line, before in zip(lines, ["", *lines], strict=False):
        names = re.match(r"([a-z]\w*(?:, [a-z]\w*)*): \S", line)
        if line and not line.startswith(" "):
            field = bool(names) and set(names[1].split(", ")) <= known
            if field and part != "fields":
                told += ["", "Fields:"]
            part = "fields" if field else line if re.fullmatch(r"[A-Z][\w, ]+:", line) else ""
        elif line and not part and not before.strip():
            told += ["::", ""]
            part = "block"
        told.append(f"    {line}" if part == "fields" else line)
    lines[:] = told


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon's 500
