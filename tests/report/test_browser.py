"""The page's script in a real Chromium, where one is installed."""

import re
import shutil
import subprocess

import pytest

from convlstm.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=2000"),
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture
def load(make_evaluation, tmp_path):
    """Open the page at a fragment and return the attributes of <html> and the whole DOM."""

    def opened(fragment="", **said):
        path = write_report(make_evaluation(**said), tmp_path / "report.html")
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        url = path.as_uri() + fragment
        done = subprocess.run(
            [CHROMIUM, *QUIET, profile, "--dump-dom", url], capture_output=True, text=True, timeout=120, check=True
        )
        return re.search(r"<html[^>]*>", done.stdout).group(), done.stdout

    return opened


def test_the_player_starts_without_an_error_at_the_headline_s_lead_time(load):
    html, dom = load()
    assert 'data-player="ready"' in html
    assert "data-error" not in html
    assert 'data-shown="1/30"' in html
    assert len(re.findall(r"<canvas[^>]*hidden", dom)) == 0


def test_the_address_sets_case_and_lead_time(load):
    html, dom = load("#case=2&lead=-5")
    assert 'data-shown="2/-5"' in html
    assert ">−5 min</strong>" in dom
    assert ">observed input</span>" in dom
    assert "valid 2018-05-19 23:40 UTC" in dom


def test_an_address_that_names_nothing_is_ignored(load):
    html, _ = load("#case=9&lead=7")
    assert 'data-shown="1/30"' in html
    assert "data-error" not in html
