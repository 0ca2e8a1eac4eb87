"""The workflows for CI, wheels, documentation and releases: linted, and in line with the project."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from convlstm.conformance.environments import ENVIRONMENTS

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> dict[str, Any]:
    """Return one workflow."""
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield file, name and content of every job."""
    for path in WORKFLOWS:
        for name, job in read(path.stem)["jobs"].items():
            yield path.stem, name, job


def test_actionlint_finds_nothing() -> None:
    actionlint = shutil.which("actionlint", path=str(Path(sys.executable).parent)) or shutil.which("actionlint")
    if actionlint is None:
        pytest.skip("actionlint is not installed")
    command = [actionlint, "-no-color", *map(str, WORKFLOWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_python_versions_are_those_that_the_project_declares() -> None:
    declared = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert f">={declared[0]}" == PROJECT["requires-python"]
    matrices = {name: job["strategy"]["matrix"] for name, job in read("ci")["jobs"].items() if "strategy" in job}
    assert matrices["install"]["python"] == declared
    assert matrices["test"]["python"] == declared[:-1]  # TensorFlow has no wheels for the last one
    assert matrices["frameworks"]["python"] == [declared[0], declared[-1]]


def test_every_framework_that_can_be_checked_is_in_the_matrix() -> None:
    matrix = read("ci")["jobs"]["frameworks"]["strategy"]["matrix"]
    assert matrix["framework"] == [environment.name for environment in ENVIRONMENTS]
    packages = {entry["framework"]: entry["packages"] for entry in matrix["include"]}
    assert list(packages) == matrix["framework"]
    extras = {extra for command in packages.values() for extra in re.search(r"\[(.+?)\]", command)[1].split(",")}
    assert extras <= set(PROJECT["optional-dependencies"])


def test_workflows_hold_no_secret_and_write_only_where_they_publish() -> None:
    writing = {}
    for file, name, job in jobs():
        permissions = job.get("permissions", {})
        writing |= {(file, name): set(permissions)} if "write" in permissions.values() else {}
    assert writing == {
        ("docs", "deploy"): {"pages", "id-token"},
        ("release", "publish"): {"id-token"},
        ("release", "announce"): {"contents"},
        ("wheels", "publish"): {"id-token"},
    }
    for path in WORKFLOWS:
        assert read(path.stem)["permissions"] == {"contents": "read"}
        assert "secrets." not in path.read_text(encoding="utf-8")


def test_packages_are_published_by_tags_only_in_an_environment() -> None:
    assert read("release")[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key `on` as true
    publish = read("wheels")["jobs"]["publish"]
    assert publish["if"] == "startsWith(github.ref, 'refs/tags/native-v')"
    assert publish["environment"] == read("release")["jobs"]["publish"]["environment"] == "pypi"


def test_actions_are_pinned_by_commit() -> None:
    used = {step["uses"] for _, _, job in jobs() for step in job["steps"] if "uses" in step}
    assert len(used) == len({action.split("@")[0] for action in used}), "one action has two versions"
    used.remove("pypa/gh-action-pypi-publish@release/v1")  # the branch that its authors recommend
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action), action


def test_commands_of_the_workflows_exist() -> None:
    commands = [step["run"] for _, _, job in jobs() for step in job["steps"] if "run" in step]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    made = {word for command in commands for words in re.findall(r"^make (.+)$", command) for word in words.split()}
    assert made == {"check", "check-workflows", "test", "docs", "dist"}
    assert made <= set(targets)
    for command in commands:
        for script in re.findall(r"[\w/]+\.py\b", command):
            assert (ROOT / script).is_file(), script


def test_one_wheel_of_the_operators_is_built_for_each_platform() -> None:
    options = tomllib.loads((ROOT / "native" / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]
    platforms = {"ubuntu-latest": "manylinux_x86_64", "ubuntu-24.04-arm": "manylinux_aarch64"}
    platforms |= {"macos-latest": "macosx_arm64", "windows-latest": "win_amd64"}
    assert read("wheels")["jobs"]["wheel"]["strategy"]["matrix"]["os"] == list(platforms)
    assert options["build"] == [f"cp311-{platform}" for platform in platforms.values()]
