"""The report: one self-contained page made from a folder that `evaluate` wrote. It computes no score."""

from .page import write_report as write_report
