"""The site: what goes into it, and, where `make site` has built it, its links and how it is for all readers."""

import os
import re
import runpy
import subprocess
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urljoin, urlsplit

import lab_browser
import nbformat
import pytest

from labhelpers.config import PROFILES

ROOT = Path(__file__).parent.parent
SITE = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "conf.py")))
# What only those who change the project need, and GitHub shows by itself.
NO_PAGES = {"CODE_OF_CONDUCT.md", "checkpoints/README.md", ".github/pull_request_template.md"}


def test_every_document_and_notebook_is_a_page():
    run = subprocess.run(["git", "ls-files", "*.md", "*.ipynb"], cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip("not a git checkout")
    documents = {name for name in run.stdout.split() if not name.startswith(".github/ISSUE_TEMPLATE/")}
    assert set(SITE.PAGES) >= documents - NO_PAGES
    assert len(set(SITE.PAGES.values())) == len(SITE.PAGES)


def test_every_package_is_in_the_reference():
    assert set(SITE.PACKAGES) == {path.parent.name for path in ROOT.glob("labhelpers/*/__init__.py")}


@pytest.mark.parametrize("source", [name for name in SITE.PAGES if name.endswith(".md")])
def test_links_of_a_document_lead_to_pages_and_files(source):
    SITE.site_text((ROOT / source).read_text(), source)


@pytest.mark.parametrize(
    ("link", "source", "there"),
    [
        ("benchmarks/README.md#speed", "README.md", "reference/benchmarks.md#speed"),
        ("../checkpoints/mini_sam.md", "notebooks/06_mini_sam.ipynb", "../reference/mini_sam.md"),
        ("demo_minisam.ipynb", "notebooks/06_mini_sam.ipynb", "demo_minisam.ipynb"),
        ("mini_sam.py", "benchmarks/README.md", f"{SITE.REPOSITORY}/blob/main/benchmarks/mini_sam.py"),
        ("../tests", "docs/instructors.md", f"{SITE.REPOSITORY}/tree/main/tests"),
        (f"{SITE.REPOSITORY}/blob/main/README.md#the-labs", "docs/students.md", "index.md#the-labs"),
        ("docs/canvas.png", "README.md", "/canvas.png"),
        ("#the-labs", "README.md", "#the-labs"),
        ("https://example.org/a.md", "README.md", "https://example.org/a.md"),
    ],
)
def test_a_link_leads_to_the_page_or_to_the_file_on_github(link, source, there):
    assert SITE.site_link(link, source) == there


def test_a_link_to_nothing_is_refused():
    with pytest.raises(ValueError, match=r"README.md links to docs/gone.md"):
        SITE.site_text("see [this](docs/gone.md)", "README.md")


@pytest.mark.parametrize("source", SITE.LABS)
def test_a_lab_shows_the_student_version_with_the_outputs_of_what_it_leaves(source):
    notebook, stored = SITE.site_notebook(source), nbformat.read(ROOT / source, as_version=4)
    nbformat.validate(notebook)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"(BEGIN|END) (SOLUTION|HIDDEN TESTS)|Model answer", text)
    assert notebook.cells[0].source.count("```{note}") == 1
    before = {cell.id: cell for cell in stored.cells}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            changed = cell.source != before[cell.id].source
            assert cell.outputs == ([] if changed else before[cell.id].outputs)
            shown = [kind for output in cell.outputs for kind in output.get("data", {}) if kind.startswith("image/")]
            assert cell.metadata.get("mystnb", {}).get("image", {}).get("alt") or not shown, cell.source
    assert sum(bool(cell.get("outputs")) for cell in notebook.cells) >= 2


def table_of_labs(path: str) -> dict[str, list[float]]:
    """The numbers of each lab in a document, in the columns' order; what is no number is left out."""
    rows = re.findall(r"^\| (0\d)(.*)\|$", (ROOT / path).read_text(), re.MULTILINE)
    cells = {lab: [cell.strip() for cell in row.split("|")] for lab, row in rows}
    return {lab: [float(cell) for cell in row if re.fullmatch(r"[\d.]+", cell)] for lab, row in cells.items()}


def test_everyone_reads_the_minutes_and_points_of_the_labs():
    of_students, of_instructors = {}, {}
    for source in SITE.LABS:
        lab = source.removeprefix("notebooks/")[:2]
        if lab.isdigit():
            cells = nbformat.read(ROOT / source, as_version=4).cells
            together = float(re.search(r"^\| *together *\|([^|]+)\|", cells[0].source, re.MULTILINE)[1])
            points = sum(cell.metadata.get("nbgrader", {}).get("points", 0) for cell in cells)
            smoke, gpu, full = (PROFILES[name].minutes[lab] for name in ("smoke", "lab", "full"))
            of_students[lab] = [together, smoke, gpu, points]
            of_instructors[lab] = [together, smoke, gpu, full, points]
    assert table_of_labs("README.md") == of_students
    assert table_of_labs("docs/instructors.md") == of_instructors


# --- the pages as `make site` has built them ---


class Page(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.places = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [found[name] for name in ("href", "src") if found.get(name)]
        self.places |= {found[name] for name in ("id", "name") if found.get(name)}


@pytest.fixture(scope="module")
def built():
    if "LAB_SITE" not in os.environ:
        pytest.skip("needs the built site: make site")
    return Path(os.environ["LAB_SITE"])


def test_every_link_inside_the_site_leads_to_a_page_and_a_place_in_it(built):
    pages = {path.relative_to(built).as_posix(): Page(path.read_text()) for path in built.rglob("*.html")}
    assert {re.sub(r"\.\w+$", ".html", page) for page in SITE.PAGES.values()} <= set(pages)
    broken = []
    for name, page in pages.items():
        for link in page.links:
            to = urlsplit(urljoin(f"site:///{name}", link) if not urlsplit(link).scheme else link)
            if to.scheme != "site":
                continue
            target = unquote(to.path).lstrip("/")
            places = pages[target].places if target in pages else {""}
            if not (built / target).is_file() or (unquote(to.fragment) not in places):
                broken.append(f"{name}: {link}")
    assert not broken, broken


@pytest.fixture(scope="module")
def address(built):
    handler = partial(QuietHandler, directory=built)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


LOOKED_AT = ["index", "students", "instructors", "labs/01_data_pipeline", "reference/data", "reference/benchmarks"]


@pytest.mark.skipif(bool(lab_browser.why_no_browser()), reason=lab_browser.why_no_browser())
@pytest.mark.parametrize("width", [360, 1280])
def test_pages_fit_a_phone_and_a_desk_and_hinder_nobody(address, width):
    """No sideways scrolling, no finding that axe-core calls serious or critical, and the search finds a word."""
    from axe_playwright_python.sync_playwright import Axe

    with lab_browser.browser() as browser:
        page = browser.new_context(viewport={"width": width, "height": 800}).new_page()
        page.set_default_timeout(1000 * lab_browser.START)
        # Badges lie elsewhere; all else must be here.
        page.route(re.compile(r"https?://(?!127\.0\.0\.1)"), lambda route: route.abort())
        for name in LOOKED_AT:
            page.goto(f"{address}/{name}.html")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            results = Axe().run(page)
            found = [v for v in results.response["violations"] if v["impact"] in ("serious", "critical")]
            assert not found, f"{name}: {results.generate_report()}"
            assert len(results.response["passes"]) > 10
        page.goto(f"{address}/search.html?q=palette")
        page.wait_for_selector("#search-results a:has-text('Lab 01')")
