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
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from fourfold.tracking.views import charts_address, compare_address, table_address

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
ASSISTANT = "[data-component-id='mlflow.assistant.chat_panel.close']"
MOST_COMPARED = 8
CHARTED = ("Fourfold", "Add chart", "units_per_second")
COMPARED = ("benchmark", "hardware", "setting", "method", "units_per_second")


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
            take(browser, compare, COMPARED, 2600, options.folder / "mlflow_compare.png", show_differences)
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


def show_differences(browser: webdriver.Chrome) -> None:
    """Leaves out of the comparison what is the same in all runs."""
    for switch in browser.find_elements(By.CSS_SELECTOR, "button[role='switch']"):
        browser.execute_script("arguments[0].click()", switch)


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
    prepare(browser)
    with suppress(WebDriverException):  # open on the first visit only
        WebDriverWait(browser, 5).until(lambda page: page.find_element(By.CSS_SELECTOR, ASSISTANT)).click()
    with suppress(WebDriverException):  # plots are drawn last
        WebDriverWait(browser, 5).until(lambda page: page.find_element(By.CSS_SELECTOR, ".js-plotly-plot .main-svg"))
    browser.implicitly_wait(1)
    browser.save_screenshot(str(picture))
    print(picture)


if __name__ == "__main__":
    main()
