"""The report: real files, opened again; numbers from the disk only; the student's words kept."""

import base64
import io
import re
from types import SimpleNamespace

import course_toys
import pytest
from PIL import Image
from pypdf import PdfReader

from labhelpers import cli, config
from labhelpers.course import report
from labhelpers.course.plans import find_plan
from labhelpers.course.report import HEADINGS, read_own_words, unwritten, write_report
from labhelpers.course.report.document import Document, Paragraph, Picture, Section, to_html, to_pdf
from labhelpers.course.report.findings import Results, discuss, suggest
from labhelpers.evaluation import Protocol, ResultsTable, Table
from labhelpers.evaluation.results import Row

OWN = "## Discussion\n\nSkips help – see Nguyễn.\n\n## Challenges faced\n\n- one\n- two\n\n"
OWN += "## Further improvements\n\nMore data.\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Four networks trained for a few steps, two of them scored."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        course_toys.hold_keys(patch)
        course_toys.train_named(["fcn8s", "deeplabv3plus", "mini_sam", "mask_rcnn"], patch, folder)
        assert [cli.main(["evaluate", name]) for name in ("fcn8s", "mask_rcnn")] == [0, 0]
    return folder


@pytest.fixture
def profile(home, monkeypatch):
    return course_toys.use_short_profile(monkeypatch, home)


def pages_of(pdf) -> list[str]:
    return [re.sub(r"\s+", " ", page.extract_text()) for page in PdfReader(pdf).pages]


def test_pdf_and_html_hold_every_section_and_the_numbers_of_the_disk(profile, tmp_path):
    (tmp_path / "report.md").write_text(OWN, encoding="utf-8")
    said = write_report(tmp_path, profile)
    pages = pages_of(tmp_path / "report.pdf")
    text, page = " ".join(pages), (tmp_path / "report.html").read_text(encoding="utf-8").replace("&nbsp;", " ")
    assert 3 <= len(pages) <= 5
    assert f"({len(pages)} pages)" in said
    assert "Still to be written" not in said
    found = (ResultsTable(path).rows for path in config.checkpoints_root().glob("results-*.json"))
    rows = {row.name: row for rows in found for row in rows}
    row, objects = rows["FCN-8s"], rows["Mask R-CNN"]
    score = f"{100 * row.mean_iou:.1f} [{100 * row.mean_iou_low:.1f}, {100 * row.mean_iou_high:.1f}]"
    for words in (
        *("Architectures", "Training curves", "Results", "Pictures", "Discussion", "Challenges faced"),
        *("Further improvements", "FCN-8s", "DeepLabV3+", "Mini-SAM", score, str(row.protocol)),
        *("Mask R-CNN", "Mask AP50", str(objects.protocol).split("; ")[0]),
        "DeepLabV3+ is trained, but has no score yet: labhelpers evaluate deeplabv3plus",
        *("Skips help – see Nguyễn.", "More data."),
    ):
        assert words in text, words
        assert words in page, words
    assert page.count("<img ") == 6  # three figures of curves, three grids
    for mime, data in re.findall(r'src="data:image/(\w+);base64,([^"]+)"', page):
        assert Image.open(io.BytesIO(base64.b64decode(data))).format.lower() == mime
    assert not re.search("<script|http", page)


def test_no_key_of_the_environment_is_in_a_log_a_checkpoint_a_table_or_the_report(
    home, profile, tmp_path, monkeypatch, capsys
):
    course_toys.hold_keys(monkeypatch)
    write_report(tmp_path, profile)
    cli.main(["doctor"])
    assert course_toys.SECRET not in "".join(capsys.readouterr())
    kinds = {path.suffix for folder in (home, tmp_path) for path in folder.rglob("*")}
    assert kinds >= {".csv", ".json", ".safetensors", ".html"}
    assert course_toys.written_keys(home, tmp_path) == []


def test_the_file_for_own_words_is_made_once_and_then_left_alone(tmp_path, monkeypatch):
    profile = config.PROFILES["smoke"]
    monkeypatch.setattr(report, "gather", lambda profile: None)
    monkeypatch.setattr(report, "build", lambda _, own: Document("T", "s", [Section(k, own[k]) for k in own]))
    said = write_report(tmp_path, profile)
    assert "The course asks for 3 to 5 pages: shorten or extend" in said
    assert "Still to be written" in said
    assert " ".join(pages_of(tmp_path / "report.pdf")).count("Not written yet") == 3
    words = tmp_path / "report.md"
    assert unwritten(words) == list(HEADINGS)
    words.write_text(words.read_text().replace("## Discussion\n", "## Discussion\n\nMine.\n"))
    before = words.read_bytes()
    assert "Challenges faced, Further improvements." in write_report(tmp_path, profile)
    assert words.read_bytes() == before
    assert "Mine." in (tmp_path / "report.html").read_text()


def test_own_words_are_text_and_items_and_a_missing_heading_is_named(tmp_path):
    path = tmp_path / "report.md"
    path.write_text(OWN + "<!-- a hint\nover two lines -->\n", encoding="utf-8")
    _, challenges, improvements = read_own_words(path).values()
    assert challenges == [Paragraph("one", "item"), Paragraph("two", "item")]
    assert improvements == [Paragraph("More data.")]
    path.write_text("## Discussion\n")
    with pytest.raises(ValueError, match="has no heading 'Challenges faced': add the line"):
        read_own_words(path)


def test_markup_in_texts_is_shown_and_not_obeyed():
    table = Table(["a <b>", "n"], [["x & y", "1"]], "caption </p>")
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "png")
    blocks = [Paragraph("1 < 2 <script>"), table, Picture(picture.getvalue(), "image/png", "c", 'a "quoted" alt')]
    document = Document("T & U", "s", [Section("One", blocks), Section("Two", [], new_page=True)])
    page, (pdf, count) = to_html(document), to_pdf(document)
    assert "1 &lt; 2 &lt;script&gt;" in page
    assert "&quot;quoted&quot;" in page
    first, _ = pages_of(io.BytesIO(pdf))
    assert count == 2
    assert "1 < 2 <script>" in first
    assert "x & y" in first
    assert to_pdf(document)[0] == pdf  # equal documents, equal bytes


def test_a_long_table_goes_on_on_the_next_page_with_its_header():
    table = Table(["Network", "mIoU"], [[f"net {i}", "1.0"] for i in range(120)])
    _, pages = to_pdf(Document("T", "s", [Section("One", [table])]))
    assert pages > 1


# --- the sentences ---

PROTOCOL = Protocol("scenes", "val", 150, 21, labels="1f", size="128x128")


def row(name: str, iou: float, half: float = 0.01, **more) -> Row:
    return Row(name, PROTOCOL, mean_iou=iou, mean_iou_low=iou - half, mean_iou_high=iou + half, **more)


def said(*rows: Row) -> str:
    return " ".join(p.text for p in discuss(Results(config.PROFILES["smoke"], [], [list(rows)])))


def test_the_best_is_named_with_its_lead_and_overlap_is_said():
    apart = said(row("A", 0.5, inference_ms=20), row("B", 0.4, inference_ms=10))
    assert "A has the highest mean IoU, 50.0 %, 10.0 points above B with 40.0 %" in apart
    assert "do not overlap" in apart
    assert "B is the fastest (10 ms for an image on cpu); A takes 2.0 times as long, for 10.0 more points" in apart
    close = said(row("A", 0.5, 0.06), row("B", 0.4, 0.06))
    assert "95 % intervals overlap" in close
    assert "fastest" not in close
    assert said(row("A", 0.5)) == ""


def test_skips_and_decoder_are_judged_by_the_numbers():
    def skips(*ious):
        names = ("FCN-32s", "FCN-16s", "FCN-8s")
        return said(*(row(name, iou, band_foreground_iou=iou + 0.1) for name, iou in zip(names, ious, strict=True)))

    rising = skips(0.3, 0.5, 0.6)
    assert "Each skip raises the mean IoU from FCN-32s to FCN-16s to FCN-8s: 30.0 %, 50.0 %, 60.0 %" in rising
    assert "within 5 pixels of true edges: 40.0 %, 60.0 %, 70.0 %" in rising
    assert "Not every skip raises" in skips(0.3, 0.5, 0.4)
    worse = said(row("DeepLabV3", 0.5), row("DeepLabV3+", 0.45))
    assert "changes the mean IoU of DeepLabV3 by -5.0 points" in worse


def test_a_network_that_still_improves_is_named_and_its_gap_said():
    last = {"step": 10, "mean_iou": 0.2, "train_mean_iou": 0.5}
    history = SimpleNamespace(evaluations=[{"step": 5, "mean_iou": 0.1}, last])
    run = SimpleNamespace(history=history, info={"best_step": 10})
    results = Results(config.PROFILES["smoke"], [(SimpleNamespace(plan=find_plan("fcn8s")), run)], [])
    (longer,), (gap,) = suggest(results), discuss(results)
    assert longer.text == "FCN-8s was best at the last evaluation: a longer training may raise the score."
    assert gap.text == (
        "FCN-8s ends its training with a mean IoU of 50.0 % on training and 20.0 % on validation images: a gap of "
        "+30.0 points."
    )
    run.info["best_step"] = 5
    assert suggest(results) == []
