"""Install the built wheel with one extra at a time in a fresh environment, and run its check in docs/install.md.

    make dist
    python scripts/check_installation.py dist                     # every extra of the page
    python scripts/check_installation.py dist torch nowcast       # these only
    python scripts/check_installation.py dist --python python3.13

pip's own settings apply (`PIP_EXTRA_INDEX_URL`, `PIP_CONSTRAINT`). An environment is deleted after its check. The exit
status is 1 if an installation or a check failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "install.md"
COMMANDS = re.compile(r"^```bash\npip install (.+)\npython -c \"([^\"]+)\"\n```$", re.MULTILINE)
FROM_OUTSIDE = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "KERAS_BACKEND")  # would reach into the environment


@dataclass(frozen=True)
class Check:
    """Two commands of docs/install.md: what pip installs, with an extra first, and a line of Python that uses it."""

    packages: tuple[str, ...]
    code: str

    @property
    def extra(self) -> str:
        """The name of the extra, as in `.[torch]`."""
        return self.packages[0].removeprefix(".[").removesuffix("]")


@dataclass(frozen=True)
class Result:
    """What happened in one environment."""

    extra: str
    python: str
    packages: int
    megabytes: float
    seconds: float
    answer: str
    passed: bool

    def row(self) -> str:
        """Return the result as a row of the table."""
        cells = (self.extra, self.python, self.packages, f"{self.megabytes:.0f}", f"{self.seconds:.0f}", self.answer)
        return f"| {' | '.join(map(str, cells))} |"


def read_checks(page: str) -> list[Check]:
    """Return the checks in the text of docs/install.md."""
    return [Check(tuple(shlex.split(packages)), code) for packages, code in COMMANDS.findall(page)]


def find_wheel(folder: Path) -> Path:
    """Return the wheel of `convlstm` in a folder; exit with an error unless there is exactly one."""
    wheels = list(folder.glob("convlstm-*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{folder}: expected one wheel of convlstm, got {len(wheels)}. Run make dist.")
    return wheels[0].resolve()


def megabytes(folder: Path) -> float:
    """Return the size of all files below a folder in MB."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def check_extra(check: Check, wheel: Path, python: str) -> Result:
    """Install the wheel with an extra into a fresh environment, run the check there, and delete the environment."""
    outside = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}

    def run(*command: str | Path, folder: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=folder, env=outside, capture_output=True, text=True, check=False)

    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "environment"
        own_python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        subprocess.run([python, "-m", "venv", environment], check=True, env=outside)
        packages = [re.sub(r"^\.", lambda _: str(wheel), package) for package in check.packages]
        start = time.monotonic()
        done = run(own_python, "-m", "pip", "install", "--quiet", *packages, folder=folder)
        seconds = time.monotonic() - start
        if done.returncode == 0:
            done = run(own_python, "-c", check.code, folder=folder)
        passed = done.returncode == 0
        version = run(own_python, "-c", "import platform; print(platform.python_version())", folder=folder)
        installed = run(own_python, "-m", "pip", "list", "--format=freeze", folder=folder).stdout.splitlines()
        return Result(
            check.extra,
            version.stdout.strip(),
            len(installed),
            megabytes(environment),
            seconds,
            last_line(done.stdout) if passed else f"failed: {last_line(done.stderr)}",
            passed,
        )


def main() -> int:
    """Check the extras that the command line names, print a table, and return the exit status."""
    checks = {check.extra: check for check in read_checks(PAGE.read_text(encoding="utf-8"))}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the wheel")
    parser.add_argument("extras", nargs="*", help=f"extras to check: {', '.join(checks)} (default: all)")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environments")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.extras) - set(checks))
    if unknown:
        parser.error(f"extras: expected {', '.join(checks)}, got {', '.join(unknown)}")
    wheel = find_wheel(arguments.folder)
    print("| extra | Python | packages | MB | seconds | output of the check |\n|---|---|---|---|---|---|", flush=True)
    failed = False
    for extra in arguments.extras or checks:
        result = check_extra(checks[extra], wheel, arguments.python)
        print(result.row(), flush=True)
        failed |= not result.passed
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
