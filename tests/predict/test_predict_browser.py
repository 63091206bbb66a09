"""The page to try a net in headless Chromium: what a person sees, and what hostile files and names do to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_dist.predict.server import Page
from alexnet_dist.runs.trained import TrainedNet
from support.browser import Seen, needs_chromium, open_tab
from support.folders import encoded, photo
from support.pages import MARKUP, net_fixture, page_fixture

__all__ = ["net_fixture", "page_fixture"]

pytestmark = needs_chromium
NAME = "<img src=x onerror=alert(1)>.png"
VIEWS = 10


@pytest.fixture(scope="module")
def seen(page: Page) -> Iterator[Seen]:
    with open_tab() as seen:
        seen.tab.goto(page.url)
        yield seen


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
    seen.choose("#file", image)
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
    seen.choose("#file", image)
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
        seen.choose("#file", path)
        seen.wait_for_message(reason)
        assert seen.tab.locator("#message").get_attribute("class") == "error"
        assert seen.tab.locator("#result").is_hidden()
    seen.choose("#file", image)
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
