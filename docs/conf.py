"""How the documentation is built: `./run docs`. Nothing is fetched while it is built or read."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Posterion"
author = "The Posterion developers"
version = release = importlib.metadata.version("posterion")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "api_pages",
    "math_as_mathml",
]
exclude_patterns = ["_build", "gallery", "**/sg_execution_times.rst"]
default_role = "py:obj"
highlight_language = "text"  # of blocks that name no language

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
add_module_names = False

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "within_subsection_order": "FileNameSortKey",
    "doc_module": ("posterion",),
    "download_all_examples": False,
    "show_signature": False,
    "capture_repr": (),
    "remove_config_comments": True,
    "min_reported_time": 1,
    "image_srcset": ["2x"],
    "write_computation_times": False,
}

html_theme = "furo"
html_title = f"Posterion {release}"
html_static_path = ["_static"]
html_css_files = ["posterion.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
