"""A tab of headless Chromium that notes what a page does: its console, its requests and its dialogs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Dialog
    from playwright.sync_api import Page as Tab

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
)


@dataclass
class Seen:
    """A tab, what its page wrote to the console, what it asked for, and the dialogs that it opened."""

    tab: Tab
    console: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    dialogs: list[str] = field(default_factory=list)

    def dismiss(self, dialog: Dialog) -> None:
        """Close a dialog."""
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file, as a click on the page does."""
        self.tab.set_input_files(selector, path)

    def wait_for_message(self, text: str) -> None:
        """Wait until the page says something that contains a text."""
        self.tab.locator("#message").filter(has_text=text).wait_for()

    def texts(self, selector: str) -> list[str]:
        """Return the texts of elements."""
        return self.tab.locator(selector).all_inner_texts()


@contextmanager
def open_tab() -> Iterator[Seen]:
    """Start Chromium and open an empty tab; the test is skipped without playwright."""
    driver = pytest.importorskip("playwright.sync_api")
    with driver.sync_playwright() as playwright:
        # --no-sandbox: root has none.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        seen = Seen(browser.new_page())
        seen.tab.set_default_timeout(30_000)
        seen.tab.on("console", lambda message: seen.console.append(message.text))
        seen.tab.on("pageerror", lambda error: seen.console.append(str(error)))
        seen.tab.on("request", lambda request: seen.asked.add(request.url))
        seen.tab.on("dialog", seen.dismiss)
        yield seen
        browser.close()
