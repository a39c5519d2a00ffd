"""Tables of text, the results of one protocol, what the course expects, and the last table of all models."""

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from unittest.mock import Mock
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lab_browser import browser, why_no_browser
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from labhelpers import plots
from labhelpers.evaluation import (
    METRICS,
    AveragePrecision,
    Evaluation,
    FinalTable,
    InstanceEvaluation,
    Protocol,
    ResultsTable,
    Table,
    compare,
    count_parameters,
    scores,
)
from labhelpers.evaluation.results import (
    COURSE_MODELS,
    NOTE,
    course_model,
    expected_table,
    published_average_precision,
)
from labhelpers.models import build

PROTOCOL = Protocol("scenes", "val", 30, 3, labels="1f", size="128x128")
BOXES = replace(PROTOCOL, prompts="the box of every true object, whose class the answer gets")
COSTS = {"parameters": 2_000_000, "flops": 5_400_000_000, "memory_mb": 70.0, "cost_size": "512 x 512"}


@pytest.fixture(autouse=True)
def real_profile(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "smoke")


@pytest.fixture
def table(tmp_path):
    return ResultsTable(tmp_path / "new" / f"results-{PROTOCOL.key}.json")


def evaluation(right: int = 60, protocol: Protocol = PROTOCOL, per_image: bool = True) -> Evaluation:
    matrices = np.zeros((30, 3, 3), dtype=np.int32)
    matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 1, 0] = 100, right, 100 - right
    total = matrices.sum(0, dtype=np.int64)
    kept = matrices if per_image else None
    return Evaluation(scores(total), {5: 0.4}, {5: float("nan")}, protocol, 1.0, total, kept, {})


def records(table) -> dict[str, dict[str, str]]:
    """The lines of a table's CSV by name."""
    return {record["name"]: record for record in csv.DictReader(io.StringIO(table.to_csv()))}


# --- tables of text ---


def html_rows(page: str) -> list[list[str]]:
    """The text of the cells of a page, row by row; the page must be well-formed."""
    page = ElementTree.fromstring(f"<div>{page.replace('&nbsp;', ' ')}</div>")
    return [["".join(cell.itertext()) for cell in row] for row in page.iter("tr")]


def test_formats_of_a_table():
    """What each must escape, and that HTML's heads are buttons; the formats as wholes: `test_whole_formats`."""
    rows = [["a|b & <c>_1", "65.7 [60.1, 70.2]"], ["–", "1"]]
    table = Table(["Model", "mIoU"], rows, "camvid & val; 50 %", 'a "title"')
    assert table.to_markdown() == (
        '### a "title"\n\n| Model | mIoU |\n| --- | ---: |\n| a\\|b & <c>_1 | 65.7 [60.1, 70.2] |\n| – | 1 |\n\n'
        "camvid & val; 50 %\n"
    )
    assert table.to_csv() == 'Model,mIoU\na|b & <c>_1,"65.7 [60.1, 70.2]"\n–,1\n'
    lines = table.to_latex().splitlines()
    assert lines[4:6] + lines[-1:] == [
        r"a|b \& <c>\_1 & 65.7 [60.1, 70.2] \\", r"-- & 1 \\", r"camvid \& val; 50 \%"
    ]  # fmt: skip
    assert repr(table) == table.to_markdown()
    page = table._repr_html_()
    assert html_rows(page) == [["Model", "mIoU"], *rows]
    for part in (
        '<caption style="text-align:left;font-weight:bold">a &quot;title&quot;</caption>',
        '<th scope="col"><button type="button"',
        "<td>a|b &amp; &lt;c&gt;_1</td><td>65.7&nbsp;[60.1,&nbsp;70.2]</td>",
        "camvid &amp; val; 50 %</p>",
    ):
        assert part in page
    assert "<script" not in page
    bare = Table(["Model"], [["a"]])
    assert bare.to_markdown() == "| Model |\n| --- |\n| a |\n"
    assert bare.to_latex().endswith("\\end{tabular}\n")
    assert bare._repr_html_().endswith("</table>")


@given(
    st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(st.text("a&<>\"',|é"), min_size=n, max_size=n), min_size=1))
)
def test_no_cell_breaks_a_format(lines):
    header, *rows = lines
    table = Table(header, rows, "below")
    assert list(csv.reader(io.StringIO(table.to_csv()))) == lines
    assert html_rows(table._repr_html_()) == lines
    body = table.to_markdown().splitlines()[: len(lines) + 1]
    assert {line.replace("\\|", "").count("|") for line in body} == {len(header) + 1}


def test_a_table_must_be_rectangular():
    with pytest.raises(ValueError, match=r"a row has 1 cells, the header 2: \['a'\] under \['Model', 'mIoU'\]"):
        Table(["Model", "mIoU"], [["a"]])
    with pytest.raises(ValueError, match="at least one column"):
        Table([], [])


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
def test_a_click_sorts_numbers_as_numbers_and_dashes_last():
    rows = [["3b", "1,050", "–"], ["a", "–", "–"], ["C", "65 to 68", "–"], ["<d>", "9.5 [9, 10]", "–"]]
    with browser() as chromium:
        page = chromium.new_page()
        page.set_content(2 * Table(["Model", "ms", "none"], rows)._repr_html_())
        first, second = page.locator("table").all()

        def state(table):
            """The names in order, and how each column is sorted."""
            names = table.locator("tbody tr td:first-child").all_inner_texts()
            sorts = [head.get_attribute("aria-sort") for head in table.locator("th").all()]
            return [name.strip() for name in names], sorts

        before = ["3b", "a", "C", "<d>"], [None, None, None]
        assert state(first) == before
        ms = first.get_by_role("button", name="ms")
        ms.click()
        assert state(first) == (["<d>", "C", "3b", "a"], [None, "ascending", None])
        ms.press("Enter")  # by keyboard as well
        assert state(first) == (["3b", "C", "<d>", "a"], [None, "descending", None])
        first.get_by_role("button", name="Model").click()
        assert state(first) == (["<d>", "3b", "a", "C"], ["ascending", None, None])
        assert state(second) == before


# --- results of one protocol ---


def test_rows_survive_on_disk_in_order_and_are_replaced_by_name(table):
    table.add("FCN-32s", evaluation(40), seed=1, minutes=0.5)
    table.add("FCN-8s", evaluation(80, per_image=False))
    table.add("FCN-32s", evaluation(50))
    again = ResultsTable(table.path)
    assert again.rows == table.rows
    first, second = again.rows
    assert (first.name, second.name) == ("FCN-32s", "FCN-8s")
    assert first.mean_iou == pytest.approx((100 / 150 + 0.5) / 2)
    assert first.mean_iou_low == pytest.approx(first.mean_iou)  # all images are alike
    assert second.mean_iou is not None
    assert second.mean_iou_low is second.band_foreground_iou is None  # no matrices, no interval
    assert {file.name for file in table.path.parent.iterdir()} == {table.path.name, "results.lock"}


def test_rows_of_two_notebooks_join(table):
    other = ResultsTable(table.path)
    table.add("lab 02", evaluation(40))
    other.add("lab 03", evaluation(50))
    table.add("lab 04", evaluation(60))
    other.add("lab 02", evaluation(70))
    expected = ["lab 02", "lab 03", "lab 04"]
    assert [row.name for row in other.rows] == [row.name for row in ResultsTable(table.path).rows] == expected
    assert ResultsTable(table.path).rows[0].mean_iou == pytest.approx((100 / 130 + 0.7) / 2)
    with pytest.raises(ValueError, match="differs from that of lab 02"):  # which this object has never seen
        ResultsTable(table.path).add("x", evaluation(protocol=BOXES))


WRITER = """
import sys
from test_results import ResultsTable, evaluation
table = ResultsTable(sys.argv[1])
for number in range(50):
    table.add(f"{sys.argv[2]} {number}", evaluation(per_image=False))
"""


def test_two_processes_that_write_at_the_same_time_lose_no_row(tmp_path):
    path = tmp_path / "results.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name], env=environment) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert {row.name for row in ResultsTable(path).rows} == {f"{name} {i}" for name in "ab" for i in range(50)}


OTHER = {"dataset": "voc2012", "split": "train", "images": 12, "num_classes": 21, "labels": "2e", "size": "256x256"}
OTHER |= {"void": "0 ignored", "averaging": "mean of batches", "prompts": "a box"}


@pytest.mark.parametrize(("field", "value"), OTHER.items())
def test_protocols_are_not_mixed(table, field, value):
    table.add("FCN-32s", evaluation())
    before = table.path.read_bytes()
    other = evaluation(protocol=replace(PROTOCOL, **{field: value}))
    with pytest.raises(ValueError, match=rf"differs from that of FCN-32s in {field} \({value} against .*results-"):
        table.add("FCN-8s", other)
    assert [row.name for row in table.rows] == ["FCN-32s"]
    assert table.path.read_bytes() == before
    assert other.protocol.key != PROTOCOL.key
    table.add("FCN-32s", other)  # the only row may be measured anew


def test_device_seed_precision_and_minutes_may_differ(table):
    table.add("a", evaluation(), seed=0, minutes=1)
    gpu = replace(PROTOCOL, device="Tesla T4", precision="fp16")
    table.add("b", evaluation(protocol=gpu), seed=1, minutes=40)
    assert gpu.key == PROTOCOL.key
    assert "Tesla T4, fp16" in table.to_markdown()


def test_untrained_models_have_no_result(table, monkeypatch):
    table.add("FCN-8s", evaluation(80))
    table.add("fresh", evaluation(97), trained=False, parameters=5_000_000)
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    for name in ("tiny", "FCN-8s"):
        table.add(name, evaluation(93, protocol=replace(PROTOCOL, images=12)))
    text = table.to_markdown()
    assert not re.search("97|93", text)
    assert "| 5.00 |" in text
    assert "not trained" in text
    (row,) = ResultsTable(table.path).rows
    assert (row.name, row.mean_iou) == ("FCN-8s", pytest.approx((100 / 120 + 0.8) / 2))
    monkeypatch.setenv("LAB_PROFILE", "smoke")
    table.add("fresh", evaluation(70))
    assert len(ResultsTable(table.path).rows) == 2


def test_frame_and_csv_hold_every_field_unrounded(table):
    assert len(table.frame) == 0
    table.add("a|b", evaluation(40), flops=5_400_000_000, inference_ms=0.1 + 0.2, seed=3)
    table.add("b", evaluation(80))
    lines = records(table).values()
    fields = ("name", "flops", "seed", "inference_ms", "dataset", "band_foreground_iou")
    assert [[line[field] for field in fields] for line in lines] == [
        ["a|b", "5400000000", "3", repr(0.1 + 0.2), "scenes", ""],
        ["b", "", "", "", "scenes", ""],
    ]
    assert [float(line["mean_iou"]) for line in lines] == [row.mean_iou for row in table.rows]
    assert table.frame.sort_values("mean_iou", ascending=False)["name"].tolist() == ["b", "a|b"]


def test_whole_formats(table):
    """To the letter, as tables that were printed earlier look like that."""
    assert "No results yet" in table.to_markdown()
    assert table.to_latex()
    table.add("FCN_8s", evaluation(), seed=1, minutes=0.5, parameters=1_234_567, inference_ms=12.34, memory_mb=56.7)
    columns = (
        "Model | mIoU | Pixel accuracy | mIoU, 5 px band | Foreground IoU, 5 px band | Parameters (M) | "
        "Inference (ms) | Memory (MB) | Training (min) | Seed | Device"
    )
    cells = "FCN_8s | 65.7 [65.7, 65.7] | 80.0 | 40.0 | – | 1.23 | 12.3 | 57 | 0.5 | 1 | cpu, fp32"
    caption = (
        "scenes val, 30 images, 128x128 pixels, 3 classes, 255 ignored; one matrix over the whole set, mean over the "
        "classes that occur. Scores in percent, 95 % intervals over the choice of images."
    )
    rule = " | ".join(["---"] + ["---:"] * 10)
    assert table.to_markdown() == f"| {columns} |\n| {rule} |\n| {cells} |\n\n{caption}\n" == repr(table)

    def latex(text):
        return text.replace("_", r"\_").replace("%", r"\%").replace("–", "--").replace(" | ", " & ")

    assert table.to_latex() == (
        "\\begin{tabular}{lrrrrrrrrrr}\n\\hline\n"
        f"{latex(columns)} \\\\\n\\hline\n{latex(cells)} \\\\\n\\hline\n\\end{{tabular}}\n\n{latex(caption)}\n"
    )
    page = table._repr_html_()
    assert html_rows(page) == [columns.split(" | "), cells.split(" | ")]
    assert page.endswith(f'<p style="font-size:smaller;max-width:60em">{caption}</p>')


def test_a_protocol_says_its_prompts_and_old_ones_keep_their_keys():
    boxes = replace(PROTOCOL, prompts="the box of every true object")
    assert str(boxes) == f"{PROTOCOL}; prompted with the box of every true object"
    assert boxes.differences(PROTOCOL) == ["prompts (the box of every true object against none)"]
    old = Protocol("scenes", "val", 150, 21, labels="530e7b7fc416", size="128x128")
    assert old.key == "scenes-val-46c9b94e"  # as files were named before there were prompts


def test_rows_from_before_flops_and_prompts_are_read(folder):
    path = folder / f"results-{PROTOCOL.key}.json"
    table = ResultsTable(path)
    table.add("FCN-8s", evaluation(), parameters=5, inference_ms=2.0)
    stored = json.loads(path.read_text())
    for row in stored["rows"]:
        for name in ("flops", "cost_size", "boundary_iou"):
            del row[name]
        del row["protocol"]["prompts"]
    path.write_text(json.dumps(stored))
    again = ResultsTable(path)
    assert again.rows[-1] == table.rows[-1]
    assert "a size that was not noted" in FinalTable(folder).sections()[0].caption
    again.add("FCN-16s", evaluation())


def test_a_failed_write_keeps_the_old_table(table, monkeypatch):
    table.add("a", evaluation())
    before = table.path.read_bytes()
    monkeypatch.setattr("os.fsync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        table.add("b", evaluation())
    assert table.path.read_bytes() == before
    assert [row.name for row in table.rows] == ["a"]
    assert {file.name for file in table.path.parent.iterdir()} == {table.path.name, "results.lock"}


@pytest.mark.parametrize("odd", [{"minutes": "3"}, {"flops": 1e9}, {"parameters": "a"}])
def test_a_row_that_could_not_be_read_again_is_not_written(table, odd):
    table.add("a", evaluation())
    before = table.path.read_bytes()
    with pytest.raises(ValueError, match=f"{next(iter(odd))} is "):
        table.add("b", evaluation(), **odd)
    assert table.path.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["", "[]", '{"rows": [1]}', '{"rows": [{"name": "a"}]}', '{"rows": [{"protocol": {}}]}', "[" * 10**5]
)
def test_a_file_that_is_no_table_is_named(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"results\.json is not a results table"):
        ResultsTable(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", 1), ("name", ["a"]), ("mean_iou", "0.5"), ("mean_iou", math.nan), ("mean_iou", math.inf),
     ("parameters", 10**400), ("parameters", 0.5), ("class_iou", 1), ("class_iou", ["a"]), ("cost_size", None),
     ("average_precision", {"mask_ap": "a"}), ("average_precision", [])],
)  # fmt: skip
def test_a_table_with_other_values_than_a_row_has_is_named(table, field, value):
    table.add("a", evaluation())
    stored = json.loads(table.path.read_text())
    stored["rows"][0][field] = value
    table.path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=rf"{table.path.name} is not a results table \({field} is "):
        ResultsTable(table.path)


def test_a_table_of_version_0_1_is_read(table):
    table.add("FCN-8s", evaluation(60))
    stored = json.loads(table.path.read_text())
    for row in stored["rows"]:
        del row["class_iou"]
        row["expected"] = "63.1 (VOC)"
    table.path.write_text(json.dumps(stored))
    (row,) = ResultsTable(table.path).rows
    assert (row.name, row.class_iou) == ("FCN-8s", None)


def test_the_iou_of_each_class_is_kept(table):
    table.add("a", evaluation(60))
    shares = evaluation(60).scores.class_iou
    kept = ResultsTable(table.path).rows[0].class_iou
    assert kept == [None if np.isnan(iou) else pytest.approx(iou) for iou in shares]
    assert None in kept


def test_two_models_are_compared_on_the_same_images(table):
    measured = {}
    for name, right in {"a": 80, "b": 60}.items():
        measured[name] = evaluation(right)
        measured[name].band_matrices[5] = measured[name].matrices
    (row,) = compare(measured, [("a", "b")]).rows
    gain = 100 * (METRICS["mean_iou"](measured["a"].matrix) - METRICS["mean_iou"](measured["b"].matrix))
    assert row[:3] == ["a − b", f"{gain:+.1f} [{gain:+.1f}, {gain:+.1f}]", "100%"]  # all images are alike
    assert [float(cell) for cell in re.findall(r"[+-][\d.]+", row[3])] == pytest.approx([20.0] * 3)
    measured["c"] = evaluation(per_image=False)
    with pytest.raises(ValueError, match="per_image=True"):
        compare(measured, [("a", "c")])


# --- what the course expects ---


def test_the_figures_of_the_course():
    given = {"FCN-32s": "59.4 140 35", "FCN-16s": "61.2 140 38", "FCN-8s": "63.1 140 42", "DeepLabV3+": "77.5 60 80"}
    given |= {"SAM (zero-shot)": "75.0 636 1,050", "SAM (fine-tuned)": "82.0 636 1,050"}
    shown = {name: figures for name, _, *figures, describes in expected_table().rows if describes}
    assert {name: " ".join(shown[name]) for name in given} == given
    assert shown["Mini-SAM"] == ["65 to 68", "5", "60"]
    for name, figures in shown.items():
        model = course_model(name)
        assert figures == [model.mean_iou, model.parameters or "–", model.inference_ms or "–"]


def test_every_lab_with_models_is_there_once():
    assert len({model.name for model in COURSE_MODELS}) == len(COURSE_MODELS)
    labs = [model.lab for model in COURSE_MODELS]
    assert labs == sorted(labs)
    assert Counter(labs) == {"02": 3, "03": 2, "04": 2, "05": 14, "06": 1, "07": 2, "08": 1}


def found_objects() -> InstanceEvaluation:
    """As of a detector; large objects do not occur."""
    mask = AveragePrecision(0.37, 0.79, 0.31, 0.2, 0.5, float("nan"), np.full(3, np.nan))
    protocol = replace(PROTOCOL, averaging="COCO's average precision")
    return InstanceEvaluation(mask, replace(mask, ap=0.45, ap50=0.88), protocol, 0.04, [], [])


def test_average_precision_has_a_table_of_its_own(table, tmp_path):
    table.add("FCN-8s", evaluation())
    with pytest.raises(ValueError, match="Mask R-CNN cannot join .*averaging"):
        table.add("Mask R-CNN", found_objects())
    objects = ResultsTable(tmp_path / "new" / f"results-{found_objects().protocol.key}.json")
    objects.add("Mask R-CNN", found_objects(), minutes=1.5, parameters=3_000_000)
    (text,) = ResultsTable(objects.path).sections()  # as it is read again
    shown = dict(zip(text.header, text.rows[0], strict=True))
    assert "mIoU" not in shown
    assert [shown[name] for name in ("Mask AP", "Mask AP50", "Mask AP, large", "Box AP")] == [
        "37.0",
        "79.0",
        "–",
        "45.0",
    ]
    assert "Scores in percent." in text.caption
    whole = FinalTable(tmp_path / "new").sections()
    assert [part.title for part in whole[:2]] == ["scenes val, 30 images", "scenes val, 30 images, objects"]
    assert "Mask AP50" in whole[1].header
    assert "Mask AP50" not in whole[0].header


def test_objects_of_the_tiny_profile_are_dashes(table, monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    table.add("Mask R-CNN", found_objects())
    (text,) = table.sections()
    assert dict(zip(text.header, text.rows[0], strict=True))["Mask AP"] == "–"
    assert not table.path.exists()


def test_what_is_published_of_average_precision():
    names = {row[0]: row[1:5] for row in published_average_precision().rows}
    assert names["torchvision, maskrcnn_resnet50_fpn"] == ["34.6", "–", "–", "37.9"]
    published = MaskRCNN_ResNet50_FPN_Weights.DEFAULT.meta["_metrics"]["COCO-val2017"]
    assert published == {"box_map": 37.9, "mask_map": 34.6}


def test_a_variant_belongs_to_its_model():
    models = {
        "FCN-8s": ["FCN-8s", "FCN-8s, CE + Dice"],
        "DeepLabV3": ["DeepLabV3"],
        "DeepLabV3+": ["DeepLabV3+, own loss"],
        "Mini-SAM": ["Mini-SAM, 21 classes, shipped"],
        "SAM (zero-shot)": ["SAM (zero-shot), boxes"],
        None: ["FCN-8", "SegFormer, mit_b0"],
    } | {name: [name] for name in ("DeepLabV3+, resnet34", "U-Net, bilinear", "U-Net, tu-tf_efficientnet_lite0")}
    for model, rows in models.items():
        assert [getattr(course_model(row), "name", None) for row in rows] == [model] * len(rows)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("on ResNet-50 FCN-8s has 24 M", "fcn8s"),
        ("on the ResNet-50 of lab 03 it has 40 M", "deeplabv3plus"),
        ("ours does have 5 M", "mini_sam"),
    ],
)
def test_what_the_note_says_about_networks_that_are_built_here(words, name):
    with torch.device("meta"):
        assert words.endswith(f" {count_parameters(build(name)) / 1e6:.0f} M")
    assert words in NOTE


def test_the_courses_figures_stand_in_the_table_only_beside_scores_on_its_images(tmp_path):
    courses = replace(PROTOCOL, dataset="VOC2012", images=1449)
    for protocol in (PROTOCOL, courses):
        table = ResultsTable(tmp_path / f"results-{protocol.key}.json")
        for name in ("FCN-8s", "FCN-8s, CE + Dice"):
            table.add(name, evaluation(60, protocol))
        (shown,) = table.sections()
        alike = protocol is courses
        assert [row[-1] for row in shown.rows] == (["63.1", "–"] if alike else ["cpu, fp32"] * 2)
        assert ("no comparison for these scores, the course expects FCN-8s 63.1 %." in shown.caption) is not alike
    scenes, voc = sorted(FinalTable(tmp_path).sections()[:2], key=lambda section: section.title, reverse=True)
    assert "Course, VOC: mIoU" not in scenes.header
    assert [cells(voc)["FCN-8s"][name] for name in voc.header[-3:]] == ["63.1", "140", "42"]


@pytest.mark.parametrize("protocol", [BOXES, replace(BOXES, dataset="VOC2012", images=1449)])
def test_what_boxes_of_the_truth_reached_stands_apart_from_what_the_course_expects(tmp_path, protocol):
    table = ResultsTable(tmp_path / f"results-{protocol.key}.json")
    for name in ("Mini-SAM", "Mini-SAM, shipped", "SAM (zero-shot)"):
        table.add(name, evaluation(60, protocol), **COSTS)
    for shown in (table.sections()[0], FinalTable(tmp_path).sections()[0]):
        assert list(cells(shown)) == ["Mini-SAM", "Mini-SAM, shipped", "SAM (zero-shot)"]
        assert not re.search("course|65 to 68|75.0", shown.to_markdown(), re.IGNORECASE)
    assert "65 to 68" in FinalTable(tmp_path).sections()[-1].to_markdown()


# --- all models ---


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
    return {row[0]: dict(zip(section.header, row, strict=True)) for row in section.rows}


LISTED = [model.name for model in COURSE_MODELS if model.lab < "08" and (model.lab != "05" or model.mean_iou)]


def test_each_protocol_has_columns_of_its_own(folder):
    plain, boxes, missing, expected = FinalTable(folder).sections()
    assert list(cells(plain)) == ["FCN-8s", "DeepLabV3+", "own idea"]
    assert list(cells(boxes)) == ["SAM (zero-shot)"]
    assert plain.title == "scenes val, 30 images"
    assert boxes.title.endswith("prompted with the box of every true object, whose class the answer gets")
    assert "512 x 512 pixels on cpu, fp32" in plain.caption
    texts = cells(plain)["FCN-8s"]
    dash = "–"  # no Boundary IoU: a result from before it was measured
    ours = ["FCN-8s", "02", "65.7 [65.7, 65.7]", "80.0", dash, "2.00", "5.4", "1,180.5", "70", "0.4"]
    assert list(texts.values()) == ours
    named = ("mIoU", "Boundary IoU", "Parameters (M)", "FLOPs (G)", "Inference (ms)", "Memory (MB)", "Training (min)")
    assert [name for name in texts if name in named] == list(named)
    run = {"FCN-8s", "DeepLabV3+", "SAM (zero-shot)"}
    assert list(cells(missing)) == [name for name in LISTED if name not in run]
    assert [cells(missing)["Mini-SAM"][name] for name in ("mIoU", "Course, VOC: mIoU")] == ["–", "65 to 68"]
    assert expected.title == "What the course expects"


def test_what_was_measured_otherwise_says_so_in_its_row(folder):
    table = ResultsTable(folder / f"results-{PROTOCOL.key}.json")
    table.add("DeepLabV3", evaluation(40))
    plain = FinalTable(folder).sections()[0]
    assert "Measured with" not in plain.header
    assert "FLOPs, time and memory: one image of 512 x 512 pixels on cpu, fp32." in plain.caption
    table.add("FCN-16s", evaluation(50), inference_ms=12.0, **{**COSTS, "cost_size": "256 x 256"})
    table.add("FCN-32s", evaluation(40, replace(PROTOCOL, device="Tesla T4")), inference_ms=7.0, **COSTS)
    plain = FinalTable(folder).sections()[0]
    assert sum(name.startswith("Inference") for name in plain.header) == 1
    measured = {name: row["Measured with"] for name, row in cells(plain).items()}
    assert measured["FCN-8s"] == measured["DeepLabV3+"] == "one image of 512 x 512 pixels on cpu, fp32"
    assert "256 x 256" in measured["FCN-16s"]
    assert "Tesla T4" in measured["FCN-32s"]
    assert measured["DeepLabV3"] == cells(plain)["DeepLabV3"]["Memory (MB)"] == "–"
    assert "FLOPs, time and memory" not in plain.caption


def test_exports_hold_everything(folder):
    table = FinalTable(folder)
    lines = records(table)
    assert set(lines) == {*LISTED, "own idea"}
    assert float(lines["FCN-8s"]["mean_iou"]) == pytest.approx((100 / 140 + 0.6) / 2, abs=1e-12)
    for name, fields in {
        "FCN-8s": {"flops": "5400000000", "cost_size": "512 x 512", "prompts": "none", "size": "128x128"}
        | {"course_mean_iou": "63.1", "course_parameters_m": "140", "protocol_key": PROTOCOL.key},
        "SAM (zero-shot)": {"prompts": BOXES.prompts, "protocol_key": BOXES.key},
        "Mini-SAM": {"mean_iou": "", "course_mean_iou": "65 to 68"},
    }.items():
        assert fields.items() <= lines[name].items()
    for text in (table.to_markdown(), table.to_latex(), table._repr_html_()):
        for name in ("FCN-8s", "own idea", "SAM (zero-shot)", "Mini-SAM", "1,180.5", "5.4", "ViT-B"):
            assert name in text
    assert table.to_latex().count(r"\begin{tabular}") == table.to_markdown().count("### ") == 4


def test_an_empty_folder_shows_what_is_missing(tmp_path):
    table = FinalTable(tmp_path)
    missing, _ = table.sections()
    assert Counter(row[1] for row in missing.rows) == {"02": 3, "03": 2, "04": 2, "05": 6, "06": 1, "07": 2}
    with pytest.raises(ValueError, match="no result under the protocol None; known: none"):
        table.against_latency()


def test_lab_05_was_run_with_whatever_encoder(tmp_path):
    ResultsTable(tmp_path / f"results-{PROTOCOL.key}.json").add("U-Net, tu-tf_efficientnet_lite1", evaluation(50))
    shown, missing, _ = FinalTable(tmp_path).sections()
    assert cells(shown)["U-Net, tu-tf_efficientnet_lite1"]["Lab"] == "05"
    assert {row[1] for row in missing.rows} == {"02", "03", "04", "06", "07"}


def test_the_same_result_twice_is_an_error(folder):
    shutil.copy(folder / f"results-{PROTOCOL.key}.json", folder / "results-copy.json")
    with pytest.raises(ValueError, match=r"both hold own idea under the same protocol\. Move one"):
        FinalTable(folder)


def test_accuracy_against_latency_stays_inside_one_protocol(folder, capfd):
    ResultsTable(folder / f"results-{PROTOCOL.key}.json").add("FCN-32s", evaluation(40), inference_ms=9.0)
    table = FinalTable(folder)
    drawn = table.against_latency()
    assert drawn["names"] == ["FCN-8s", "DeepLabV3+", "own idea"]
    assert drawn["x"] == [1180.5, 250.0, 30.0]
    assert [drawn["names"][i] for i in drawn["front"]] == ["own idea", "DeepLabV3+"]
    assert drawn["groups"] == ["lab 02", "lab 03", "others"]
    assert "512 x 512 pixels on cpu, fp32" in drawn["xlabel"]
    assert drawn["xlabel"].endswith("\n(not timed so: FCN-32s)")
    assert capfd.readouterr() == ("", "")
    axes = plots.scatter(**drawn).axes[0]
    assert axes.get_xscale() == "log"
    assert table.against_latency(BOXES.key)["names"] == ["SAM (zero-shot)"]
    with pytest.raises(ValueError, match=r"'nowhere'; known: scenes-val-"):
        table.against_latency("nowhere")
    other = replace(PROTOCOL, images=12)
    ResultsTable(folder / f"results-{other.key}.json").add("FCN-8s", evaluation(60, other))
    with pytest.raises(ValueError, match="has a score, a time and a count of parameters: run a lab again"):
        FinalTable(folder).against_latency(other.key)
