"""The container and the service: linted where the linter is installed, and what they must contain everywhere."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from convlstm.cli.app import app

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
SERVICE = ROOT / "deploy" / "convlstm-watch.service"


def service_lines():
    """The settings of the service, as pairs."""
    lines = SERVICE.read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("=", 1)) for line in lines if "=" in line and not line.startswith("#")]


def options_of(name):
    """The options of a command."""
    import typer

    command = typer.main.get_command(app).commands[name]
    return {option for parameter in command.params for option in parameter.opts if option.startswith("-")}


def test_hadolint_finds_nothing_in_the_dockerfile():
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_systemd_accepts_the_service_and_calls_it_safe(tmp_path):
    systemd = shutil.which("systemd-analyze")
    if systemd is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / SERVICE.name
    # the program must exist for this check
    unit.write_text(SERVICE.read_text(encoding="utf-8").replace("/opt/convlstm/bin/convlstm", shutil.which("true")))
    done = subprocess.run([systemd, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    command = [systemd, "security", "--offline=true", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(exposure[1]) < 1.5


def test_the_container_runs_the_watch_as_a_user_without_rights_and_checks_its_health():
    text = DOCKERFILE.read_text(encoding="utf-8")
    last_stage = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", last_stage, re.MULTILINE)
    assert last_stage.index("USER") < last_stage.index("ENTRYPOINT")
    assert re.search(r'HEALTHCHECK .*\\\n\s+CMD \["convlstm", "health", "/data/forecasts"\]', last_stage)
    assert re.search(r'^CMD \["watch", "/data/incoming", "--output", "/data/forecasts"\]$', last_stage, re.MULTILINE)
    assert '${TORCH_INDEX:+--index-url "$TORCH_INDEX"}' in text
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists()
            assert f"!{name}\n" in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    extras = re.search(r"'\.\[(.+?)\]'", text)[1].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(extras) <= set(project["project"]["optional-dependencies"])


def test_the_service_stops_as_the_watch_does_and_restarts_it():
    settings = dict(service_lines())
    assert settings["KillSignal"] == "SIGTERM"
    assert settings["Restart"] == "on-failure"
    assert int(settings["TimeoutStopSec"]) >= 60
    assert settings["User"] != "root"
    assert settings["ProtectSystem"] == "strict"
    words = settings["ExecStart"].split()
    assert words[:2] == ["/opt/convlstm/bin/convlstm", "watch"]
    assert {word for word in words if word.startswith("--")} <= options_of("watch")
    written = [words[words.index("--output") + 1], words[words.index("--log-file") + 1]]
    assert written[0].startswith(f"/var/lib/{settings['StateDirectory']}/")
    assert written[1].startswith(f"/var/log/{settings['LogsDirectory']}/")
