"""A real browser for tests of the page: Debian's chromium, headless, driven by selenium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import axe_core_python
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "no chromium and chromedriver on the PATH: apt-get install chromium chromium-driver"
_AXE = Path(axe_core_python.__file__).parent / "axe.min.js"

_PATIENCE = 280
"""Seconds: a busy machine changes no test's verdict."""


class Browser:
    """Opens pages from disk and remembers every request that they made."""

    def __init__(self, downloads: Path) -> None:
        options = ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = Chrome(options=options, service=Service(DRIVER))
        self.driver.set_script_timeout(_PATIENCE)
        self.driver.set_page_load_timeout(_PATIENCE)
        self.downloads = downloads
        self._command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def open(
        self,
        page: Path,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        scripts: bool = True,
        state: str = "",
        timers: bool = False,
    ) -> None:
        """Open a page from disk, afresh even where only the hash differs.

        With `timers` the page's `timers` has the delays of all timers that it sets, in milliseconds.
        """
        self._command("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[scheme])
        self.driver.get("about:blank")
        for log in ("performance", "browser"):
            self.driver.get_log(log)
        counted = "window.timers = []; const set = setTimeout; window.setTimeout = (f, t) => { timers.push(t); return set(f, t); };"
        kept = (
            self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": counted})
            if timers
            else None
        )
        self.driver.get(page.as_uri() + (f"#{state}" if state else ""))
        if kept is not None:
            self._command("Page.removeScriptToEvaluateOnNewDocument", **kept)

    def run(self, script: str, *arguments: object) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def requests(self) -> Sequence[str]:
        """Addresses that the page asked for, itself included."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def errors(self) -> Sequence[str]:
        """What the page's console complains about."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def violations(self) -> Sequence[str]:
        """What axe-core finds wrong, as rule, help and the places."""
        self.run(_AXE.read_text())
        found: Mapping[str, Any] = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document).then(done, e => done({violations: [{id: String(e), help: '', nodes: []}]}))"
        )
        return [
            f"{rule['id']}: {rule['help']}: {[node['html'][:120] for node in rule['nodes'][:3]]}"
            for rule in found["violations"]
        ]

    def download(self, name: str) -> bytes:
        """What a press on the link of that name saves."""
        self.run("document.querySelector(`a[download='${arguments[0]}']`).click()", name)
        saved = self.downloads / name
        WebDriverWait(self.driver, 20).until(lambda _: saved.exists() and not self._is_loading())
        return saved.read_bytes()

    def _is_loading(self) -> bool:
        return any(self.downloads.glob("*.crdownload"))

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        size = self.run(
            "return [document.documentElement.clientWidth, document.documentElement.scrollHeight]"
        )
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=False,
        )
        self.driver.save_screenshot(str(path))

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()

    def _command(self, name: str, **parameters: object) -> None:
        self.driver.execute_cdp_cmd(name, parameters)
