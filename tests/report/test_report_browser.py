"""The report and the live page in headless Chromium: what a person sees, on a desk, on a phone and on paper."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_dist.report import live
from alexnet_dist.report.__main__ import main
from alexnet_dist.report.live import Live
from alexnet_dist.runs.directory import METRICS
from alexnet_dist.system.local_page import LocalHandler
from support.browser import Seen, needs_chromium, open_tab
from support.histories import metric_lines, write_held_out, write_lines, write_recorded_run

pytestmark = needs_chromium
MARKUP = "<img src=x onerror=alert(1)>"
PHONE, DESK = (360, 740), (1280, 900)


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    with open_tab() as seen:
        yield seen


@pytest.fixture(autouse=True)
def clean(seen: Seen) -> Iterator[None]:
    """The page has opened no dialog and run into no error."""
    seen.console.clear()
    seen.asked.clear()
    resize(seen, DESK)
    yield
    assert seen.dialogs == []
    assert seen.console == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose directory and classes have markup in their names."""
    home = tmp_path_factory.mktemp("home")
    directory = write_recorded_run(home).rename(home / MARKUP)
    manifest = json.loads((directory / "train.manifest.json").read_text())
    for described in manifest["classes"]:
        described["words"] = f"{MARKUP} {described['name']}"
    (directory / "train.manifest.json").write_text(json.dumps(manifest))
    main([str(directory), "--data", str(write_held_out(home))])
    return directory


def resize(seen: Seen, size: tuple[int, int]) -> None:
    """Give the window a size, (width, height) in pixels."""
    seen.tab.set_viewport_size({"width": size[0], "height": size[1]})


def scrolls_sideways(seen: Seen) -> bool:
    """Return whether the page is wider than the window."""
    found = seen.tab.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    assert isinstance(found, bool)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_file_shows_the_run(scheme: str, seen: Seen, run: Path) -> None:
    seen.tab.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    seen.tab.goto((run / "report.html").as_uri())
    assert seen.texts("h1") == [f"Run {MARKUP}"]
    assert seen.texts("td[data-name='training loss']") == ["0.0150"]
    assert seen.texts("td[data-name='images/s, median']") == ["60"]
    assert seen.tab.locator("svg.chart").count() == 4
    assert all(text.startswith(MARKUP) for text in seen.texts(".guess span:first-child"))
    images = 2 + 8 + 4 * 7  # kernels, predictions, rows of neighbours
    assert seen.tab.locator("img").count() == images
    assert seen.tab.locator("img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
    assert {url for url in seen.asked if not url.startswith("data:")} == {seen.tab.url}
    text, back = seen.tab.evaluate(
        """() => ["color", "backgroundColor"].map(
            (name) => Number(getComputedStyle(document.body)[name].match(/[0-9]+/)[0]))"""
    )
    assert (text > back) == (scheme == "dark")
    assert abs(text - back) > 180


@pytest.mark.parametrize("media", ["screen", "print"])
def test_nothing_scrolls_sideways_on_a_phone(media: str, seen: Seen, run: Path) -> None:
    resize(seen, PHONE)
    seen.tab.emulate_media(media=media)  # type: ignore[arg-type]
    seen.tab.goto((run / "report.html").as_uri())
    seen.tab.locator("summary").click()
    assert not scrolls_sideways(seen)
    seen.tab.emulate_media(media="screen")


def test_no_label_of_a_chart_lies_on_another(seen: Seen, run: Path) -> None:
    seen.tab.goto((run / "report.html").as_uri())
    overlaps = seen.tab.evaluate(
        """() => [...document.querySelectorAll("svg.chart")].flatMap((chart) => {
            const outer = chart.getBoundingClientRect();
            const boxes = [...chart.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
            return boxes.flatMap((a, i) => [
                ...(a.left < outer.left - 1 || a.right > outer.right + 1 || a.bottom > outer.bottom + 1 ? [i] : []),
                ...boxes.slice(i + 1).filter((b) => a.left < b.right && b.left < a.right && a.top < b.bottom
                    && b.top < a.bottom),
            ]);
        })"""
    )
    assert overlaps == []


def test_the_live_page_is_drawn_again_and_says_when_its_server_is_gone(
    seen: Seen, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LEAST_S", 0.0)
    monkeypatch.setattr(LocalHandler, "timeout", 1.0)  # else its thread goes on to answer on an open connection
    lines = metric_lines()
    with Live([run], [MARKUP], 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        seen.tab.goto(server.url)
        loss = seen.tab.locator("td[data-name='training loss']")
        loss.filter(has_text="0.0150").wait_for()
        assert seen.texts("h1") == [f"Run {MARKUP}"]
        assert seen.tab.locator("main img.kernels").count() == 2
        assert seen.tab.locator("main svg.chart").count() == 3
        resize(seen, PHONE)
        assert not scrolls_sideways(seen)
        write_lines(run / METRICS, lines[:10])
        loss.filter(has_text="0.0300").wait_for()
        assert {url for url in seen.asked if not url.startswith(("data:", server.url))} == set()
        server.shutdown()
    seen.wait_for_message("the command report --live may have ended")
    assert seen.tab.locator("#message").get_attribute("class") == "error"
    assert loss.count() == 1  # the last drawing stays
    write_lines(run / METRICS, lines)
    seen.tab.goto("about:blank")
    seen.console[:] = [text for text in seen.console if "Failed to load resource" not in text]
