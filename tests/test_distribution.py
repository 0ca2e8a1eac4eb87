"""What is published: the wheel and the source archive, the page on installation, and the conda recipe."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from convlstm import __version__

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "check_installation.py"))
CHECKS = SCRIPT["read_checks"]((ROOT / "docs" / "install.md").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# conda-forge has another name for these; all others have their name on the Python package index in lower case
CONDA_NAMES = {"arch": "arch-py", "cf-xarray": "cf_xarray", "matplotlib": "matplotlib-base", "torch": "pytorch"}


class Built(NamedTuple):
    """The two archives of a build."""

    wheel: Path
    sdist: Path


def package_files() -> set[str]:
    """The files of the package in the repository, relative to `src`."""
    paths = (path for path in (ROOT / "src" / "convlstm").rglob("*") if path.is_file())
    return {path.relative_to(ROOT / "src").as_posix() for path in paths if path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build both archives from a copy of the repository, the wheel from the source archive."""
    pytest.importorskip("build")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*", "build", "dist")
    for name in ("src", "tests", "docs", "benchmarks", "native"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return Built(wheel, sdist)


def metadata(wheel: Path) -> Message:
    """Return the METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def test_wheel_has_the_files_of_the_package_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith(f"convlstm-{__version__}.dist-info/")}
        for name in names:
            assert archive.read(name) == (ROOT / "src" / name).read_bytes(), name
    assert names == package_files()
    assert {"convlstm/py.typed", "convlstm/data/sample/radolan_yw_sample.nc"} <= names
    assert {"convlstm/nowcast/models/rain.safetensors", "convlstm/report/templates/player.js"} <= names
    assert not any("test" in Path(name).name.split("_") for name in names)


def test_wheel_is_for_every_platform_and_declares_what_the_project_says(built: Built) -> None:
    assert built.wheel.name == f"convlstm-{__version__}-py3-none-any.whl"
    head = metadata(built.wheel)
    assert head["Requires-Python"] == PROJECT["requires-python"]
    assert set(head.get_all("Provides-Extra")) == set(EXTRAS)
    assert head["License-Expression"] == "Apache-2.0"
    plain = [requirement for requirement in head.get_all("Requires-Dist") if "extra ==" not in requirement]
    assert sorted(plain) == sorted(PROJECT["dependencies"])
    with zipfile.ZipFile(built.wheel) as archive:
        info = f"convlstm-{__version__}.dist-info"
        assert "convlstm = convlstm.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_source_archive_has_the_package_without_tests(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    package = {name for name in names if name.startswith("src/convlstm/")}
    assert package == {f"src/{name}" for name in package_files()}
    others = {name for name in names - package if not name.startswith("src/convlstm.egg-info/")}
    assert others == {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}


def test_page_on_installation_names_every_extra() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    listed = {name for row in re.findall(r"^\| (`.+?`) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert listed | {check.extra for check in CHECKS} == set(EXTRAS)
    assert {check.extra for check in CHECKS} == {"torch", "keras", "flax", "haiku", "mlx", "nowcast"}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.extra)
def test_check_of_an_installation_runs_and_prints_a_shape(check: Any, tmp_path: Path) -> None:
    module = {"keras": "tensorflow", "nowcast": "xarray"}.get(check.extra, check.extra)
    pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, "-c", check.code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shape = SCRIPT["last_line"](done.stdout)
    assert re.search(r"\d+(, \d+){3,}", shape), shape


def test_installation_script_reports_a_failed_check(tmp_path: Path) -> None:
    """Without packages to install, the check itself fails."""
    check = SCRIPT["Check"](("pip",), "raise SystemExit('no such layer')")
    result = SCRIPT["check_extra"](check, tmp_path / "none.whl", sys.executable)
    assert not result.passed
    assert result.answer == "failed: no such layer"
    assert result.packages >= 1


def test_installation_script_takes_one_wheel_only(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="expected one wheel of convlstm, got 0"):
        SCRIPT["find_wheel"](tmp_path)
    wheel = tmp_path / "convlstm-1.0-py3-none-any.whl"
    wheel.touch()
    (tmp_path / "convlstm_native-1.0-cp311-abi3-linux_x86_64.whl").touch()
    assert SCRIPT["find_wheel"](tmp_path) == wheel


def conda(requirements: list[str]) -> set[str]:
    """Return requirements of the Python package index by their names in conda-forge."""
    pairs = [re.fullmatch(r"([\w.-]+?)(>=[\d.]+)", requirement) for requirement in requirements]
    return {f"{CONDA_NAMES.get(pair[1], pair[1].lower())} {pair[2]}" for pair in pairs if pair}


def test_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__


def test_conda_recipe_has_the_version_and_the_requirements_of_the_project() -> None:
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == __version__
    assert f">={recipe['context']['python_min']}" == PROJECT["requires-python"]
    core, nowcast = recipe["outputs"]
    assert set(core["requirements"]["run"][1:]) == conda(PROJECT["dependencies"])
    limits = set(core["requirements"]["run_constraints"])
    assert limits <= conda(
        [requirement for name in ("torch", "keras", "flax", "haiku", "mlx") for requirement in EXTRAS[name]]
    )
    assert {limit.split()[0] for limit in limits} == {"pytorch", "keras", "jax", "flax", "dm-haiku", "mlx"}
    assert set(nowcast["requirements"]["run"][1:]) == conda(EXTRAS["nowcast"])
    assert len(nowcast["requirements"]["run"]) == len(EXTRAS["nowcast"]) + 1
