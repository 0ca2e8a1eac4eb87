"""Read gridded sequences, transform them for a model, and cut them into windows and batches."""

from convlstm.data.batches import Batch as Batch
from convlstm.data.batches import Batches as Batches
from convlstm.data.batches import OrderedBatches as OrderedBatches
from convlstm.data.frames import Frames as Frames
from convlstm.data.missing import carry_forward as carry_forward
from convlstm.data.readers import open_frames as open_frames
from convlstm.data.sample import sample_path as sample_path
from convlstm.data.transforms import Identity as Identity
from convlstm.data.transforms import LogRain as LogRain
from convlstm.data.transforms import Reflectivity as Reflectivity
from convlstm.data.transforms import Standard as Standard
from convlstm.data.transforms import Transform as Transform
from convlstm.data.transforms import transform_from_dict as transform_from_dict
from convlstm.data.units import RAIN_RATE as RAIN_RATE
from convlstm.data.units import REFLECTIVITY as REFLECTIVITY
from convlstm.data.units import dbz_to_mm_per_hour as dbz_to_mm_per_hour
from convlstm.data.units import mm_per_hour_to_dbz as mm_per_hour_to_dbz
from convlstm.data.windows import find_windows as find_windows
from convlstm.data.windows import split_days as split_days
from convlstm.data.windows import windows_within as windows_within
