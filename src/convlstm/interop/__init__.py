"""Read and write the weights of ConvLSTM layers of other packages."""

from __future__ import annotations

from convlstm.interop.formats import FORMATS, Format, read_file, write_file
from convlstm.interop.haiku import read_haiku
from convlstm.interop.keras import read_keras, write_keras
from convlstm.interop.layout import Converted, Notes
from convlstm.interop.linen import read_linen, write_linen
from convlstm.interop.ndrplz import read_ndrplz, write_ndrplz
from convlstm.interop.openstl import read_openstl
from convlstm.interop.tomo_oga import read_tomo_oga
from convlstm.interop.writing import constructor_options

__all__ = [
    "FORMATS",
    "Converted",
    "Format",
    "Notes",
    "constructor_options",
    "read_file",
    "read_haiku",
    "read_keras",
    "read_linen",
    "read_ndrplz",
    "read_openstl",
    "read_tomo_oga",
    "write_file",
    "write_keras",
    "write_linen",
    "write_ndrplz",
]
