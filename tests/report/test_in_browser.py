"""The page in a real Chromium, driven by Playwright, where both are installed: keys, pointer, sizes and print."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from convlstm.report import write_report
from convlstm.report.scales import rgb

sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright in this environment")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
SMALLEST_FONT = 12.0

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Pages of evaluations that differ in nothing but their parts, so that each is written once."""
    return {parts: tmp_path_factory.mktemp("page") / "report.html" for parts in (False, True)}


@pytest.fixture
def load(browser, make_evaluation, written, tmp_path):
    """Open the page of an evaluation; at the end no error may have been seen."""
    errors, contexts = [], []

    def opened(fragment="", width=1400, scheme="light", parts=False, **said):
        path = tmp_path / "report.html" if said else written[parts]
        if said or not path.exists():
            write_report(make_evaluation(parts=parts, **said), path)
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or errors.append(request.url)
        )
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector("html[data-player=ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


def shown(page, player="cases"):
    return page.locator(f"#player-{player}").get_attribute("data-shown")


def wait_until_shown(page, value, player="cases"):
    page.wait_for_selector(f"#player-{player}[data-shown='{value}']")


def is_playing(page, player="cases"):
    return "playing" in page.locator(f"#player-{player}").get_attribute("class").split()


def readings(page, player="cases"):
    return page.locator(f"#player-{player} .reading").all_text_contents()


def point_at(page, row, column, player="cases"):
    field = page.locator(f"#player-{player} .field").first
    field.scroll_into_view_if_needed()
    box = field.bounding_box()
    page.mouse.move(box["x"] + box["width"] * (column + 0.5) / 24, box["y"] + box["height"] * (row + 0.5) / 24)


def test_the_player_starts_at_the_lead_time_of_the_headline(load):
    page = load()
    assert shown(page) == "1/30"
    assert page.locator("#player-cases canvas:visible").count() == 4


def test_the_address_sets_case_and_lead_time(load):
    page = load("#case=2&lead=-5")
    wait_until_shown(page, "2/-5")
    assert page.locator("#player-cases .lead").text_content() == "−5 min"
    assert page.locator("#player-cases .kind").text_content() == "observed input"
    assert page.locator("#player-cases .valid").text_content() == "valid 2018-05-19 23:40 UTC"


def test_an_address_that_names_nothing_is_ignored(load):
    assert shown(load("#case=9&lead=7")) == "1/30"


def test_the_policy_stops_a_strange_script(load, browser, written, tmp_path):
    load()
    path, text = tmp_path / "strange.html", written[False].read_text()
    path.write_text(text.replace("</body>", "<script>document.documentElement.dataset.strange = 1</script></body>"))
    page = browser.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-player=ready]")
    assert page.locator("html").get_attribute("data-strange") is None
    page.close()


def test_it_plays_to_the_end_and_begins_again(load):
    page = load()
    page.evaluate("""() => {
        const player = document.getElementById("player-cases");
        window.seen = [];
        new MutationObserver(() => window.seen.push(Number(player.dataset.shown.slice(2))))
            .observe(player, {attributeFilter: ["data-shown"]});
    }""")
    page.select_option("#player-cases .speed", "4")
    page.click("#player-cases .play")
    seen = []
    for _ in range(100):  # a busy machine may take seconds
        seen = page.evaluate("window.seen")
        if seen and min(seen) < seen[0]:
            break
        page.wait_for_timeout(100)
    assert seen[0] == 60  # the frame after 30 minutes
    assert any(later < earlier for earlier, later in pairwise(seen))


def test_a_higher_speed_shortens_every_frame(load):
    page = load()
    page.evaluate("window.setTimeout = (action, delay) => { window.delay = delay; return 1; }")
    page.click("#player-cases .play")
    normal = page.evaluate("window.delay")
    page.click("#player-cases .play")
    page.select_option("#player-cases .speed", "4")
    page.click("#player-cases .play")
    assert page.evaluate("window.delay") == normal / 4


def test_space_plays_the_maps_in_view_and_does_not_scroll(load):
    page = load()
    page.locator("#player-cases .panels").scroll_into_view_if_needed()
    page.mouse.move(2, 2)  # not over the player
    before = page.evaluate("scrollY")
    page.keyboard.press("Space")
    assert is_playing(page)
    page.keyboard.press("Space")
    assert not is_playing(page)
    assert page.evaluate("scrollY") == before


def test_space_scrolls_where_no_player_is_in_view(load):
    page = load()
    page.evaluate("document.getElementById('curves').scrollIntoView()")
    before = page.evaluate("scrollY")
    page.keyboard.press("Space")
    page.wait_for_timeout(500)
    assert not is_playing(page)
    assert page.evaluate("scrollY") > before


@pytest.mark.parametrize("part", [".frame", ".panels"])
def test_keys_work_where_the_focus_is(load, part):
    page = load()
    page.locator(f"#player-cases {part}").focus()
    page.keyboard.press("Space")
    assert is_playing(page)
    page.keyboard.press("Escape")
    assert not is_playing(page)
    for key, lead in (("Home", -10), ("ArrowRight", -5), ("End", 60), ("ArrowLeft", 30)):
        page.keyboard.press(key)
        wait_until_shown(page, f"1/{lead}")


def test_arrows_home_and_end_work_without_a_focus(load):
    page = load()
    page.locator("#player-cases .panels").scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    for key, lead in (("ArrowLeft", 15), ("Home", -10), ("End", 60)):
        page.keyboard.press(key)
        wait_until_shown(page, f"1/{lead}")
    assert page.evaluate("scrollY") == before


def test_tab_reaches_every_control_with_a_visible_ring(load):
    page = load()
    page.locator("#player-cases .choose").focus()
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.className"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == ["panels", "play", "frame", "speed", "save"]


def test_pointing_reads_the_value_of_the_same_cell_in_every_panel(load, synthetic_cases):
    synthetic_cases["observation"][0, 2, 6, 18] = 7.126
    synthetic_cases["forecast"][2, 0, 2, 6, 18] = 0.3  # convlstm
    synthetic_cases["forecast"][1, 0, 2, 6, 18] = 123.4  # optical flow
    synthetic_cases["forecast"][0, 0, 2, 6, 18] = float("nan")  # persistence
    page = load(cases=synthetic_cases)
    point_at(page, 6, 18)
    assert readings(page) == ["7.13 mm/h", "0.30 mm/h", "123 mm/h", "no data"]
    assert page.locator("#player-cases .position").text_content() == "Cell at row 7, column 19"
    point_at(page, -20, 18)
    assert readings(page) == [""] * 4


def test_a_click_keeps_the_mark_and_keys_move_it(load, synthetic_cases):
    synthetic_cases["observation"][0, 2, 6, 18] = 7.0
    synthetic_cases["observation"][0, 2, 7, 18] = 8.0
    synthetic_cases["observation"][0, 3, 7, 18] = 9.0
    page = load(cases=synthetic_cases)
    page.locator("#player-cases .panels").focus()
    point_at(page, 6, 18)
    page.mouse.down()
    page.mouse.up()
    page.mouse.move(2, 2)
    assert readings(page)[0] == "7.00 mm/h"
    page.keyboard.press("Shift+ArrowDown")
    assert readings(page)[0] == "8.00 mm/h"
    page.keyboard.press("ArrowRight")
    wait_until_shown(page, "1/60")
    assert readings(page)[0] == "9.00 mm/h"
    page.keyboard.press("Escape")
    assert readings(page)[0] == ""


def test_a_tap_reads_the_cell(browser, make_evaluation, tmp_path, synthetic_cases):
    synthetic_cases["observation"][0, 2, 6, 18] = 7.0
    path = write_report(make_evaluation(cases=synthetic_cases), tmp_path / "report.html")
    context = browser.new_context(viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("#player-cases[data-shown]")
    field = page.locator("#player-cases .field").first
    box = field.bounding_box()
    field.tap(position={"x": box["width"] * 18.5 / 24, "y": box["height"] * 6.5 / 24})
    assert readings(page)[0] == "7.00 mm/h"
    context.close()


def test_the_place_is_read_in_the_coordinates_of_the_grid(load, with_grid):
    page = load(cases=with_grid("km"))
    point_at(page, 6, 18)
    assert page.locator("#player-cases .position").text_content() == "Cell at x 136 km, y 34 km"
    page = load(cases=with_grid("degrees"))
    point_at(page, 0, 0)
    assert page.locator("#player-cases .position").text_content() == "Cell at 52.3° N, 1.2° W"


def test_two_players_and_the_focused_one_has_the_keys(load):
    page = load(parts=True)
    page.locator("#player-scores .panels").focus()
    page.keyboard.press("ArrowRight")
    wait_until_shown(page, "1/60", "scores")
    assert shown(page) == "1/30"
    page.evaluate("document.activeElement.blur()")
    page.locator("#player-cases .panels").evaluate("panels => panels.scrollIntoView({block: 'start'})")
    page.keyboard.press("ArrowLeft")
    wait_until_shown(page, "1/15")
    assert shown(page, "scores") == "1/60"


def test_the_score_maps_read_the_score_of_a_block(load):
    page = load(parts=True)
    point_at(page, 0, 0, player="scores")
    assert readings(page, "scores") == ["0.2500", "0.5000", "0.7500"]
    page.select_option("#player-scores .choose", label="RMSE (mm/h)")
    wait_until_shown(page, "7/30", "scores")
    assert readings(page, "scores") == ["1.000 mm/h", "2.000 mm/h", "3.000 mm/h"]
    assert page.locator("#player-scores .colours:visible figcaption").text_content() == "RMSE (mm/h) (0 is perfect)"


def test_a_linked_case_opens_in_the_player(load):
    page = load(parts=True)
    page.locator("summary", has_text="by case").click()
    page.locator("a[data-case='1']").click()
    wait_until_shown(page, "2/30")
    assert page.evaluate("document.activeElement.className") == "panels"
    assert page.locator("#player-cases .panels").evaluate("p => p.getBoundingClientRect().top") > -1


def test_a_view_is_saved_as_an_image_with_all_panels(load):
    page = load()
    with page.expect_download() as waiting:
        page.click("#player-cases .save")
    download = waiting.value
    assert download.suggested_filename == "Case-1-start-2018-05-18-14-05-UTC-+30-min.png"
    data = download.path().read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") >= 4 * 360
    saved = np.asarray(Image.open(download.path()).convert("RGB"))
    assert (saved == rgb("#ffe04a")).all(axis=-1).any()  # rain of 5 to 10 mm/h, in the maps and in the scale


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_canvas_and_still_map_have_the_same_colours(load, scheme):
    page = load(scheme=scheme)
    still, canvas = page.evaluate("""async () => {
        const figure = document.querySelector("#player-cases .panel");
        const canvas = figure.querySelector("canvas");
        const image = figure.querySelector("img");
        image.parentElement.hidden = false;
        await image.decode();
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
        copy.drawImage(image, 0, 0);
        const pixels = (pen) => [...pen.getImageData(0, 0, canvas.width, canvas.height).data];
        return [pixels(copy), pixels(canvas.getContext("2d"))];
    }""")
    assert still == canvas
    brightest = np.max(np.reshape(still, (-1, 4))[:, :3], axis=1)
    assert (np.median(brightest) < 90) == (scheme == "dark")


@pytest.mark.parametrize("width", [320, 400, 800, 1400])
def test_no_width_overflows_and_no_font_is_too_small(load, width):
    page = load(width=width, parts=True)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    sizes = page.evaluate("""() => {
        const sizes = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) {
            const element = walk.currentNode.parentElement;
            if (!walk.currentNode.data.trim() || !element.getBoundingClientRect().width) continue;
            const drawing = element.closest("svg[viewBox]");
            const zoom = drawing ? drawing.getBoundingClientRect().width / drawing.viewBox.baseVal.width : 1;
            sizes.push(parseFloat(getComputedStyle(element).fontSize) * zoom);
        }
        return sizes;
    }""")
    assert len(sizes) > 300
    assert min(sizes) >= SMALLEST_FONT - 0.05


def test_printed_no_heading_is_alone_and_no_table_row_is_cut(load, tmp_path):
    """A heading has something of its section below it on its page: pypdf gives the lines of each page."""
    pypdf = pytest.importorskip("pypdf")
    page = load(parts=True)
    headings = page.locator("h2, h3, summary").all_text_contents()
    path = tmp_path / "report.pdf"
    page.pdf(path=path, format="A4", margin=dict.fromkeys(("top", "bottom", "left", "right"), "15mm"))
    pages = [sheet.extract_text().splitlines() for sheet in pypdf.PdfReader(path).pages]
    assert 5 <= len(pages) <= 20
    last_lines = [[line for line in lines if line.strip()][-1].strip() for lines in pages]
    alone = set(last_lines) & {" ".join(heading.split()) for heading in headings}
    assert alone == set()


def test_without_scripts_the_still_maps_are_there(load, browser, written):
    load()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(written[False].as_uri())
    assert page.locator("#player-cases .field img:visible").count() == 4
    assert page.locator(".controls:visible").count() == 0
    context.close()
