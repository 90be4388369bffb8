"""The pages in a real browser, driven over the W3C WebDriver protocol."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from fcd.report import comparison
from tests.report.runs import write_run

CHROME = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROME and DRIVER), reason="needs chromium and chromedriver on the PATH"
)
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
PHONE = {"width": 390, "height": 844, "pixelRatio": 1.0}


class Browser:
    def __init__(self, port, profile, phone):
        self.url = f"http://127.0.0.1:{port}"
        options = {"binary": CHROME, "args": [*ARGUMENTS.split(), f"--user-data-dir={profile}"]}
        if phone:
            options["mobileEmulation"] = {"deviceMetrics": PHONE}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.post("/session", {"capabilities": {"alwaysMatch": wanted}})
        self.url += f"/session/{session['sessionId']}"

    def send(self, method, path, value=None):
        data = None if value is None else json.dumps(value).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def post(self, path, value):
        return self.send("POST", path, value)

    def run(self, script):
        return self.post("/execute/sync", {"script": f"return {script}", "args": []})

    def click(self, selector):
        element = self.post("/element", {"using": "css selector", "value": selector})
        self.post(f"/element/{next(iter(element.values()))}/click", {})

    def log(self):
        return self.post("/se/log", {"type": "browser"})


@pytest.fixture(scope="module")
def driver_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL) as process:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5).close()
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield port
        process.terminate()


@pytest.fixture(params=["desktop", "phone"])
def browser(driver_port, tmp_path, request):
    browser = Browser(driver_port, tmp_path / "profile", request.param == "phone")
    yield browser
    browser.send("DELETE", "")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs")
    report = write_run(root / "FCD", biomes=("Forest", "SnowIce", "Water"))
    comparison.compare([root / "FCD"], root, None, 4)
    return {"report": report, "comparison": root / "comparison.html"}


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_loads_without_errors_and_fits_the_screen(browser, pages, name):
    browser.post("/url", {"url": pages[name].as_uri()})
    assert browser.log() == []
    assert browser.run("document.images.length") > 0
    assert browser.run("[...document.images].every(image => image.naturalWidth > 0)")
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("document.querySelectorAll('svg').length") > 1
    ids = browser.run("[...document.querySelectorAll('[id]')].map(part => part.id)")
    assert len(ids) == len(set(ids))


def test_click_on_a_header_sorts_the_table(browser, pages):
    browser.post("/url", {"url": pages["report"].as_uri()})
    table = "[...document.querySelectorAll('table')].at(-2)"
    column = f"[...{table}.tBodies[0].rows].map(row => row.cells[%d].textContent)"
    browser.run(f"{table}.id = 'scenes'")
    scenes = browser.run(column % 0)
    assert scenes == sorted(scenes)

    browser.click("#scenes th:nth-child(3) button")
    accuracies = [float(text) for text in browser.run(column % 2)]
    assert accuracies == sorted(accuracies, reverse=True)
    browser.click("#scenes th:nth-child(3) button")
    accuracies = [float(text) for text in browser.run(column % 2)]
    assert accuracies == sorted(accuracies)

    browser.click("#scenes th:nth-child(7) button")  # recall, not defined without cloud
    recalls = browser.run(column % 6)
    assert recalls[-3:] == ["–"] * 3
    assert "–" not in recalls[:-3]

    browser.click("#scenes th:first-child button")
    assert browser.run(column % 0) == scenes
    assert browser.run("document.querySelectorAll('#scenes [aria-sort]').length") == 1
    assert browser.log() == []
