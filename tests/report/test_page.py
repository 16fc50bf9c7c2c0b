"""The page in Chromium: nothing runs over, every plot is there, by day and by night, from file://."""

from __future__ import annotations

import shutil

import pytest

pytestmark = pytest.mark.browser

PLOTS = """async () => {
  const plots = [...document.querySelectorAll('figure img')];
  await Promise.all(plots.map(plot => plot.decode()));
  return plots.map(plot => {
    const canvas = document.createElement('canvas');
    canvas.width = 420; canvas.height = 290;
    const context = canvas.getContext('2d');
    context.drawImage(plot, 0, 0, 420, 290);
    const seen = context.getImageData(0, 0, 420, 290).data.filter((value, at) => at % 4 == 3 && value > 0).length;
    return [plot.closest('figure').id, plot.currentSrc.length, plot.getBoundingClientRect().width, seen];
  });
}"""
OUTSIDE = """() => [...document.querySelectorAll('main *')].filter(element => {
  const box = element.getBoundingClientRect();
  return box.right > innerWidth + 1 && !element.closest('.wide');
}).map(element => element.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        quiet = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
        ]
        browser = playwright.chromium.launch(executable_path=path, args=quiet)
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_in_a_browser(told, chromium, width, scheme):
    _, out, _ = told
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(out.as_uri())
    plots = page.evaluate(PLOTS)
    assert {name for name, *_ in plots} == {path.stem for path in out.with_suffix("").glob("*.png")}
    for name, source, wide_, seen in plots:
        assert source > 5000 and seen > 1000 and 200 < wide_ <= width, name
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(","))) < 384
    assert dark == (scheme == "dark")
    assert said == [] and all(url.startswith(("file:", "data:")) for url in asked)
    page.close()
