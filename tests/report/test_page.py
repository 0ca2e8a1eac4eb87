"""The page as a reader's browser gets it: whole, closed to the outside, safe against what its data say."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from convlstm.errors import DataError, OutputError
from convlstm.report import results as results_module
from convlstm.report import write_report

VOID = {"meta", "link", "img", "input", "source"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' {{ 7 * 7 }} & \u2028"


class Page(HTMLParser):
    """Collects elements with their texts, and refuses tags that do not close in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        last = self.open.pop()
        assert last["tag"] == tag, f"</{tag}> closes <{last['tag']}>"

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]

    @property
    def text(self):
        return " ".join(self.all("body")[0]["text"].split())


@pytest.fixture
def report(make_evaluation, tmp_path):
    def make(folder=None, **said):
        path = write_report(folder or make_evaluation(**said), tmp_path / "report.html")
        return path.read_text(encoding="utf-8")

    return make


def test_one_file_that_asks_for_nothing_outside(report):
    text = report()
    page = Page(text)
    assert text.startswith("<!doctype html>")
    for element in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert element.get(name, "#").startswith(("data:", "#")), element
    assert not re.search(r"https?://|@import|url\(", text)
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_policy_admits_exactly_the_page_s_own_script(report):
    page = Page(report())
    (code,) = [s for s in page.all("script") if "type" not in s]
    digest = base64.b64encode(hashlib.sha256(code["text"].encode()).digest()).decode()
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert f"script-src 'sha256-{digest}';" in policy


def test_hostile_words_stay_words(report, make_evaluation, synthetic_cases, synthetic_scores):
    cases = synthetic_cases.assign_coords(method=[HOSTILE, "optical flow", "convlstm"])
    scores = synthetic_scores.replace({"method": {"persistence": HOSTILE}})
    said = dict.fromkeys(("title", "units", "variable", "attribution"), HOSTILE)
    methods = ["convlstm", "optical flow", HOSTILE]
    text = report(cases=cases, scores=scores, facts={HOSTILE: HOSTILE}, methods=methods, **said)
    page = Page(text)
    assert len(page.all("script")) == 3
    assert not [name for element in page.elements for name in element if name.startswith("on")]
    assert {e.get("src", "data:")[:5] for e in page.elements} == {"data:"}
    assert page.all("title")[0]["text"] == HOSTILE
    assert page.all("h1")[0]["text"] == HOSTILE
    assert HOSTILE in page.all("dd")[0]["text"]
    (data,) = [s for s in page.all("script") if s.get("class") == "player-data"]
    assert json.loads(data["text"])["panels"][2] == HOSTILE


def test_every_case_and_method_is_there(report):
    page = Page(report())
    assert [option["text"] for option in page.all("option") if option["text"].startswith("Case")] == [
        "Case 1: start 2018-05-18 14:05 UTC",
        "Case 2: start 2018-05-19 23:45 UTC",
    ]
    (data,) = [s for s in page.all("script") if s.get("class") == "player-data"]
    player = json.loads(data["text"])
    assert [len(case["sheets"]) for case in player["choices"]] == [4, 4]
    stills = [img for img in page.all("img") if "minus observation" in img["alt"]]
    assert len(stills) == 2 * 3 * 4  # cases, methods, lead times
    assert all(img["src"].startswith("data:image/png;base64,") and img["alt"] for img in page.all("img"))


def test_head_says_result_facts_and_attribution(report):
    page = Page(report())
    (sentence,) = [p["text"] for p in page.all("p") if p.get("class") == "sentence"]
    assert sentence.replace("\N{NO-BREAK SPACE}", " ").startswith(
        "30 minutes ahead, ConvLSTM’s CSI at 1 mm/h is 0.45 [0.41,"
    )
    assert [dt["text"] for dt in page.all("dt")][:2] == ["Data", "Parameters"]
    assert [dd["text"] for dd in page.all("dd")][:2] == ["synthetic, made by the tests", "1234"]
    assert "Made up for the tests." in page.text
    assert "windows of 10 × 10 cells" in page.text


def test_tables_on_the_page_carry_the_numbers(report, synthetic_scores):
    page = Page(report())
    cells = {td["text"].replace("\N{NO-BREAK SPACE}", " ") for td in page.all("td")}
    values = synthetic_scores.loc[synthetic_scores["threshold"].notna(), ["value", "lower", "upper"]]
    for value, lower, upper in values.to_numpy():
        assert f"{value:.2f} [{lower:.2f}, {upper:.2f}]" in cells
    best = {b["text"].replace("\N{NO-BREAK SPACE}", " ") for b in page.all("b")}
    assert "0.45 [0.41, 0.50]" in best


def test_without_scripts_the_first_view_stands(report):
    page = Page(report())
    first = [img["alt"] for img in page.all("img")][:4]
    assert first == [
        f"{name}: map of rain rate, lead time 30 minutes"
        for name in ("Observation", "ConvLSTM", "Optical flow", "Persistence")
    ]
    assert all("hidden" in canvas for canvas in page.all("canvas"))


def test_drawings_have_words(report):
    page = Page(report())
    charts = [svg for svg in page.all("svg") if svg.get("class") == "chart"]
    assert len(charts) == 5 * 3 + 3 + 1
    assert all(chart["role"] == "img" and len(chart["aria-label"]) > 10 for chart in charts)
    assert not [
        svg
        for svg in page.all("svg")
        if "aria-label" not in svg and svg.get("aria-hidden") != "true" and "x" not in svg
    ]


def test_a_variable_that_is_no_rain(report, temperature):
    text = report(temperature)
    page = Page(text)
    assert "mm/h" not in text
    assert "30 minutes ahead, ConvLSTM’s typical error (RMSE) is" in page.text
    assert "blue where the forecast is too low, red where it is too high" in page.text
    assert not {"CSI", "POD", "Event"} & {dt["text"] for dt in page.all("dt")}
    assert "What was run" not in page.text
    assert "Loss by training step" not in page.text


def test_samples_that_differ_are_told(report, synthetic_scores):
    note = "not scored on the same number of cells"
    assert note not in report()
    synthetic_scores.loc[synthetic_scores["method"] == "optical flow", "pixels"] = 900
    assert note in report(scores=synthetic_scores)


def test_one_case_one_lead_time_one_method(report, synthetic_cases, synthetic_scores):
    cases = synthetic_cases.isel(case=[0], lead_time=[2], input_time=[2])
    scores = synthetic_scores.query("lead_time == 30")
    page = Page(report(skill={"convlstm": 0.45}, cases=cases, scores=scores))
    assert [select["class"] for select in page.all("select")] == ["speed"]
    assert "Case 1: start 2018-05-18 14:05 UTC" in page.text


def test_missing_everywhere_still_makes_a_page(report, synthetic_cases):
    page = Page(report(cases=synthetic_cases * np.nan, units="K", rain=False, thresholds=()))
    assert len(page.all("canvas")) == 4


def test_four_cases_of_96_cells_and_12_lead_times_stay_below_six_megabytes(report, synthetic_cases):
    """Noise, which does not compress: a real page is far smaller."""
    generator = np.random.default_rng(0)
    cases = synthetic_cases.isel(case=[0, 1, 0, 1], lead_time=np.arange(12) % 4, input_time=np.arange(6) % 3)
    cases = cases.assign_coords(lead_time=np.arange(5.0, 65.0, 5.0), input_time=np.arange(-25.0, 5.0, 5.0))
    cases = cases.pad(y=(0, 72), x=(0, 72))
    cases = cases.map(lambda v: v.copy(data=generator.lognormal(0, 2, v.shape).astype(np.float32)))
    assert len(report(cases=cases).encode()) < 6_000_000


def test_a_folder_that_is_not_one_leaves_the_old_page(make_evaluation, tmp_path):
    old = tmp_path / "report.html"
    old.write_text("old")
    with pytest.raises(DataError, match=r"evaluation\.json: expected a readable JSON file, got no such file"):
        write_report(tmp_path / "nowhere", old)
    assert old.read_text() == "old"
    with pytest.raises(OutputError, match="folder that can be written"):
        write_report(make_evaluation(), old / "inside" / "a-file.html")


def test_the_same_folder_gives_the_same_page(report, make_evaluation):
    folder = make_evaluation()
    assert report(folder) == report(folder)


def test_a_large_page_has_coarser_maps(make_evaluation, monkeypatch, synthetic_cases):
    values = sum(synthetic_cases[name].size for name in ("forecast", "observation", "inputs"))
    monkeypatch.setattr(results_module, "MOST_VALUES", values // 3)
    results = results_module.read_results(make_evaluation())
    assert (results.cells_per_pixel, results.cases.sizes["y"]) == (2, 12)
    assert "mean of 2 × 2 cells" in write_report(make_evaluation(), make_evaluation() / "page.html").read_text()


def test_long_names_and_units_in_titles_and_no_empty_brackets(report):
    page = Page(report(long_name="surface reflectance", units="", rain=False, thresholds=(), parts=True))
    assert "Surface reflectance" in {caption["text"] for caption in page.all("figcaption")}
    assert not [e for e in page.elements if e["tag"] not in ("script", "body", "html") and "()" in e["text"]]
    page = Page(report(long_name="air temperature", units="K", rain=False, thresholds=()))
    assert "Air temperature (K)" in {caption["text"] for caption in page.all("figcaption")}


def test_cases_and_days_are_listed_and_those_with_maps_are_links(report):
    page = Page(report(parts=True))
    links = [a for a in page.all("a") if "data-case" in a]
    assert [(a["text"], a["href"], a["data-case"]) for a in links] == [
        ("2018-05-18 14:05", "#maps-1", "0"),
        ("2018-05-19 23:45", "#maps-2", "1"),
    ]
    captions = [caption["text"] for caption in page.all("caption")]
    assert "CSI at 1 mm/h, 30 minutes ahead, by case" in captions
    assert "CSI at 1 mm/h, 30 minutes ahead, by day" in captions
    assert {"maps-1", "maps-2"} <= {details.get("id") for details in page.all("details")}
