"""Chromium, as Debian has it, driven by selenium: what a reader of the page does and sees."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.support import wait_until

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
SECONDS = 60.0  # a deadline, not a pace: a machine under load may take long
MISSING = "the tests of the page need Chromium and its driver: apt-get install chromium chromium-driver"


class Browser:
    """One window."""

    def __init__(self, scripts: bool = True) -> None:
        if not (shutil.which(CHROMIUM) and shutil.which(DRIVER)):
            pytest.skip(MISSING)
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (
            "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
            "--force-device-scale-factor=1", "--lang=en-GB", "--disable-background-networking",
        ):  # fmt: skip
            options.add_argument(argument)
        if not scripts:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        self.driver.set_page_load_timeout(SECONDS)
        self.base = ""
        self.size(1280, 800)

    def size(self, width: int, height: int = 800) -> None:
        """The size of what shows the page, in px."""
        self._devtools(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def scheme(self, name: str) -> None:
        """light or dark."""
        self._devtools("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": name}]})

    def hide(self, hidden: bool) -> None:
        """Says to the page that its tab is hidden, or is seen again."""
        self.script(
            "Object.defineProperty(document, 'hidden', {configurable: true, get: () => arguments_[0]});"
            "document.dispatchEvent(new Event('visibilitychange'));".replace("arguments_[0]", str(hidden).lower())
        )

    def open(self, path: str) -> "Browser":
        """Goes to an address of the page."""
        self.driver.get(self.base + path)
        return self

    def forget(self) -> None:
        """Nobody is logged in any more."""
        self.driver.delete_all_cookies()

    @property
    def path(self) -> str:
        """Where the browser is."""
        return self.driver.current_url.removeprefix(self.base)

    @property
    def title(self) -> str:
        """The first heading."""
        return self.one("h1").text

    @property
    def text(self) -> str:
        """What one can read."""
        return str(self.script("return document.body.innerText"))

    @property
    def complaints(self) -> list[str]:
        """What the browser has complained of since it was asked last: refused scripts and styles, and errors."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")  # type: ignore[no-untyped-call]
            if entry["level"] in ("SEVERE", "WARNING") and "status of 4" not in entry["message"]
        ]

    def all(self, selector: str) -> list[WebElement]:
        """The elements that a selector finds."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The first of them; waits for it."""
        found: WebElement = wait_until(lambda: next(iter(self.all(selector)), None), SECONDS, selector)
        return found

    def wait(self, condition: Callable[[], Any], what: str = "") -> Any:
        """Waits until something is so; elements that are replaced meanwhile are looked for again."""

        def holds() -> Any:
            try:
                return condition()
            except Exception as error:
                if "stale" in str(error) or "no such" in str(error):
                    return None
                raise

        try:
            return wait_until(holds, SECONDS, what)
        except AssertionError:
            raise AssertionError(f"not so: {what} {self.path}\n{self.text}") from None

    def reads(self, text: str) -> None:
        """Waits until the page says something."""
        try:
            self.wait(lambda: text in self.text)
        except AssertionError:
            raise AssertionError(f"{text!r} is not in {self.path}:\n{self.text}") from None

    def fill(self, selector: str, text: str) -> None:
        """Writes into a field."""
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def press(self, label: str) -> None:
        """Presses a button or link with this text, and waits for the page that comes."""
        xpath = f"//button[normalize-space()='{label}'] | //a[normalize-space()='{label}']"

        def pressed() -> bool:
            found = self.driver.find_elements(By.XPATH, xpath)
            for element in found[:1]:
                element.click()
            return bool(found)

        self.wait(pressed, label)

    def keys(self, *keys: str) -> None:
        """Presses keys, wherever the focus is."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, text: str) -> None:
        """Presses the tabulator until what has the focus says this."""
        for _ in range(100):
            self.keys(Keys.TAB)
            if str(self.script("return document.activeElement.textContent")).strip() == text:
                return
        raise AssertionError(f"the tabulator does not come to {text!r}")

    def script(self, text: str) -> Any:
        """What a script answers."""
        return self.driver.execute_script(text)

    def picture(self, path: Path) -> None:
        """What the window shows."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(path))

    def log_in(self, role: str = "app", password: str = "secret of app") -> "Browser":
        """Sends the form."""
        self.open("/login")
        self.fill("#role", role)
        self.fill("#password", password)
        self.press("Log in")
        return self

    def close(self) -> None:
        """Ends the browser."""
        self.driver.quit()

    def _devtools(self, command: str, arguments: dict[str, Any]) -> None:
        self.driver.execute_cdp_cmd(command, arguments)
