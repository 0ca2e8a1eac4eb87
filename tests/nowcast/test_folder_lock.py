"""The lock of an output folder."""

import resource

from convlstm.errors import OutputError
from convlstm.nowcast.folder_lock import locked


def test_a_full_disk_at_the_lock_is_one_line(tmp_path, refused):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with refused(OutputError, str(tmp_path / "run")), locked(tmp_path / "run", "training"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with locked(tmp_path / "run", "training"):
        assert (tmp_path / "run" / ".lock").read_text().isdecimal()
