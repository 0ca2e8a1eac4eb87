"""Read gridded sequences, transform them for a model, and cut them into windows and batches."""

from .batches import Batch as Batch
from .batches import Batches as Batches
from .batches import OrderedBatches as OrderedBatches
from .frames import Frames as Frames
from .missing import carry_forward as carry_forward
from .readers import open_frames as open_frames
from .sample import sample_path as sample_path
from .transforms import Identity as Identity
from .transforms import LogRain as LogRain
from .transforms import Reflectivity as Reflectivity
from .transforms import Standard as Standard
from .transforms import Transform as Transform
from .transforms import transform_from_dict as transform_from_dict
from .units import RAIN_RATE as RAIN_RATE
from .units import REFLECTIVITY as REFLECTIVITY
from .units import dbz_to_mm_per_hour as dbz_to_mm_per_hour
from .units import mm_per_hour_to_dbz as mm_per_hour_to_dbz
from .windows import find_windows as find_windows
from .windows import split_days as split_days
from .windows import windows_within as windows_within
