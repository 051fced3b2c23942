"""Configuration of the documentation: ``sphinx-build -W --keep-going -b html docs docs/_build/html``."""

import os
import sys
from pathlib import Path

import osrjax

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

HERE = Path(__file__).parent
os.environ["OSRJAX_REPOSITORY"] = str(HERE.parent)  # for pages that show or start its scripts
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(HERE / "_build" / "compiled"))  # pages share programs
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

project, author, release = "osrjax", "the osrjax contributors", osrjax.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "mathml",
    "repository_pages",
    "reference",
]
exclude_patterns = ["_build", "extensions", "static"]
suppress_warnings = ["mystnb.unknown_mime_type", "myst-nb.lexer"]  # the second: code that was not executed is grey

nitpicky = True  # a reference in a docstring that leads nowhere is an error
nitpick_ignore_regex = [
    ("py:(class|exc|obj)", ".*"),  # annotations: JAX and jaxtyping have no pages without a network
    ("py:.*", r"(jax|optax|flax|numpy|grain|scipy)\..*"),
]

myst_enable_extensions = ["dollarmath", "amsmath", "html_image", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = os.environ.get("OSRJAX_DOCS_EXECUTION", "cache")  # "off" for a quick look at the words
nb_execution_timeout = 900
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_kernel_rgx_aliases = {".*": "python3"}
nb_ipywidgets_js = {}
nb_merge_streams = True
nb_output_stderr = "remove"  # progress and notes of the runtime

autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_custom_sections = ["Returns"]  # prose; a colon in it does not end a type
python_maximum_signature_line_length = 88

html_theme = "sphinx_book_theme"
html_title = f"osrjax {release}"
html_theme_options = {
    "show_navbar_depth": 1,
    "navigation_depth": 2,  # no page lies deeper; to walk on, down to headings, takes a fifth of the build
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_static_path, html_css_files = ["static"], ["osrjax.css"]
html_copy_source = False
