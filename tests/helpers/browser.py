"""Chromium in a test, and the server that it looks at: what a reader does, sees and is not meant to notice.

Wants Debian's chromium, chromedriver and npm. Where one is missing the test says how to get it; with
LATEWOOD_BROWSER=1, as in CI, that is a failure.
"""

import asyncio
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import uvicorn
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from retriever.serving import ServeSettings, create_app

__all__ = ["Faults", "Page", "Server", "axe_script", "open_browser", "serving"]

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-first-run",
    "--lang=en",
]
# Held at a version and its bytes: a rule that is new may find what this version did not.
AXE = "axe-core@4.14.1"
AXE_SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
PATIENCE = 20.0


def wanting(what: str, remedy: str) -> Any:
    told = f"{what} is not installed; {remedy}"
    return pytest.fail(told) if os.environ.get("LATEWOOD_BROWSER") else pytest.skip(told)


# The server ---------------------------------------------------------------------------------------------------------


class Faults:
    """The application, with what a network and a loaded server do to it. delay: seconds that what is under /v1/ takes.
    busy: how many searches are refused by 503."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.clear()

    def clear(self) -> None:
        self.delay, self.busy = 0.0, 0
        self.expected = {503}

    def expect(self, status: int) -> None:
        """A status that the console may tell of; 0 for no answer."""
        self.expected.add(status)

    def explain(self, entry: dict[str, Any]) -> bool:
        """Whether an entry of the console is of a request that was meant to fail."""
        text = entry["message"]
        said = {status for status in self.expected if f"status of {status}" in text}
        return entry["source"] == "network" and bool(said or (0 in self.expected and "net::ERR_" in text))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if path.endswith("/search") and self.busy:
            self.busy -= 1
            await send({"type": "http.response.start", "status": 503, "headers": [(b"retry-after", b"1")]})
            await send({"type": "http.response.body", "body": b""})
            return
        if path.startswith("/v1/"):
            await asyncio.sleep(self.delay)
        await self.app(scope, receive, send)


class Server:
    def __init__(self, url: str, faults: Faults) -> None:
        self.url = url
        self.faults = faults


@contextmanager
def serving(indexes: dict[str, Path], **settings: Any) -> Iterator[Server]:
    """A server of these indexes on a free port of this machine."""
    faults = Faults(create_app(ServeSettings(indexes, **settings)))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(faults, log_level="error", lifespan="on"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        until = time.monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < until, "the server did not start in time"
            time.sleep(0.02)
        try:
            yield Server(f"http://127.0.0.1:{listening.getsockname()[1]}/", faults)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


# The browser --------------------------------------------------------------------------------------------------------


@contextmanager
def open_browser(profile: Path) -> Iterator[webdriver.Chrome]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        wanting("Chromium", "apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield opened
    finally:
        opened.quit()


def axe_script(cache: Any) -> str:
    """axe-core's script, from npm, kept in pytest's cache."""
    folder = Path(cache.mkdir("axe-core"))
    packed = folder / (AXE.replace("@", "-") + ".tgz")
    if not packed.is_file():
        npm = shutil.which("npm") or wanting("npm", "apt-get install npm")
        with tempfile.TemporaryDirectory(dir=folder) as beside:  # several processes may come here at once
            command = [npm, "pack", "--silent", AXE]
            subprocess.run(command, cwd=beside, check=True, capture_output=True, timeout=120)
            (Path(beside) / packed.name).replace(packed)
    assert hashlib.sha256(packed.read_bytes()).hexdigest() == AXE_SHA256
    with tarfile.open(packed) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


class Page:
    """The page as a reader has it before them."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        self.own = {urlsplit(url).netloc}
        self._events: list[dict[str, Any]] = []

    # What a reader does ---------------------------------------------------------------------------------------

    def fresh(self) -> None:
        """Nothing is remembered, in a window of usual size."""
        self.driver.get("about:blank")
        self.size(1200, 900)
        self.scheme("light")
        self.online()
        self.console()
        self.driver.get_log("performance")
        self._events = []

    def open(self, search: str) -> None:
        # A script may not carry the last page's state along.
        self.driver.get("about:blank")
        self.driver.get(self.url + quote(search, safe="?=&+%./:"))

    def reload(self) -> None:
        self.driver.refresh()

    def back(self) -> None:
        self.driver.back()

    def forward(self) -> None:
        self.driver.forward()

    def type(self, text: str) -> None:
        self.one("#query").send_keys(text)

    def clear(self) -> None:
        self.one("#query").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, selector: str) -> None:
        for _ in range(40):
            self.press(Keys.TAB)
            if self.focused(selector):
                return
        raise AssertionError(f"Tab does not lead to {selector}")

    def hover(self, element: Any) -> None:
        ActionChains(self.driver).move_to_element(element).perform()

    def choose(self, name: str, value: str, form: str = "#filters ") -> None:
        field = next(
            one
            for one in self.all(f"{form}select")
            if name in (one.get_attribute("name"), one.get_attribute("id"))
        )
        Select(field).select_by_visible_text(value)

    def size(self, width: int, height: int, scale: float = 1) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def online(self, is_online: bool = True) -> None:
        self.driver.execute_cdp_cmd("Network.enable", {})
        conditions = {
            "offline": not is_online,
            "latency": 0,
            "downloadThroughput": -1,
            "uploadThroughput": -1,
        }
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)

    # What is seen ---------------------------------------------------------------------------------------------

    def until(self, seen: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if seen():
                    return
            except (StaleElementReferenceException, IndexError):
                pass
            if time.monotonic() > end:
                raise AssertionError(f"not seen in {PATIENCE:g} s:\n{self.one('body').text}")
            time.sleep(0.02)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Text of an element that is shown; nothing where there is none."""
        return " ".join(one.text for one in self.all(selector)[:1])

    def value(self) -> str:
        return self.one("#query").get_attribute("value")

    def titles(self) -> list[str]:
        return [
            str(one)
            for one in self.script(
                "return [...document.querySelectorAll('.hit h2 a')].map((a) => a.textContent)"
            )
        ]

    def ids(self) -> list[str]:
        return [
            str(one)
            for one in self.script(
                "return [...document.querySelectorAll('.hit h2 a')].map((a) => a.dataset.doc)"
            )
        ]

    def scores(self) -> list[str]:
        return [one.text for one in self.all(".hit .score")]

    def marks(self, within: str) -> list[tuple[str, float]]:
        """Text and share of each tinted part, in order."""
        found = self.script(
            """return [...document.querySelectorAll(arguments[0] + " mark")]
            .map((mark) => [mark.textContent, Number(mark.style.getPropertyValue("--share"))])""",
            within,
        )
        return [(text, share) for text, share in found]

    def lines(self, within: str) -> list[tuple[int, str]]:
        """Number and text of each line of code."""
        found = self.script(
            """return [...document.querySelectorAll(arguments[0] + " .line")]
            .map((line) => [Number(line.dataset.line), line.textContent.replace(/\\n$/, "")])""",
            within,
        )
        return [(number, text) for number, text in found]

    def focused(self, selector: str) -> bool:
        return bool(self.script("return document.activeElement.matches(arguments[0])", selector))

    def parameters(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.driver.current_url).query)

    def accessibility(self) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = self.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        return nodes

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def module(self, file: str, name: str, *arguments: Any) -> Any:
        """What an exported function of the page's gives."""
        self.open("?")
        return self.driver.execute_async_script(
            """const [file, name, values, done] = arguments;
            import(`/page/${file}`).then((module) => done(module[name](...values)))""",
            file, name, list(arguments),
        )  # fmt: skip

    # What is not meant to be noticed --------------------------------------------------------------------------

    def console(self) -> list[dict[str, Any]]:
        """Entries since the last call."""
        return list(self.driver.get_log("browser"))

    def events(self) -> list[dict[str, Any]]:
        """Of the network, since `fresh`."""
        for entry in self.driver.get_log("performance"):
            self._events.append(json.loads(entry["message"])["message"])
        return self._events

    def urls(self) -> list[str]:
        return [
            e["params"]["request"]["url"] for e in self.events() if e["method"] == "Network.requestWillBeSent"
        ]

    def sent(self, ending: str) -> int:
        """Requests for paths that end so."""
        return sum(urlsplit(url).path.endswith(ending) for url in self.urls())

    def cancelled(self) -> int:
        return sum(
            e["method"] == "Network.loadingFailed" and e["params"].get("canceled", False)
            for e in self.events()
        )

    def check_requests(self) -> None:
        """Nothing was asked of another host."""
        elsewhere = {
            url for url in self.urls() if urlsplit(url).netloc not in self.own and url != "about:blank"
        }
        assert elsewhere == set()
