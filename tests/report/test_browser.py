"""The report in a real browser: it draws, it can be used, it stays quiet and offline.

Marked `browser`: needs Chromium, see scripts/install_test_tools.sh; make test-browser.
"""

import json
import time

import pytest

from tests import browser
from tests.report import made_runs
from vit_jax.report.page import write
from vit_jax.report.record import read

pytestmark = pytest.mark.browser
LIGHT, DARK = ("#2f74d0", "#d9512c", "#23905a"), ("#6aa5f2", "#f0805f", "#4fbd86")
EVIL = "<script>document.title='hacked'<"


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Three runs: two that end, one with a name like code that was killed on the way."""
    place = tmp_path_factory.mktemp("runs")
    folders = [
        made_runs.make(place / "fast"),
        made_runs.make(place / "slow", slower=3.0, rate=1e-4),
        made_runs.make(place / EVIL, slower=2.0, until=120, ended=None),
    ]
    with (folders[1] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 201, "train/loss": null}\n{"step": 202, "tr')
    path = place / "report.html"
    write([read(str(folder)) for folder in folders], str(path))
    return path


def panel(driver, name):
    return driver.find_element("css selector", f'.panel[data-name="{name}"]')


def curves(driver, name="train/loss"):
    """Pixels of each run's colour in a panel, as shown."""
    element = panel(driver, name)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    dark = driver.execute_script(
        "return matchMedia('(prefers-color-scheme: dark)').matches"
    )
    pixels = browser.picture(driver, element=element)
    return [browser.count(pixels, colour) for colour in (DARK if dark else LIGHT)]


def quiet(driver):
    """No error, no warning, and nothing asked of any network."""
    assert driver.get_log("browser") == []
    asked = [
        message["params"]["request"]["url"]
        for message in (
            json.loads(entry["message"])["message"]
            for entry in driver.get_log("performance")
        )
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert asked  # the log was kept


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_curves_are_drawn_on_every_screen(driver, report, dark, width):
    browser.show(driver, report, width=width, dark=dark, mobile=width < 600)
    assert min(curves(driver)) > 60
    assert min(curves(driver, "train/mfu")) > 0 or sum(curves(driver, "train/mfu")) > 60
    backdrop = browser.picture(driver)[-1, 2]
    assert (backdrop.max() < 60) == dark
    wide = driver.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width  # nothing to scroll sideways but tables, in their boxes
    quiet(driver)


def test_it_can_be_read_on_a_phone(driver, report):
    browser.show(driver, report, width=390, height=844, mobile=True)
    small = driver.execute_script(
        """return [...document.querySelectorAll('body *')].filter(e =>
             e.childElementCount == 0 && e.textContent.trim() && !e.closest('svg') &&
             e.checkVisibility() && !['SCRIPT', 'STYLE'].includes(e.tagName) &&
             parseFloat(getComputedStyle(e).fontSize) < 11).length"""
    )
    assert small == 0
    assert panel(driver, "train/loss").size["width"] > 340
    quiet(driver)


def test_hover_tells_the_step_and_every_runs_value(driver, report):
    from selenium.webdriver import ActionChains

    browser.show(driver, report)
    svg = panel(driver, "train/loss").find_element("css selector", "svg")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    tip = driver.find_element("id", "tip")
    assert not tip.is_displayed()
    ActionChains(driver).move_to_element_with_offset(svg, -60, 0).perform()
    assert tip.is_displayed()
    said = tip.text
    assert "loss" in said and "step " in said
    rows = tip.find_elements("css selector", "div")
    assert [row.text.split()[0] for row in rows[:2]] == ["fast", "slow"]
    assert EVIL in rows[2].text
    values = [float(row.text.split()[-1]) for row in rows]
    assert values[0] < values[2] < values[1]
    ActionChains(driver).move_to_element(
        driver.find_element("tag name", "h1")
    ).perform()
    assert not tip.is_displayed()
    quiet(driver)


def test_the_legend_takes_runs_out_and_the_axis_changes(driver, report):
    browser.show(driver, report)
    driver.find_elements("css selector", ".legend button")[0].click()
    hidden = curves(driver)
    assert hidden[0] == 0 and min(hidden[1:]) > 60
    driver.find_elements("css selector", ".legend button")[0].click()
    assert min(curves(driver)) > 60

    def ticks():
        texts = panel(driver, "train/loss").find_elements("css selector", "text")
        return [text.text for text in texts]

    by_step = ticks()
    choice = driver.find_element("id", "axis")
    for name, sign in (("epoch", "20"), ("time", "s")):
        choice.find_element("css selector", f"[value={name}]").click()
        assert ticks() != by_step and any(sign in text for text in ticks())
        assert min(curves(driver)) > 60
    driver.find_element("id", "log").click()
    assert min(curves(driver)) > 60
    quiet(driver)


def test_smoothing_keeps_the_raw_curve_in_sight(driver, report):
    browser.show(driver, report)
    driver.execute_script(
        """const s = document.getElementById('smoothing'); s.value = 0.9;
           s.dispatchEvent(new Event('input'))"""
    )
    paths = panel(driver, "train/loss").find_elements("css selector", "path.raw")
    assert len(paths) == 3
    assert not panel(driver, "val/loss").find_elements("css selector", "path.raw")
    quiet(driver)


def test_keys_work_as_well(driver, report):
    browser.show(driver, report)
    chart = panel(driver, "train/loss")
    driver.execute_script("arguments[0].focus()", chart)
    chart.send_keys("\ue012")  # arrow left
    assert driver.find_element("id", "tip").is_displayed()
    chart.send_keys("\ue00c")  # escape
    assert not driver.find_element("id", "tip").is_displayed()
    quiet(driver)


def test_a_value_that_looks_like_code_stays_text(driver, report):
    browser.show(driver, report)
    time.sleep(0.2)
    assert "3 runs" in driver.title
    assert EVIL in driver.find_element("tag name", "table").text
    assert driver.title != "hacked"


def test_pictures_are_seen(driver, report):
    browser.show(driver, report)
    widths = driver.execute_script(
        "return [...document.images].map(image => image.naturalWidth)"
    )
    assert len(widths) == 6 and min(widths) == 1
