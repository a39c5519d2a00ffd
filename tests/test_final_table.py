"""The last table: every model, each protocol by itself, and a click that sorts."""

import csv
import io
import json
from dataclasses import replace

import pytest
from lab_browser import browser, why_no_browser
from test_results import PROTOCOL, evaluation

from labhelpers import plots
from labhelpers.evaluation import COURSE_MODELS, FinalTable, ResultsTable
from labhelpers.evaluation.results import Cell, sortable_html

BOXES = replace(PROTOCOL, prompts="the box of every true object, whose class the answer gets")
COSTS = {"parameters": 2_000_000, "flops": 5_400_000_000, "memory_mb": 70.0, "cost_size": "512 x 512"}


@pytest.fixture(autouse=True)
def real_profile(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "smoke")


@pytest.fixture
def folder(tmp_path):
    """Three models under one protocol, not in the order of the labs, and SAM under another."""
    plain = ResultsTable(tmp_path / f"results-{PROTOCOL.key}.json")
    plain.add("own idea", evaluation(20), inference_ms=30.0, **COSTS)
    plain.add("DeepLabV3+", evaluation(80), inference_ms=250.0, minutes=0.6, **COSTS)
    plain.add("FCN-8s", evaluation(60), inference_ms=1180.5, minutes=0.4, **COSTS)
    boxes = ResultsTable(tmp_path / f"results-{BOXES.key}.json")
    boxes.add("SAM (zero-shot)", evaluation(95, BOXES), inference_ms=2000.0, **COSTS)
    return tmp_path


def cells(section):
    return {row[0].text: dict(zip(section.header, row, strict=True)) for row in section.rows}


def test_each_protocol_has_columns_of_its_own(folder):
    plain, boxes, missing, expected = FinalTable(folder).sections()
    assert [row[0].text for row in plain.rows] == ["FCN-8s", "DeepLabV3+", "own idea"]
    assert [row[0].text for row in boxes.rows] == ["SAM (zero-shot)"]
    assert plain.title == "scenes val, 30 images"
    assert boxes.title.endswith("prompted with the box of every true object, whose class the answer gets")
    assert "512 x 512 pixels on cpu, fp32" in plain.caption
    fcn = cells(plain)["FCN-8s"]
    assert fcn["mIoU"] == Cell("65.7 [65.7, 65.7]", pytest.approx((100 / 140 + 0.6) / 2))
    texts = {name: cell.text for name, cell in fcn.items()}
    assert texts["Lab"] == "02"
    assert texts["Pixel accuracy"] == "80.0"
    assert texts["Boundary IoU"] == "–"  # a result from before it was measured
    assert [texts[name] for name in ("Parameters (M)", "FLOPs (G)", "Inference (ms)", "Memory (MB)")] == [
        "2.00",
        "5.4",
        "1,180.5",
        "70",
    ]
    assert texts["Training (min)"] == "0.4"
    assert [texts[name] for name in plain.header[-3:]] == ["63.1", "140", "42"]
    assert cells(plain)["own idea"]["Course, VOC: mIoU"] == Cell("–")
    assert cells(boxes)["SAM (zero-shot)"]["Course: inference (ms)"] == Cell("1,050", 1050)
    run = {"FCN-8s", "DeepLabV3+", "SAM (zero-shot)"}
    assert [row[0].text for row in missing.rows] == [m.name for m in COURSE_MODELS if m.name not in run]
    assert cells(missing)["Mini-SAM"]["mIoU"] == Cell("–")
    assert cells(missing)["Mini-SAM"]["Course, VOC: mIoU"] == Cell("65 to 68", 65)
    assert expected.title == "What the course expects"


def test_times_at_two_sizes_do_not_share_a_column(folder):
    table = ResultsTable(next(folder.glob(f"results-{PROTOCOL.key}.json")))
    table.add("FCN-16s", evaluation(50), inference_ms=12.0, **{**COSTS, "cost_size": "256 x 256"})
    table.add("FCN-32s", evaluation(40, replace(PROTOCOL, device="Tesla T4")), inference_ms=7.0, **COSTS)
    plain = FinalTable(folder).sections()[0]
    columns = [name for name in plain.header if name.startswith("Inference")]
    assert len(columns) == 3
    for model, where in (("FCN-8s", "512 x 512 pixels on cpu"), ("FCN-16s", "256 x 256"), ("FCN-32s", "Tesla T4")):
        filled = [name for name in columns if cells(plain)[model][name].text != "–"]
        assert len(filled) == 1
        assert where in filled[0]


def test_exports_hold_everything(folder):
    table = FinalTable(folder)
    records = {record["name"]: record for record in csv.DictReader(io.StringIO(table.to_csv()))}
    assert set(records) == {model.name for model in COURSE_MODELS} | {"own idea"}
    fcn = records["FCN-8s"]
    assert float(fcn["mean_iou"]) == pytest.approx((100 / 140 + 0.6) / 2, abs=1e-12)
    assert (fcn["flops"], fcn["cost_size"], fcn["prompts"], fcn["size"]) == (
        "5400000000",
        "512 x 512",
        "none",
        "128x128",
    )
    assert (fcn["course_mean_iou"], fcn["course_parameters_m"], fcn["protocol_key"]) == ("63.1", "140", PROTOCOL.key)
    assert records["SAM (zero-shot)"]["prompts"] == BOXES.prompts
    assert records["SAM (zero-shot)"]["protocol_key"] == BOXES.key
    assert (records["Mini-SAM"]["mean_iou"], records["Mini-SAM"]["course_mean_iou"]) == ("", "65 to 68")
    for text in (table.to_markdown(), table.to_latex(), table._repr_html_()):
        for name in ("FCN-8s", "own idea", "SAM (zero-shot)", "Mini-SAM", "1,180.5", "5.4", "ViT-B"):
            assert name in text
    assert table.to_latex().count(r"\begin{tabular}") == table.to_markdown().count("### ") == 4


def test_old_files_are_read_and_an_empty_folder_shows_what_is_missing(tmp_path, folder):
    path = next(folder.glob(f"results-{PROTOCOL.key}.json"))
    stored = json.loads(path.read_text())
    for row in stored["rows"]:
        for name in ("flops", "cost_size", "boundary_iou"):
            del row[name]
        del row["protocol"]["prompts"]
    path.write_text(json.dumps(stored))
    plain, *_ = FinalTable(folder).sections()
    assert len(plain.rows) == 3
    assert "a size that was not noted" in plain.caption
    empty = tmp_path / "empty"
    empty.mkdir()
    missing, _ = FinalTable(empty).sections()
    assert len(missing.rows) == len(COURSE_MODELS)
    with pytest.raises(ValueError, match="no result under the protocol None; known: none"):
        FinalTable(empty).against_latency()


def test_the_same_result_twice_is_an_error(folder):
    path = next(folder.glob(f"results-{PROTOCOL.key}.json"))
    (folder / "results-copy.json").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"both hold own idea under the same protocol\. Move one"):
        FinalTable(folder)


def test_accuracy_against_latency_stays_inside_one_protocol(folder, capsys):
    ResultsTable(next(folder.glob(f"results-{PROTOCOL.key}.json"))).add("FCN-32s", evaluation(40), inference_ms=9.0)
    table = FinalTable(folder)
    drawn = table.against_latency()
    assert drawn["names"] == ["FCN-8s", "DeepLabV3+", "own idea"]
    assert drawn["x"] == [1180.5, 250.0, 30.0]
    assert [drawn["names"][i] for i in drawn["front"]] == ["own idea", "DeepLabV3+"]
    assert drawn["groups"] == ["lab 02", "lab 03", "others"]
    assert "512 x 512 pixels on cpu, fp32" in drawn["xlabel"]
    assert capsys.readouterr().out.startswith("Not drawn, since not timed with one image of 512 x 512")
    axes = plots.scatter(**drawn).axes[0]
    assert axes.get_xscale() == "log"
    assert table.against_latency(BOXES.key)["names"] == ["SAM (zero-shot)"]
    with pytest.raises(ValueError, match=r"'nowhere'; known: scenes-val-"):
        table.against_latency("nowhere")


# --- sorting ---

ROWS = [
    [Cell("b"), Cell("1,050", 1050), Cell("–")],
    [Cell("a"), Cell("–"), Cell("–")],
    [Cell("C"), Cell("65 to 68", 65), Cell("–")],
    [Cell("<d>"), Cell("9.5", 9.5), Cell("–")],
]


def test_without_scripts_it_is_a_plain_table():
    page = sortable_html('a "title"', ["Model", "ms"], [row[:2] for row in ROWS], "below & beyond")
    assert '<th scope="col"><button type="button"' in page
    assert "<script" not in page
    assert "<td>&lt;d&gt;</td>" in page
    assert "below &amp; beyond" in page
    assert '<td data-value="65">65&nbsp;to&nbsp;68</td>' in page


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
def test_a_click_sorts_numbers_as_numbers_and_dashes_last():
    page_html = sortable_html("t", ["Model", "ms", "none"], ROWS) + sortable_html("u", ["Model", "ms", "none"], ROWS)
    with browser() as chromium:
        page = chromium.new_page()
        page.set_content(page_html)
        first, second = page.locator("table").all()

        def order(table):
            return [text.strip() for text in table.locator("tbody tr td:first-child").all_inner_texts()]

        def sorted_columns():
            return [head.get_attribute("aria-sort") for head in first.locator("th").all()]

        before = order(first)
        assert before == ["b", "a", "C", "<d>"]
        first.get_by_role("button", name="ms").click()
        assert order(first) == ["<d>", "C", "b", "a"]
        assert sorted_columns() == [None, "ascending", None]
        first.get_by_role("button", name="ms").press("Enter")  # by keyboard as well
        assert order(first) == ["b", "C", "<d>", "a"]
        assert sorted_columns() == [None, "descending", None]
        first.get_by_role("button", name="Model").click()
        assert order(first) == ["<d>", "a", "b", "C"]
        assert sorted_columns() == ["ascending", None, None]
        assert order(second) == before
