"""The results table: one protocol, rows by name, whole on disk."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from labhelpers.evaluation import Evaluation, Protocol, ResultsTable, scores

PROTOCOL = Protocol("scenes", "val", 30, 3, labels="1f", size="128x128")


@pytest.fixture(autouse=True)
def real_profile(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "smoke")


def evaluation(right: int = 60, protocol: Protocol = PROTOCOL, per_image: bool = True) -> Evaluation:
    matrices = np.zeros((30, 3, 3), dtype=np.int32)
    matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 1, 0] = 100, right, 100 - right
    total = matrices.sum(0, dtype=np.int64)
    kept = matrices if per_image else None
    return Evaluation(scores(total), {5: 0.4}, {5: float("nan")}, protocol, 1.0, total, kept, {})


def test_rows_survive_on_disk_in_order_and_are_replaced_by_name(tmp_path):
    table = ResultsTable(tmp_path / "new" / "results.json")
    table.add("FCN-32s", evaluation(40), seed=1, minutes=0.5, parameters=1_234_567, inference_ms=12.34, memory_mb=56.7)
    assert "| 1.23 | 12.3 | 57 | 0.5 | 1 |" in table.to_markdown()
    table.add("FCN-8s", evaluation(80), expected="63.1 mIoU")
    table.add("FCN-32s", evaluation(50))
    again = ResultsTable(table.path)
    assert again.rows == table.rows
    assert [row.name for row in again.rows] == ["FCN-32s", "FCN-8s"]
    assert again.rows[0].mean_iou == pytest.approx((100 / 150 + 0.5) / 2)
    assert again.rows[0].mean_iou_low == pytest.approx(again.rows[0].mean_iou)  # all images are alike
    assert again.rows[1].band_foreground_iou is None
    assert [file.name for file in table.path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", "voc2012"),
        ("split", "train"),
        ("images", 12),
        ("num_classes", 21),
        ("labels", "2e"),
        ("size", "256x256"),
        ("void", "0 ignored"),
        ("averaging", "mean of batches"),
        ("prompts", "a box"),
    ],
)
def test_protocols_are_not_mixed(tmp_path, field, value):
    table = ResultsTable(tmp_path / "results.json")
    table.add("FCN-32s", evaluation())
    before = table.path.read_bytes()
    other = evaluation(protocol=replace(PROTOCOL, **{field: value}))
    with pytest.raises(ValueError, match=rf"differs from that of FCN-32s in {field} \({value} against .*results-"):
        table.add("FCN-8s", other)
    assert [row.name for row in table.rows] == ["FCN-32s"]
    assert table.path.read_bytes() == before
    assert other.protocol.key != PROTOCOL.key
    table.add("FCN-32s", other)  # the only row may be measured anew


def test_device_seed_precision_and_minutes_may_differ(tmp_path):
    table = ResultsTable(tmp_path / "results.json")
    table.add("a", evaluation(), seed=0, minutes=1)
    gpu = replace(PROTOCOL, device="Tesla T4", precision="fp16")
    table.add("b", evaluation(protocol=gpu), seed=1, minutes=40)
    assert gpu.key == PROTOCOL.key
    assert "Tesla T4, fp16" in table.to_markdown()


def test_untrained_models_have_no_result(tmp_path, monkeypatch):
    table = ResultsTable(tmp_path / "results.json")
    table.add("FCN-8s", evaluation(80))
    table.add("fresh", evaluation(97), trained=False, parameters=5_000_000)
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    other = evaluation(93, protocol=replace(PROTOCOL, images=12))
    table.add("tiny", other)
    table.add("FCN-8s", other)
    text = table.to_markdown()
    assert "97" not in text
    assert "93" not in text
    assert "5.00" in text
    assert "not trained" in text
    assert [row.name for row in ResultsTable(table.path).rows] == ["FCN-8s"]
    assert ResultsTable(table.path).rows[0].mean_iou == pytest.approx((100 / 120 + 0.8) / 2)
    monkeypatch.setenv("LAB_PROFILE", "smoke")
    table.add("fresh", evaluation(70))
    assert len(ResultsTable(table.path).rows) == 2


def test_formats(tmp_path):
    table = ResultsTable(tmp_path / "results.json")
    assert "No results yet" in table.to_markdown()
    assert table.to_latex()
    table.add("a|b & <c>_1", evaluation(), expected="59.4 % mIoU", inference_ms=2)
    markdown, latex, page = table.to_markdown(), table.to_latex(), table._repr_html_()
    lines = markdown.splitlines()
    assert lines[0].startswith("| Model | mIoU | Pixel accuracy | mIoU, 5 px band |")
    assert r"a\|b & <c>_1" in lines[2]
    assert "| 65.7 [65.7, 65.7] | 80.0 | 40.0 | – |" in lines[2]
    assert "scenes val, 30 images, 128x128 pixels, 3 classes, 255 ignored; one matrix" in markdown
    assert r"a|b \& <c>\_1" in latex
    assert r"59.4 \% mIoU \\" in latex
    assert "a|b &amp; &lt;c&gt;_1" in page
    (record,) = csv.DictReader(io.StringIO(table.to_csv()))
    assert record["name"] == "a|b & <c>_1"
    assert float(record["mean_iou"]) == table.rows[0].mean_iou
    assert record["band_foreground_iou"] == ""
    assert record["dataset"] == "scenes"


def test_whole_formats(tmp_path):
    """To the letter, as tables that were printed earlier look like that."""
    table = ResultsTable(tmp_path / "results.json")
    table.add("FCN_8s", evaluation(), seed=1, minutes=0.5, parameters=1_234_567, inference_ms=12.34, memory_mb=56.7)
    columns = (
        "Model | mIoU | Pixel accuracy | mIoU, 5 px band | Foreground IoU, 5 px band | Parameters (M) | "
        "Inference (ms) | Memory (MB) | Training (min) | Seed | Device | The course expects"
    )
    cells = "FCN_8s | 65.7 [65.7, 65.7] | 80.0 | 40.0 | – | 1.23 | 12.3 | 57 | 0.5 | 1 | cpu, fp32 | –"
    caption = (
        "scenes val, 30 images, 128x128 pixels, 3 classes, 255 ignored; one matrix over the whole set, mean over the "
        "classes that occur. Scores in percent, 95 % intervals over the choice of images."
    )
    rule = " | ".join(["---"] + ["---:"] * 11)
    assert table.to_markdown() == f"| {columns} |\n| {rule} |\n| {cells} |\n\n{caption}\n"

    def latex(text):
        return text.replace("_", r"\_").replace("%", r"\%").replace("–", "--").replace(" | ", " & ")

    assert table.to_latex() == (
        "\\begin{tabular}{lrrrrrrrrrrr}\n\\hline\n"
        f"{latex(columns)} \\\\\n\\hline\n{latex(cells)} \\\\\n\\hline\n\\end{{tabular}}\n\n{latex(caption)}\n"
    )
    head, body = (
        "".join(f"<{tag}>{c}</{tag}>" for c in line.split(" | "))
        for tag, line in zip(("th", "td"), (columns, cells), strict=True)
    )
    assert table._repr_html_() == (
        f"<table><thead><tr>{head}</tr></thead><tbody><tr>{body}</tr></tbody></table>"
        f'<p style="font-size:smaller;max-width:60em">{caption}</p>'
    )


def test_a_protocol_says_under_what_conditions_a_score_was_measured():
    camvid = Protocol("camvid", "val", 101, 11, labels="1f", size="480x360")
    assert str(camvid) == (
        "camvid val, 101 images, 480x360 pixels, 11 classes, 255 ignored; one matrix over the whole set, mean over the "
        "classes that occur"
    )


def test_a_protocol_says_what_the_model_was_told():
    boxes = replace(PROTOCOL, prompts="the box of every true object")
    assert str(boxes) == f"{PROTOCOL}; prompted with the box of every true object"
    assert boxes.differences(PROTOCOL) == ["prompts (the box of every true object against none)"]
    assert boxes.key != PROTOCOL.key
    old = Protocol("scenes", "val", 150, 21, labels="530e7b7fc416", size="128x128")
    assert old.key == "scenes-val-46c9b94e"  # as files were named before there were prompts


def test_rows_from_before_flops_and_prompts_are_read(tmp_path):
    table = ResultsTable(tmp_path / "results.json")
    table.add("FCN-8s", evaluation(), parameters=5, inference_ms=2.0)
    stored = json.loads(table.path.read_text())
    for name in ("flops", "cost_size", "boundary_iou"):
        del stored["rows"][0][name]
    del stored["rows"][0]["protocol"]["prompts"]
    table.path.write_text(json.dumps(stored))
    assert ResultsTable(table.path).rows == table.rows
    ResultsTable(table.path).add("FCN-16s", evaluation())


def test_without_matrices_there_is_no_interval(tmp_path):
    row = ResultsTable(tmp_path / "results.json").add("a", evaluation(per_image=False))
    assert row.mean_iou is not None
    assert row.mean_iou_low is None


def test_a_failed_write_keeps_the_old_table(tmp_path, monkeypatch):
    table = ResultsTable(tmp_path / "results.json")
    table.add("a", evaluation())
    before = table.path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        table.add("b", evaluation())
    assert table.path.read_bytes() == before
    assert [row.name for row in table.rows] == ["a"]
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".partial"] == []


@pytest.mark.parametrize("text", ["", "[]", '{"rows": [{"name": "a"}]}', json.dumps({"rows": [{"protocol": {}}]})])
def test_a_file_that_is_no_table_is_named(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"results\.json is not a results table"):
        ResultsTable(path)
