"""Figures and pages to HTML: one self-contained file a run, made from the plain files of its directory.

A page loads nothing from anywhere, reads on a telephone and on paper, and says of each figure
which file it comes from. Nothing here touches a model: what no file records is left out by name.
"""

from firstlight.report.chart import Level, Mark, Series, line_chart
from firstlight.report.run_page import write_run_report

__all__ = ["Level", "Mark", "Series", "line_chart", "write_run_report"]
