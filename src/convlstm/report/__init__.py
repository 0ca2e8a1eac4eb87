"""Write the report: one self-contained HTML page of an evaluation. It computes no score."""

from .page import write_report as write_report
