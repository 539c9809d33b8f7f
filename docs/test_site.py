"""The built site in a browser, `make docs-test`: pages, search, pictures, links, an empty console, and room on a phone.

It needs Debian's chromium, or another Chromium on the path; screenshots go to build/screenshots, to be looked at.
"""

import functools
import http.server
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlparse

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
SITE, SCREENSHOTS = ROOT / "build" / "site", ROOT / "build" / "screenshots"
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html"))
MAIN = [
    "index",
    "start",
    "gallery/index",
    "gallery/quickstart",
    "talk/index",
    "talk/5_control",
    "failures",
    "duals",
    "faq",
    "api/torch",
    "mathematics",
    "benchmarks",
]
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]


@pytest.fixture(scope="module")
def browser():
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium found, so nobody has looked at the site; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address():
    assert PAGES, "there is no build/site; make docs"

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


@pytest.fixture
def tab(request, browser, address):
    """A tab of a size; afterwards nothing has failed in it, and nothing came from elsewhere."""
    width, height = getattr(request, "param", SIZES["desktop"])
    tab, complaints = browser.new_page(viewport={"width": width, "height": height}, base_url=address), []
    tab.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("requestfailed", lambda wanted: complaints.append(f"failed: {wanted.url}"))
    tab.on("response", lambda answer: complaints.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)
    tab.on("request", lambda r: None if r.url.startswith((address, "data:")) else complaints.append(f"foreign: {r.url}"))
    yield tab
    tab.close()
    assert not complaints


@functools.cache
def names(page):
    """What a link into a page can point at."""
    return set(re.findall(r'\bid="([^"]+)"', (SITE / page).read_text()))


@pytest.mark.parametrize("page", PAGES)
def test_page(tab, address, page):
    tab.goto(page, wait_until="load")
    assert "cvxlayers" in tab.title() and tab.locator("body").inner_text().strip()
    for source, width in tab.eval_on_selector_all("img", "all => all.map(i => [i.src, i.naturalWidth])"):
        assert width, f"{source} is no picture"
    broken = []
    for link in tab.eval_on_selector_all("a[href]", "all => all.map(a => a.getAttribute('href'))"):
        target, place = urldefrag(urljoin(address + page, link))
        if not target.startswith(address):
            assert link.startswith("https://"), link
            continue
        path = urlparse(target).path.lstrip("/")
        path += "index.html" if not path or path.endswith("/") else ""
        if not (SITE / path).exists() or (place and path.endswith(".html") and place not in names(path)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize(
    "words, page", [("sparsemax", "api/torch"), ("infeasible", "failures"), ("warm start", "speed"), ("qpth", "migrating")]
)
def test_search(tab, words, page):
    tab.goto("index.html")
    box = tab.locator("input[name=q]").first
    box.fill(words)
    box.press("Enter")
    tab.wait_for_selector("#search-results li a")
    tab.wait_for_function(
        "document.querySelector('#search-results .search-summary, #search-results p')?.innerText.includes('found')"
    )
    assert any(f"{page}.html" in a for a in tab.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)"))


def test_gallery(tab):
    tab.goto("gallery/index.html")
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert {Path(a).stem for a in tab.eval_on_selector_all(".sd-card a", "all => all.map(a => a.href)")} == scripts
    pictures = tab.locator("img.sd-card-img-top")
    assert pictures.count() >= len(list((ROOT / "examples" / "figures").glob("*.png")))
    for k in range(pictures.count()):
        assert pictures.nth(k).bounding_box()["width"] > 250
    tab.locator(".sd-card").first.click()
    tab.wait_for_url("**/gallery/quickstart.html")
    assert "CvxpyLayer" in tab.locator(".highlight-python").first.inner_text()


@pytest.mark.parametrize("tab", [SIZES["phone"]], indirect=True)
def test_menu_of_a_phone(tab):
    tab.goto("start.html")
    entry = tab.locator(".sidebar-tree a", has_text="Gallery").first
    assert not entry.is_visible() or entry.bounding_box()["x"] < 0
    tab.locator("label.nav-overlay-icon").first.click()
    entry.click()
    tab.wait_for_url("**/gallery/index.html")


@pytest.mark.parametrize("page", MAIN)
@pytest.mark.parametrize("tab", SIZES.values(), ids=SIZES.keys(), indirect=True)
def test_room(request, tab, page):
    """Nothing sticks out of the page; pictures for people to look at."""
    tab.goto(f"{page}.html", wait_until="load")
    assert tab.evaluate("document.scrollingElement.scrollWidth - window.innerWidth") <= 1
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    size = request.node.callspec.id.split("-")[0]
    tab.screenshot(path=SCREENSHOTS / f"{page.replace('/', '-')}-{size}.png")
