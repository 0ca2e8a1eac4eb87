"""The Python in the README and the docs runs as it stands."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from convlstm.cli.main import run
from convlstm.nowcast.config_text import read_config
from convlstm.weights.checkpoint import load_model

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def code_of(page: Path) -> str:
    return "\n".join(BLOCK.findall(page.read_text(encoding="utf-8")))


# Keras copies variables of TensorFlow to NumPy 2 in its old form
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page)], ids=lambda page: page.name)
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = code_of(page)
    exec(compile(code, str(page), "exec"), {"__name__": "page"})  # noqa: S102 (our own pages)
    assert code.strip()


MIGRATING = [
    page for page in PAGES if page.parent.name == "migrating" and "old = {" in page.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("page", MIGRATING, ids=lambda page: page.stem)
def test_commands_and_new_imports_of_a_migration_page_run(page, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    text, values = page.read_text(encoding="utf-8"), {"__name__": "page"}
    exec(compile(code_of(page), str(page), "exec"), values)  # noqa: S102
    imports = re.findall(r"^\+(from convlstm.*)$", text, re.MULTILINE)
    for line in imports:
        exec(line, values)  # noqa: S102
    commands = re.findall(r"^convlstm (convert .*)$", text, re.MULTILINE)
    for command in map(shlex.split, commands):
        torch.save({"state_dict": values["old"]}, command[1])
        assert run(command) == 0
        if "-o" in command:
            assert load_model(command[command.index("-o") + 1]).weights
    assert imports
    assert commands


def test_links_of_the_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http", "mailto")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_tables_of_the_options_follow_the_specs():
    script = runpy.run_path(str(ROOT / "scripts" / "options_table.py"))
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert script["update"](page) == page, "run python scripts/options_table.py"


def test_configurations_of_the_pages_are_valid(tmp_path):
    found = 0
    for page in PAGES:
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            path = tmp_path / "config.yaml"
            path.write_text(block, encoding="utf-8")
            read_config(path)
            found += 1
    assert found


def test_the_lower_limits_of_the_security_page_are_those_of_the_package():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## Lower limits")[2]
    package = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    limits = dict(re.findall(r"^\| ([a-z0-9-]+) \| ([\d.]+) \|", page, re.MULTILINE))
    assert len(limits) >= 6
    for name, version in limits.items():
        assert set(re.findall(rf'"{name}>=([\d.]+)', package)) == {version}
    assert "lightning-fabric>=2.5,!=2.6.2,!=2.6.3" in package
