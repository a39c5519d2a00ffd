"""The evaluator: whole set, own resolution, nothing padded, nothing changed."""

import os
import socket
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from labhelpers.data.augment import to_input
from labhelpers.data.base import SegmentationDataset
from labhelpers.evaluation import ConfusionMatrix, evaluate, object_recall, predict, scores_by_size
from labhelpers.evaluation.boundary import band_matrices, band_scores, boundary_counts, boundary_iou

SIZES = [(24, 32), (32, 24), (24, 32), (17, 21), (24, 32), (32, 24), (24, 32)]


class Pictures(SegmentationDataset):
    """Random pictures of the given sizes; bright pixels are of class 1 and 2, with some void."""

    def __init__(self, sizes=SIZES, seed=0):
        super().__init__("pictures", "val", ("ground", "one", "two"), [str(i) for i in range(len(sizes))], [], [])
        rng = torch.Generator().manual_seed(seed)
        self.items = []
        for height, width in sizes:
            blocks = torch.randint(0, 3, (1, 1, 4, 4), generator=rng).float()
            target = F.interpolate(blocks, (height, width))[0, 0].to(torch.uint8)
            image = torch.randint(0, 80, (3, height, width), generator=rng, dtype=torch.uint8) + 60 * target
            target[:2, :5] = 255
            self.items.append((image, target))

    def __getitem__(self, index):
        return self.items[index]

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


def test_padding_would_have_changed_the_scores():
    """What `evaluate` must not do: this is why it groups equal sizes."""
    model, dataset = Pooling().eval(), Pictures()
    gathered, *_ = plain_loop(model, dataset)
    height, width = max(h for h, _ in SIZES), max(w for _, w in SIZES)
    padded = ConfusionMatrix(3)
    with torch.inference_mode():
        for image, target in dataset.items:
            lower, right = height - image.shape[1], width - image.shape[2]
            logits = model(F.pad(to_input(image[None]), (0, right, 0, lower)))
            padded.update(logits[0].argmax(0), F.pad(target, (0, right, 0, lower), value=255))
    assert padded.matrix.sum() == gathered.matrix.sum()
    assert not torch.equal(padded.matrix, gathered.matrix)


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
        (lambda x: x[:, :2], r"logits \(1, 2, 24, 32\)"),
        (lambda x: x[:, 0], r"logits \(1, 24, 32\)"),
        (lambda x: {"out": x}, "returned a dict"),
        (lambda x: x.argmax(1, keepdim=True).expand(-1, 3, -1, -1), "expected float logits"),
    ],
)
def test_wrong_logits_are_an_error(logits, message):
    with pytest.raises(ValueError, match=message):
        evaluate(Constant(logits), Pictures())


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown precision 'half'; known: no, bf16, fp16"):
        evaluate(Pooling(), Pictures(), precision="half")
    with pytest.raises(ValueError, match="pictures val holds no image"):
        evaluate(Pooling(), Pictures(sizes=[]))
    with pytest.raises(ValueError, match="uint8 image"):
        predict(Pooling(), torch.zeros(3, 8, 8))


def test_bf16_predicts_nearly_the_same():
    exact, rough = (evaluate(Pooling(), Pictures(), precision=precision) for precision in ("no", "bf16"))
    assert np.abs(exact.matrix - rough.matrix).sum() < 0.05 * exact.matrix.sum()


def _share_of_work(rank: int, port: int, folder: str) -> None:
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in where.items()}
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    found = evaluate(Pooling(), Pictures(), batch_size=2, accelerator=accelerator)
    results = {"matrices": found.matrices, "labels": found.protocol.labels, "boundary_iou": found.boundary_iou}
    np.savez(f"{folder}/{rank}.npz", **results)
    accelerator.end_training()


def test_two_processes_share_the_images_and_agree(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_share_of_work, (port, str(tmp_path)), nprocs=2)
    alone = evaluate(Pooling(), Pictures())
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as shared:
            np.testing.assert_array_equal(shared["matrices"], alone.matrices)
            assert (shared["labels"], shared["boundary_iou"]) == (alone.protocol.labels, alone.boundary_iou)


def test_a_distributed_wrapper_is_taken_off():
    """Its forward exchanges buffers, and would wait for ever for a process with fewer images."""

    class Wrapped(nn.Module):
        module = Pooling()

    class OneProcess:
        process_index, num_processes = 0, 1

        def unwrap_model(self, model):
            return model.module

        def reduce(self, tensor, reduction):
            return tensor

    evaluation = evaluate(Wrapped(), Pictures(), accelerator=OneProcess())
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
