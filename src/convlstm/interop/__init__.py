"""Read and write the weights of ConvLSTM layers of other packages."""

from __future__ import annotations

from convlstm.interop.automan000 import read_automan000
from convlstm.interop.formats import FORMATS, Format, FoundLayer, find_layers, read_file, write_file
from convlstm.interop.haiku import read_haiku
from convlstm.interop.hzzone import read_hzzone
from convlstm.interop.jhhuang96 import read_jhhuang96
from convlstm.interop.kamo import read_kamo
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
    "FoundLayer",
    "Notes",
    "constructor_options",
    "find_layers",
    "read_automan000",
    "read_file",
    "read_haiku",
    "read_hzzone",
    "read_jhhuang96",
    "read_kamo",
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
