"""Write the report: one self-contained HTML page of an evaluation. It computes no score."""

from convlstm.report.page import write_report as write_report
