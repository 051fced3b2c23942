"""Formulas as MathML, which browsers draw themselves: no script, no font and no network."""

import re

from docutils import nodes
from latex2mathml import converter
from sphinx.util import logging

logger = logging.getLogger(__name__)
FENCES = re.compile(r"(?<!\\left)\\lVert.*?\\rVert|\\Big\(.*?\\Big\)", re.DOTALL)


def convert(formula: str, **options: str) -> str:
    """MathML; fences and what they hold are one group, so that an index belongs to all of it."""
    drawn = converter.convert(FENCES.sub(lambda found: f"{{{found.group()}}}", formula), **options)
    for unknown in re.findall(r">(\\\w+)", drawn):
        logger.error("%s is not known to the renderer: %s", unknown, formula)
    return drawn


def visit_inline(self, node):
    """One formula in a line of text."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_display(self, node):
    """One formula on lines of its own."""
    self.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app):
    """Registers the renderer and chooses it."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True}
