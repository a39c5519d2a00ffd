"""The evaluator: whole set, own resolution, nothing padded, nothing changed; and what a model costs."""

import copy
import re
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training_toys import InMemory

from labhelpers.data.augment import to_input
from labhelpers.evaluation import (
    ConfusionMatrix,
    ResultsTable,
    costs,
    count_flops,
    count_parameters,
    edges_of_found,
    evaluate,
    object_recall,
    predict,
    scores_by_size,
    side_by_side,
)  # fmt: skip
from labhelpers.evaluation.boundary import band_matrices, band_scores, boundary_counts, boundary_iou
from labhelpers.evaluation.costs import inference_memory_mb, peak_memory_mb, time_inference
from labhelpers.models import build
from labhelpers.prompting import load_predictor, prompt_costs
from labhelpers.training import build_loss

SIZES = [(24, 32), (32, 24), (24, 32), (17, 21), (24, 32), (32, 24), (24, 32)]


class Pictures(InMemory):
    """Random pictures of the given sizes; bright pixels are of class 1 and 2, with some void."""

    def __init__(self, sizes=SIZES, seed=0):
        rng = torch.Generator().manual_seed(seed)
        super().__init__("pictures", "val", ("ground", "one", "two"), [self._draw(*size, rng) for size in sizes])

    @staticmethod
    def _draw(height, width, rng):
        blocks = torch.randint(0, 3, (1, 1, 4, 4), generator=rng).float()
        target = F.interpolate(blocks, (height, width))[0, 0].to(torch.uint8)
        image = torch.randint(0, 80, (3, height, width), generator=rng, dtype=torch.uint8) + 60 * target
        target[:2, :5] = 255
        return image, target

    def instances(self, index):
        return self.items[index][1]  # one object per class


class Pooling(nn.Module):
    """Global pooling beside a convolution, as in ASPP: padding an image changes every one of its logits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.image = nn.Linear(6, 3)
        self.head = nn.Conv2d(6, 3, 1)
        torch.manual_seed(5)  # so drawn that all three classes are predicted
        nn.init.normal_(self.head.weight)
        nn.init.normal_(self.image.weight)

    def forward(self, x):
        features = self.encoder(x)
        return self.head(features) + self.image(features.mean((2, 3)))[:, :, None, None]


class Constant(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.forward = logits


def plain_loop(model, dataset):
    gathered, bands, near_edges = ConfusionMatrix(dataset.num_classes), 0, 0
    for image, target in dataset.items:
        prediction = predict(model, image)
        gathered.update(prediction, target)
        bands += band_matrices(prediction, target, dataset.num_classes, (1, 5))
        near_edges += boundary_counts(prediction, target, dataset.num_classes)
    return gathered, band_scores((1, 5), bands.numpy()), boundary_iou(near_edges.numpy())


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_of_equal_sizes_give_what_single_images_give(batch_size):
    model, dataset = Pooling(), Pictures()
    gathered, bands, near_edges = plain_loop(model, dataset)
    evaluation = evaluate(model, dataset, batch_size=batch_size, bands=(1, 5))
    assert evaluation.boundary_iou == near_edges
    np.testing.assert_array_equal(evaluation.matrix, gathered.matrix)
    assert str(evaluation.scores) == str(gathered.compute())
    np.testing.assert_equal(asdict(evaluation.scores), asdict(gathered.compute()))
    assert (evaluation.band_mean_iou, evaluation.band_foreground_iou) == bands
    for matrix, (image, target) in zip(evaluation.matrices, dataset.items, strict=True):  # in the set's order
        one = ConfusionMatrix(3)
        one.update(predict(model, image), target)
        np.testing.assert_array_equal(matrix, one.matrix)
    assert evaluation.band_matrices[5].shape == (len(dataset), 3, 3)
    assert evaluation.matrices.dtype == np.int32


def test_batches_are_full_equal_and_bounded(monkeypatch):
    seen = []
    model = Constant(lambda x: seen.append(tuple(x.shape)) or x)
    evaluate(model, Pictures(), batch_size=2)
    assert seen == [(2, 3, 24, 32), (2, 3, 32, 24), (2, 3, 24, 32), (1, 3, 17, 21)]
    seen.clear()
    monkeypatch.setattr("labhelpers.evaluation.evaluator._MAX_WAITING", 3)
    evaluate(model, Pictures(), batch_size=100)
    images = [shape[0] for shape in seen]
    assert (sum(images), max(images) <= 3) == (len(SIZES), True)


def test_a_model_that_is_right_scores_one():
    dataset = Pictures()
    for image, target in dataset.items:
        image[:] = torch.tensor([10, 120, 200], dtype=torch.uint8)[target.clamp(max=2).long()]
    bright = Constant(lambda x: torch.stack([-(x.mean(1) - level).abs() for level in (-1.6, 0.0, 1.0)], 1))
    evaluation = evaluate(bright, dataset)
    assert evaluation.scores.mean_iou == evaluation.scores.pixel_accuracy == 1
    assert evaluation.band_foreground_iou == {5: 1.0}
    assert scores_by_size(bright, dataset)["large"].recall == 1


def test_models_side_by_side_are_columns_of_a_grid():
    pictures, models = Pictures(), {"a": Constant(lambda x: x), "b": Constant(lambda x: -x)}
    columns = side_by_side(models, pictures, [3, 0])
    assert list(columns) == ["image", "truth", "a", "b"]
    for row, index in enumerate((3, 0)):
        image, target = pictures[index]
        assert torch.equal(columns["image"][row], image)
        assert torch.equal(columns["truth"][row], target)
        assert torch.equal(columns["b"][row], predict(models["b"], image))


def test_modes_come_back_even_after_an_error():
    model = Pooling()
    model.encoder.eval()  # a frozen encoder in a model that trains
    before, statistics = [module.training for module in model.modules()], model.encoder[1].running_mean.clone()
    evaluate(model, Pictures())
    predict(model, Pictures().items[0][0])
    model.head = nn.Conv2d(6, 4, 1)
    with pytest.raises(RuntimeError):
        evaluate(model, Pictures())
    assert [module.training for module in model.modules()] == before
    assert torch.equal(model.encoder[1].running_mean, statistics)
    assert torch.is_grad_enabled()


def test_the_protocol_names_what_was_measured():
    protocol = evaluate(Pooling(), Pictures()).protocol
    named = {"dataset": "pictures", "split": "val", "images": 7, "num_classes": 3, "size": "21x17 to 32x24"}
    assert (named | {"void": "255 ignored", "device": "cpu"}).items() <= asdict(protocol).items()
    other_model, other_set = Constant(lambda x: x), Pictures(seed=1)
    assert evaluate(other_model, Pictures(), batch_size=3, precision="bf16").protocol.key == protocol.key
    assert [text.split()[0] for text in protocol.differences(evaluate(other_model, other_set).protocol)] == ["labels"]


def test_without_images_kept_the_scores_are_the_same():
    kept, summed = evaluate(Pooling(), Pictures()), evaluate(Pooling(), Pictures(), per_image=False, bands=())
    np.testing.assert_array_equal(kept.matrix, summed.matrix)
    assert summed.matrices is summed.boundary_iou is None
    assert summed.band_mean_iou == summed.band_matrices == {}
    assert summed.protocol == kept.protocol


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (lambda x: x[:, :, ::2, ::2], r"logits \(1, 3, 12, 16\).*wanted \(1, 3, 24, 32\).*Upsample"),
        (lambda x: x[:, :2], r"logits \(1, 2, 24, 32\), so it has K = 2 classes, but the data has 3: .*num_classes=3"),
        (lambda x: x.repeat(1, 7, 1, 1), "K = 21 classes, but the data has 3"),
        (lambda x: x[:, 0], r"logits \(1, 24, 32\)"),
        (lambda x: {"aux_loss": x.mean(), "out": x}, r"returned a dict .*forward_hook.*: output\['out'\]"),
        (lambda x: (x.mean((1, 2, 3)), x), r"returned a tuple .*: output\[1\]"),
        (lambda x: [x, x], r"returned a list .*: output\[0\]"),
        (lambda x: SimpleNamespace(logits=x), r"returned a SimpleNamespace .*: output\.logits"),
        (lambda x: None, "returned a NoneType instead of logits"),
        (lambda x: x.argmax(1, keepdim=True).expand(-1, 3, -1, -1), "expected float logits"),
    ],
)
def test_wrong_logits_are_an_error(logits, message):
    with pytest.raises(ValueError, match=message):
        evaluate(Constant(logits), Pictures())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_logit_that_is_not_finite_is_refused_and_its_image_is_named(value):
    dataset, model = Pictures(), Constant(lambda x: torch.where(x > 2, value, x))
    dataset.items[4][0][0, 5, 7] = 255  # no other is that bright
    for batch_size in (1, 3):
        with pytest.raises(ValueError, match=r"for image 'val4' \(number 4 of pictures val\) hold NaN or infinity"):
            evaluate(model, dataset, batch_size=batch_size)
    with pytest.raises(ValueError, match="logits for the image hold NaN or infinity"):
        predict(model, dataset.items[4][0])
    assert predict(model, dataset.items[3][0]).shape == (17, 21)
    logits = model(to_input(torch.stack([dataset.items[i][0] for i in (0, 2, 4)])))
    gathered = ConfusionMatrix(3)
    with pytest.raises(ValueError, match="logits for image 2 of the batch hold NaN"):
        gathered.update(logits, torch.stack([dataset.items[i][1] for i in (0, 2, 4)]))
    assert not gathered.matrix.any()


def test_large_logits_are_finite():
    """Though their sum is not."""
    large = Constant(lambda x: torch.where(x > 0, 3e38, 0.0))
    assert evaluate(large, Pictures()).matrix.sum() == sum(int((t != 255).sum()) for _, t in Pictures().items)


def test_what_a_refusal_of_a_dict_advises_helps():
    wrapped = Constant(lambda x: {"aux": x.mean(), "out": x})
    with pytest.raises(ValueError, match="returned a dict") as refused:
        evaluate(wrapped, Pictures())
    eval(re.search(r"model\.register.*\)", str(refused.value))[0], {"model": wrapped})
    np.testing.assert_array_equal(
        evaluate(wrapped, Pictures()).matrix, evaluate(Constant(lambda x: x), Pictures()).matrix
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown precision 'half'; known: no, bf16, fp16"):
        evaluate(Pooling(), Pictures(), precision="half")
    with pytest.raises(ValueError, match="class_weights holds 2 numbers, and there are K = 3 classes"):
        evaluate(Pooling(), Pictures(), loss=build_loss("weighted_ce", [1.0, 2.0]))
    with pytest.raises(ValueError, match="pictures val holds no image"):
        evaluate(Pooling(), Pictures(sizes=[]))
    with pytest.raises(ValueError, match="uint8 image"):
        predict(Pooling(), torch.zeros(3, 8, 8))


def test_bf16_predicts_nearly_the_same():
    exact, rough = (evaluate(Pooling(), Pictures(), precision=precision) for precision in ("no", "bf16"))
    assert np.abs(exact.matrix - rough.matrix).sum() < 0.05 * exact.matrix.sum()


def test_a_distributed_wrapper_is_taken_off():
    """Its forward exchanges buffers, and would wait for ever for a process with fewer images."""
    wrapped = nn.Module()  # which has no forward
    wrapped.module = Pooling()
    one_process = SimpleNamespace(process_index=0, num_processes=1)
    one_process.unwrap_model, one_process.reduce = lambda model: model.module, lambda tensor, reduction: tensor
    evaluation = evaluate(wrapped, Pictures(), accelerator=one_process)
    np.testing.assert_array_equal(evaluation.matrices, evaluate(Pooling(), Pictures()).matrices)


def test_object_recall():
    target, instances, prediction = torch.zeros(3, 10, 10, dtype=torch.uint8)
    target[:2, :2], instances[:2, :2] = 1, 1
    target[5:9, 5:10], instances[5:9, 5:10] = 1, 2
    target[4], instances[4] = 255, 255
    prediction[5:9, 5:8] = 1
    np.testing.assert_allclose(object_recall(prediction, target, instances), [[0.04, 0], [0.2, 0.6]])
    with pytest.raises(ValueError, match="differ in size"):
        object_recall(prediction[:5], target, instances)


def test_sizes_are_shares_of_the_picture():
    dots = Pictures(sizes=[(96, 128)])
    _, target = dots.items[0]
    target[:] = 0
    target[:6, :6] = 1  # 36 of 12,288 pixels, below COCO's 0.33 %
    target[20:30, :20] = 2  # 1.6 %
    ones = Constant(lambda x: torch.stack([x[:, 0] * 0, x[:, 0] * 0 + 1, x[:, 0] * 0], 1))
    found = [(size.objects, size.recall, size.found) for size in scores_by_size(ones, dots).values()]
    assert list(scores_by_size(ones, dots)) == ["small", "medium", "large"]
    assert found[:2] == [(1, 1, 1), (1, 0, 0)]
    assert found[2][0] == 0
    assert np.isnan(found[2][1])


def test_edges_are_scored_of_the_objects_that_all_models_found():
    scene = Pictures(sizes=[(40, 40)])
    _, target = scene.items[0]
    target[:] = 0
    target[4:12, 4:12], target[24:34, 24:34] = 1, 2
    exact, thick = torch.zeros(2, 40, 40, dtype=torch.int64)
    exact[4:12, 4:12] = 1  # and the second object is missed
    thick[3:13, 3:13] = 1
    thick[24:34, 24:34] = 2
    models = {
        name: Constant(lambda x, labels=labels: F.one_hot(labels, 3).movedim(-1, 0)[None].float())
        for name, labels in {"exact": exact, "thick": thick}.items()
    }
    edges = edges_of_found(models, scene, (1, 3))
    assert (edges.objects, edges.found) == (2, 1)
    assert edges.band_foreground_iou["exact"] == {1: 1.0, 3: 1.0}
    # Of the band of one pixel, 28 pixels lie inside the object and 36 outside, where it was drawn too thick.
    assert edges.band_foreground_iou["thick"] == pytest.approx({1: 28 / 64, 3: 60 / 96})
    assert edges_of_found({"thick": models["thick"]}, scene, (1,)).found == 2


# --- costs ---


def test_a_multiplication_with_its_addition_is_two_operations():
    conv = nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=False)
    assert count_flops(conv, (16, 20)) == 2 * 3 * 8 * 9 * (8 * 10)
    linear = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    assert count_flops(linear, (16, 20)) == 2 * 3 * 5
    up = nn.ConvTranspose2d(3, 4, 2, stride=2, bias=False)
    assert count_flops(up, (6, 5)) == 2 * 3 * 4 * 4 * (6 * 5)


def test_operations_grow_with_the_area_and_the_model_stays_as_it_was():
    model = build("unet", num_classes=3, base_channels=4).train()
    before = copy.deepcopy(model.state_dict())
    assert count_flops(model, (128, 64)) == 4 * count_flops(model, (64, 32))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_costs_go_into_a_row(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "smoke")
    model, calls = nn.Conv2d(3, 2, 1), []
    model.register_forward_hook(lambda module, given, out: calls.append(tuple(given[0].shape)))
    assert time_inference(model, (16, 24), warmup=1, runs=4) > 0
    assert calls == [(1, 3, 16, 24)] * 5
    found = costs(model, (16, 24), warmup=1, runs=2)
    assert set(calls) == {(1, 3, 16, 24)}
    assert found["parameters"] == count_parameters(model) == 8
    assert count_parameters(nn.BatchNorm2d(6)) == 12  # not the statistics
    assert found["flops"] == 2 * 3 * 2 * 16 * 24
    assert found["inference_ms"] > 0
    assert found["memory_mb"] > 2 * 16 * 24 * 4 / 2**20
    assert found["cost_size"] == "24 x 16"  # width x height, as pictures are described

    table, evaluation = ResultsTable(tmp_path / "results.json"), evaluate(nn.Conv2d(3, 3, 1), Pictures([(16, 24)]))
    table.add("a", evaluation, **found)
    (row,) = ResultsTable(table.path).rows
    assert {name: getattr(row, name) for name in found} == found
    assert "Inference and memory: one image of 24 x 16 pixels." in table.to_markdown()
    table.add("b", evaluation, **{**found, "cost_size": "9 x 9"})
    assert "one image of 24 x 16 or 9 x 9 pixels." in table.to_markdown()


def test_a_predictor_costs_its_encoder_and_one_answer():
    predictor = load_predictor("mini_sam")
    seen = []
    encode = predictor.model.encode
    predictor.model.encode = lambda image: seen.append(image.shape) or encode(image)
    small = prompt_costs(predictor, (64, 96), warmup=1, runs=2)
    assert len(seen) >= 2 * (1 + 2)  # the picture and the window around the box, each time anew
    assert small["cost_size"] == "96 x 64"
    assert small["parameters"] == count_parameters(predictor.model)
    assert small["inference_ms"] > 0
    assert small["memory_mb"] > 4 * small["parameters"] / 2**20
    assert prompt_costs(predictor, (64, 96), warmup=0, runs=1)["flops"] == small["flops"]
    predictor.set_image(np.zeros((64, 96, 3), dtype=np.uint8))
    box = np.array([24.0, 16.0, 72.0, 48.0])
    predictor.predict(box=box)
    with FlopCounterMode(display=False) as decoder_only:
        predictor.predict(box=box)
    assert 0 < decoder_only.get_total_flops() < small["flops"]


def test_memory_of_a_predictor_prints_nothing():
    """PyTorch's profiler warns, once a process, if the last picture's embedding is released in the measured step."""
    code = "from labhelpers.prompting import load_predictor, prompt_costs;"
    code += "prompt_costs(load_predictor('mini_sam'), (64, 64), warmup=1, runs=1)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == run.stderr == ""


def test_peak_memory_is_what_lives_at_once():
    """Two tensors of 1 MB at once, though three are made; on a CPU here, by the same function as on a GPU."""
    cpu, made = torch.device("cpu"), []

    def step():
        first = torch.empty(2**18)
        second = torch.empty(2**18)
        del first
        made.append(torch.empty(2**18))
        del second

    assert peak_memory_mb(step, cpu) == pytest.approx(2, abs=0.05)
    assert len(made) == 1


def test_inference_memory_has_weights_and_activations():
    model = torch.nn.Conv2d(3, 8, 1, bias=False)
    activations = 8 * 64 * 64 * 4 / 2**20
    found = inference_memory_mb(model, (64, 64))
    assert found == pytest.approx(8 * 3 * 4 / 2**20 + activations, rel=0.2)
    assert inference_memory_mb(model, (128, 128)) > 3 * found
