"""The page to try a net in headless Chromium: what a person sees, and what hostile files and names do to it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from alexnet_dist.predict.server import Page
from alexnet_dist.runs.trained import TrainedNet
from support.folders import encoded, photo
from support.pages import MARKUP, net_fixture, page_fixture

if TYPE_CHECKING:
    from playwright.sync_api import Dialog
    from playwright.sync_api import Page as Tab

__all__ = ["net_fixture", "page_fixture"]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
NAME = "<img src=x onerror=alert(1)>.png"
VIEWS = 10


@dataclass
class Seen:
    """A tab with the page, what it wrote to its console, what it asked for, and the dialogs that it opened."""

    tab: Tab
    console: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    dialogs: list[str] = field(default_factory=list)

    def dismiss(self, dialog: Dialog) -> None:
        """Close a dialog."""
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def choose(self, path: Path) -> None:
        """Choose a file, as a click on the page does."""
        self.tab.set_input_files("#file", path)

    def wait_for_message(self, text: str) -> None:
        """Wait until the page says something that contains a text."""
        self.tab.locator("#message").filter(has_text=text).wait_for()

    def texts(self, selector: str) -> list[str]:
        """Return the texts of elements."""
        return self.tab.locator(selector).all_inner_texts()


@pytest.fixture(scope="module")
def seen(page: Page) -> Iterator[Seen]:
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
        seen.tab.goto(page.url)
        yield seen
        browser.close()


@pytest.fixture(autouse=True)
def clean(seen: Seen, page: Page) -> Iterator[None]:
    """The page has asked for nothing but itself, opened no dialog and run into no error, apart from refused files."""
    yield
    assert seen.dialogs == []
    assert [text for text in seen.console if "the server responded with a status of 422" not in text] == []
    assert all(url.startswith(("data:", page.url, f"blob:{page.url}")) for url in seen.asked)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(encoded(photo(3, 30, 40), "PNG"))
    return path


def test_an_image_is_shown_with_the_probabilities_that_predict_prints(seen: Seen, net: TrainedNet, image: Path) -> None:
    seen.choose(image)
    seen.tab.locator("#result").wait_for()
    for selector, views in (("#classes", 1), ("#mean", VIEWS)):
        expected = net.predict(image, views)
        assert seen.texts(f"{selector} .name") == [guess.name for guess in expected]
        values = seen.tab.locator(f"{selector} progress").evaluate_all("bars => bars.map(bar => bar.value)")
        assert values == pytest.approx([guess.probability for guess in expected], rel=1e-5)
        assert seen.texts(f"{selector} .value") == [f"{guess.probability:.1%}".replace("%", " %") for guess in expected]
    assert seen.tab.locator("#views img").count() == VIEWS
    assert len(seen.texts("#kernels p")) == net.model.net.towers
    assert [text.partition(":")[0] for text in seen.texts("#joins p")] == [
        f"into {name}" for name, layer in net.model.net.layers.items() if layer.reads == "both"
    ]
    loaded = seen.tab.locator("#result img").evaluate_all("all => all.every(each => each.naturalWidth > 0)")
    assert loaded is True


def test_markup_in_names_is_text(seen: Seen, net: TrainedNet, image: Path) -> None:
    seen.choose(image)
    seen.tab.locator("#result").wait_for()
    assert seen.texts("#message") == [NAME]
    assert seen.texts("#run") == [net.loaded.directory.name]
    assert all(text.startswith(MARKUP) for text in seen.texts("#classes .name"))
    assert seen.tab.locator("#message *, #classes .name *, #views figcaption *, b").count() == 0


def test_an_image_is_dropped_or_pasted(seen: Seen, image: Path) -> None:
    for kind, target in (("drop", "#drop"), ("paste", "body")):
        seen.tab.evaluate("find('result').hidden = true")
        seen.tab.evaluate(
            """([kind, target, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], kind + ".png"));
                const event = kind === "drop" ? new DragEvent(kind, {dataTransfer: data, bubbles: true})
                    : new ClipboardEvent(kind, {clipboardData: data, bubbles: true});
                document.querySelector(target).dispatchEvent(event);
            }""",
            [kind, target, list(image.read_bytes())],
        )
        seen.wait_for_message(f"{kind}.png")
        seen.tab.locator("#result").wait_for()


def test_it_goes_on_after_files_that_it_refuses(seen: Seen, tmp_path: Path, image: Path) -> None:
    large, bomb, text = tmp_path / "large.png", tmp_path / "bomb.png", tmp_path / "text.png"
    with large.open("wb") as file:
        file.truncate(100 << 20)
    Image.fromarray(np.zeros((11_000, 11_000), np.uint8)).save(bomb)
    text.write_text("not an image")
    for path, reason in (
        (large, "large.png: more than 32 MiB; use the command predict"),
        (bomb, "bomb.png: 11000 x 11000 pixels"),
        (text, "text.png: not a whole image in a format that Pillow reads"),
    ):
        seen.choose(path)
        seen.wait_for_message(reason)
        assert seen.tab.locator("#message").get_attribute("class") == "error"
        assert seen.tab.locator("#result").is_hidden()
    seen.choose(image)
    seen.tab.locator("#result").wait_for()


def test_fifty_at_once_are_all_answered(seen: Seen, image: Path) -> None:
    answers = seen.tab.evaluate(
        """async (bytes) => Promise.all(Array.from({length: 50}, async () => {
            const answer = await fetch("/classify", {method: "POST", body: new Uint8Array(bytes)});
            return JSON.stringify([answer.status, (await answer.json()).classes]);
        }))""",
        list(image.read_bytes()),
    )
    assert len(answers) == 50
    assert set(answers) == {answers[0]}
    assert re.match(r"\[200,\[\{", answers[0])
