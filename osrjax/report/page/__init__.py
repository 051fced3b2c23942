"""One HTML file that shows a run, a sweep, a comparison or a benchmark; opened from disk, it asks nobody for anything.

Figures are those of Bokeh (the extra ``page``), put into the file with its script. Why Bokeh: of the libraries whose
figures can be looked into it is the one that is maintained, draws known and unknown with hatching and markers, and
comes with a script of 1.3 MB (Plotly's has 4.8 MB, Altair's needs a package of 34 MB, ECharts a network). Installed it
takes 41 MB, hence an extra: without it a page shows the pictures that the run has drawn.

Whatever comes from a file is escaped, and the page's own policy lets no other script run and loads nothing.
"""

from osrjax.report.page.write import leave_page, write_page

__all__ = ["leave_page", "write_page"]
