"""The page in Chromium, light and dark: plots are drawn and nothing overflows, from file://."""

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
    const pixels = context.getImageData(0, 0, 420, 290).data;
    const drawn = pixels.filter((value, at) => at % 4 == 3 && value > 0).length;
    const figure = plot.closest('figure').id;
    return [figure, plot.currentSrc.length, plot.getBoundingClientRect().width, drawn];
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
    path = next((path for name in names if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        arguments = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
        ]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_page_in_a_browser(report, chromium, width, scheme):
    _, out, _ = report
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(out.as_uri())
    plots = page.evaluate(PLOTS)
    assert {name for name, *_ in plots} == {path.stem for path in out.with_suffix("").glob("*.png")}
    for name, source, drawn_width, drawn in plots:
        assert source > 5000 and drawn > 1000 and 200 < drawn_width <= width, name
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(","))) < 384
    assert dark == (scheme == "dark")
    assert messages == [] and all(url.startswith(("file:", "data:")) for url in requests)
    page.close()
