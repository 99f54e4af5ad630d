"""HTML reports of runs: one self-contained file per run, rendered from the files of its directory.

A page loads no external resources, works on phones and in print, and names the file that each value comes from.
Nothing here loads a model: what no file records is left out, and listed as missing.
"""

from firstlight.report.chart import Level, Mark, Series, line_chart
from firstlight.report.run_page import write_run_report

__all__ = ["Level", "Mark", "Series", "line_chart", "write_run_report"]
