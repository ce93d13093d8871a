"""Pictures of MLflow's pages: the table of cells by the four axes, charts over them, the page that compares them.

    python -m fourfold ui --port 5000 &
    python docs/screenshots.py http://127.0.0.1:5000 docs/images

Needs Chromium with its driver (Debian: chromium, chromium-driver) and the package selenium, which the
project itself does not need. ``--sweep ID`` takes the cells of one sweep (default: the latest).
"""

import argparse
import json
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from fourfold.tracking.views import charts_address, compare_address, table_address

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
ASSISTANT = "[data-component-id='mlflow.assistant.chat_panel.close']"
MOST_COMPARED = 8
CHARTED = ("Fourfold", "Add chart", "units_per_second")
AXES, RATE = ("benchmark", "hardware", "setting", "method"), "units_per_second"
COMPARED = (*AXES, RATE)
SELECT = "du-bois-light-select"  # of MLflow's widgets


def main() -> None:
    """Takes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--experiment", default="fourfold")
    parser.add_argument("--sweep")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    experiment = ask(options.server, f"experiments/get-by-name?experiment_name={options.experiment}")["experiment"]
    identity = experiment["experiment_id"]
    runs = cells(options.server, identity, options.sweep)
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(Path(profile))
        try:
            take(
                browser, table_address(options.server, identity), ["Run Name"], 800, options.folder / "mlflow_table.png"
            )
            charts = charts_address(options.server, identity)
            take(browser, charts, CHARTED, 1300, options.folder / "mlflow_charts.png")
            compare = compare_address(options.server, identity, runs[:MOST_COMPARED])
            take(browser, compare, COMPARED, 2700, options.folder / "mlflow_compare.png", show_axes)
        finally:
            browser.quit()


def cells(server: str, experiment: str, sweep: str | None) -> list[str]:
    """The ids of the runs of a sweep's cells."""
    if sweep is None:
        parents = search(server, experiment, "tags.kind = 'sweep'")
        sweep = next(tag["value"] for tag in parents[0]["data"]["tags"] if tag["key"] == "sweep")
    found = search(server, experiment, f"tags.kind = 'cell' and tags.sweep = '{sweep}'")
    return [run["info"]["run_id"] for run in found]


def search(server: str, experiment: str, words: str) -> list[dict[str, Any]]:
    """Runs, the latest first."""
    body = {"experiment_ids": [experiment], "filter": words, "order_by": ["attributes.start_time DESC"]}
    return ask(server, "runs/search", body).get("runs", [])


def ask(server: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of MLflow's REST interface."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def open_browser(profile: Path) -> webdriver.Chrome:
    """A headless Chromium with a fresh profile."""
    options = Options()
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def show_axes(browser: webdriver.Chrome) -> None:
    """On the page that compares runs: the four axes and the rate in the plot, and their rows in the tables.

    What is the same in all runs is left out of the tables of parameters and metrics; the tags have all four axes.
    """
    parameters, metrics = browser.find_elements(By.CLASS_NAME, SELECT)[:2]
    choose(browser, parameters, AXES)
    choose(browser, metrics, [RATE])
    for header in browser.find_elements(By.CSS_SELECTOR, "[class$='collapse-header']"):
        if header.text.strip() == "Artifacts":  # nothing is chosen there yet, and the tags come after it
            browser.execute_script("arguments[0].click()", header)
    for switch in browser.find_elements(By.CSS_SELECTOR, "button[role='switch']")[:2]:
        browser.execute_script("arguments[0].click()", switch)
    time.sleep(2)  # the tables are drawn anew
    browser.execute_script(SCROLL_TO_ROW, "hardware")
    scroll_to_metric(browser, RATE)


def scroll_to_metric(browser: webdriver.Chrome, name: str) -> None:
    """Turns the wheel over the table of metrics, of which only what is seen exists, until this one's row is there."""
    links = "a[title='Plot chart']"
    seen = browser.find_elements(By.CSS_SELECTOR, links)[3].rect
    over = ScrollOrigin.from_viewport(int(seen["x"]) + 400, int(seen["y"]))
    lowest = int(seen["y"]) + 100
    for _ in range(100):
        ActionChains(browser).scroll_from_origin(over, 0, 90).perform()
        if browser.execute_script(IS_ABOVE, links, name, lowest):
            break
    ActionChains(browser).scroll_from_origin(over, 0, -1).perform()  # names follow one turn behind their values
    time.sleep(2)


IS_ABOVE = """
const [links, name, lowest] = arguments;
const found = [...document.querySelectorAll(links)].find(one => one.textContent.trim() === name);
return Boolean(found) && found.getBoundingClientRect().top < lowest;
"""
# Each table in its own box; the page itself stays where it is.
SCROLL_TO_ROW = """
for (const row of document.querySelectorAll("th[scope='row']")) {
    if (row.textContent.trim() !== arguments[0]) continue;
    let box = row.parentElement;
    while (box && !["auto", "scroll"].includes(getComputedStyle(box).overflowY)) box = box.parentElement;
    if (!box || box.clientHeight > innerHeight / 2) continue;
    box.scrollTop += row.getBoundingClientRect().top - box.getBoundingClientRect().top - 150;
}
"""
# Only the part of a long list that is seen exists: scrolls it on until the option is there.
CLICK_OPTION = """
const [select, name] = arguments;
const option = document.querySelector(`.${select}-item-option[title='${name}']`);
if (option) { option.click(); return true; }
const lists = [...document.querySelectorAll("[class*='virtual-list-holder']")];
const list = lists.find(one => one.scrollHeight > one.clientHeight);
if (list) list.scrollTop += list.clientHeight / 2;
return false;
"""


def choose(browser: webdriver.Chrome, select: WebElement, names: Sequence[str]) -> None:
    """Chooses exactly these in a list of which several can be chosen."""
    while crosses := select.find_elements(By.CLASS_NAME, f"{SELECT}-selection-item-remove"):
        browser.execute_script("arguments[0].click()", crosses[0])
    select.click()
    box = select.find_element(By.CSS_SELECTOR, "input[role='combobox']")
    for name in names:
        box.send_keys(name)
        WebDriverWait(browser, 10).until(lambda page, name=name: page.execute_script(CLICK_OPTION, SELECT, name))
        box.send_keys(Keys.BACKSPACE * len(box.get_attribute("value") or ""))
    box.send_keys(Keys.ESCAPE)


def take(
    browser: webdriver.Chrome,
    address: str,
    awaited: Sequence[str],
    height: int,
    picture: Path,
    prepare: Callable[[webdriver.Chrome], None] = lambda browser: None,
) -> None:
    """Opens a page, waits for all these words on it, closes MLflow's assistant, takes the picture."""

    def complete(page: webdriver.Chrome) -> bool:
        text = page.find_element(By.TAG_NAME, "body").text
        return all(word in text for word in awaited)

    browser.set_window_size(1700, height)
    browser.get(address)
    WebDriverWait(browser, 120).until(complete)
    with suppress(WebDriverException):  # open on the first visit only
        WebDriverWait(browser, 5).until(lambda page: page.find_element(By.CSS_SELECTOR, ASSISTANT)).click()
    prepare(browser)
    with suppress(WebDriverException):  # plots are drawn last
        WebDriverWait(browser, 5).until(lambda page: page.find_element(By.CSS_SELECTOR, ".js-plotly-plot .main-svg"))
    browser.implicitly_wait(1)
    browser.save_screenshot(str(picture))
    with Image.open(picture) as image:
        image.convert("RGB").save(picture, optimize=True)
    print(picture)


if __name__ == "__main__":
    main()
