"""A page in headless Chromium; tests that need it are skipped where there is none."""

import shutil
from contextlib import contextmanager

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def browsing(folder, html):
    """A page on disk, opened; afterwards nothing may have been logged as an error or asked of the network."""
    api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    wrong, asked = [], []
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        yield page
        browser.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert wide <= 0, f"the page is {wide} pixels wider than the window"


def sorts(page):
    """Click on the first head of a column of numbers: largest first, then smallest first."""
    grids = page.locator("table.grid")
    for place in range(grids.count()):
        heads = grids.nth(place).locator("thead th")
        for number in range(heads.count()):
            head = heads.nth(number)
            if head.get_attribute("data-sort") != "number" or not grids.nth(place).is_visible():
                continue
            orders = []
            for _ in range(2):
                head.locator("button").click()
                cells = grids.nth(place).locator(f"tbody tr td:nth-child({number + 1})")
                values = [cells.nth(at).get_attribute("data-v") for at in range(cells.count())]
                orders.append([float(value) for value in values if value is not None])
            if len(set(orders[0])) > 1:
                assert orders[0] == sorted(orders[0], reverse=True)
                assert orders[1] == sorted(orders[1])
                return
    raise AssertionError("no table sorts by a number")


def narrows(page):
    """Type a word that some rows of a list hold: only those stay."""
    boxes = page.locator("[data-find]")
    for place in range(boxes.count()):
        box = boxes.nth(place)
        name = box.get_attribute("data-find")
        rows = page.locator(f"#{name} > [data-row], #{name} > tbody > [data-row]").all()
        texts = [row.text_content().lower() for row in rows]
        words = sorted({word for text in texts for word in text.split() if word.isalnum()})
        some = [word for word in words if 0 < sum(word in text for text in texts) < len(texts)]
        if some:
            break
    assert f"{len(texts)} in all" in box.text_content()
    word = some[0]
    box.locator("input").fill(word)
    assert [row.get_attribute("hidden") is None for row in rows] == [word in text for text in texts]
    assert f"{sum(word in text for text in texts)} shown of {len(texts)}" in box.text_content()
    box.locator("input").fill("")
    assert not any(row.get_attribute("hidden") for row in rows)


def opens(page):
    """Click on the first entry of the first list: what is inside appears."""
    entry = page.locator("details.item").first
    inside = entry.locator(".inside").first
    was = inside.is_visible()
    entry.locator("summary").first.click()
    assert inside.is_visible() != was
    if was:
        entry.locator("summary").first.click()
    return inside.inner_text()
