"""The page's script in a real Chromium, where one is installed."""

import re
import shutil
import subprocess
from itertools import pairwise

import pytest

from convlstm.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=6000"),
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture
def load(make_evaluation, tmp_path):
    """Open the page at a fragment and return the attributes of <html> and the whole DOM."""

    def opened(fragment="", script="", **said):
        path = write_report(make_evaluation(**said), tmp_path / "report.html")
        if script:  # the page's policy forbids strange scripts, so this copy goes without it
            page = re.sub(r"<meta http-equiv[^>]*>", "", path.read_text())
            path.write_text(page.replace("</body>", f"<script>setTimeout(() => {{{script}}}, 500)</script></body>"))
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


def test_the_policy_stops_a_strange_script(make_evaluation, load, tmp_path):
    path = write_report(make_evaluation(), tmp_path / "report.html")
    page = path.read_text()
    path.write_text(page.replace("</body>", "<script>document.documentElement.dataset.strange = 1</script></body>"))
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert 'data-player="ready"' in done.stdout
    assert "data-strange" not in done.stdout


def test_it_plays_to_the_end_and_begins_again(load):
    """The frames seen are written down as they come, since a busy machine may skip some."""
    watch = """
        const root = document.documentElement;
        root.dataset.seen = "";
        new MutationObserver(() => { root.dataset.seen += root.dataset.shown + " "; })
            .observe(root, {attributeFilter: ["data-shown"]});
        document.getElementById("play").click();
    """
    html, _ = load(script=watch)
    assert "data-error" not in html
    seen = re.search('data-seen="([^"]*)"', html).group(1).split()
    leads = [int(shown.removeprefix("1/")) for shown in seen]
    assert len(set(leads)) >= 3
    assert leads[0] == 60  # the frame after 30 minutes
    assert any(later < earlier for earlier, later in pairwise(leads))


def test_arrow_keys_step(load):
    press = """
        for (const key of ["ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowRight"])
            document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
    """
    html, _ = load(script=press)
    assert 'data-shown="1/5"' in html  # from 30 minutes: 15, 5, 0, and 5 again


def test_pointing_reads_the_same_cell_in_every_panel(load, synthetic_cases):
    synthetic_cases["observation"][0, 2, 6, 18] = 7.0
    synthetic_cases["forecast"][2, 0, 2, 6, 18] = 0.3  # convlstm
    synthetic_cases["forecast"][1, 0, 2, 6, 18] = 0.0  # optical flow
    synthetic_cases["forecast"][0, 0, 2, 6, 18] = float("nan")  # persistence
    point = """
        const box = document.querySelector(".field").getBoundingClientRect();
        const place = {clientX: box.left + box.width * 18.5 / 24, clientY: box.top + box.height * 6.5 / 24};
        document.querySelector(".field").dispatchEvent(new PointerEvent("pointermove", place));
    """
    _, dom = load(script=point, cases=synthetic_cases)
    readings = re.findall(r'<output class="reading"[^>]*>([^<]*)</output>', dom)
    assert readings == ["5 to 10 mm/h", "0.2 to 0.5 mm/h", "below 0.1 mm/h", "no data"]
