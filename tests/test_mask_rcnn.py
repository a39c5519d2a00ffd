"""Mask R-CNN: its parts fit, its five losses are learned and logged, and it predicts in the image's own pixels."""

import hashlib

import pytest
import torch
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn
from training_toys import Squares, Stop, assert_same, stop_at

from labhelpers.data import Augmentation, InstanceDataset, Instances, cache, to_input
from labhelpers.models import encoders, instances_of, mask_rcnn
from labhelpers.training import InstanceTask, ObjectMaps, Recipe, train, train_or_load
from labhelpers.training.instances import LOSSES, as_target, painted
from labhelpers.training.optim import encoder_of

TASK = InstanceTask()


class Objects(Squares):
    """A square of 14 pixels a side is one object; image 0 has none."""

    has_instances = True

    def __init__(self, n: int, split: str = "train"):
        super().__init__(n, split, size=64)
        self.items[0] = self.items[0][0], torch.zeros_like(self.items[0][1])

    def instances(self, index):
        target = self.load_target(index)
        return torch.where((target > 0) & (target < 255), torch.tensor(7, dtype=torch.uint8), target)


SETS = ObjectMaps(Objects(4)), InstanceDataset(Objects(2, "val"))


def small(seed: int = 0, num_classes: int = 3, **options):
    torch.manual_seed(seed)
    numbers = {"width": 8, "size": 64, "channels": 8, "anchors": (8, 16, 24, 32, 64), "hidden": 16, "mask_layers": 1}
    numbers |= {"proposals": 20, "samples": 16, "pretrained": False}
    return mask_rcnn(num_classes, "resnet18", **(numbers | options))


def recipe(**changes) -> Recipe:
    whole = Augmentation(crop=64, scale=(0.8, 1.2))
    numbers = {"steps": 2, "batch_size": 4, "augmentation": whole, "best_metric": "mask_ap", "precision": "no"}
    return Recipe(**(numbers | changes))


# --- the network ---
def test_five_maps_and_heads_for_the_classes():
    model = small(num_classes=5)
    maps = model.backbone(torch.zeros(1, 3, 64, 96))
    assert [(name, tuple(x.shape[1:])) for name, x in maps.items()] == [
        ("0", (8, 16, 24)), ("1", (8, 8, 12)), ("2", (8, 4, 6)), ("3", (8, 2, 3)), ("pool", (8, 1, 2)),
    ]  # fmt: skip
    heads = model.roi_heads
    assert heads.box_predictor.cls_score.out_features == 5
    assert heads.box_predictor.bbox_pred.out_features == 5 * 4
    assert heads.mask_predictor.mask_fcn_logits.out_channels == 5
    assert encoder_of(model) is model.backbone.body
    assert model.weights == "random"
    assert small(width=24, pretrained=True).weights == "drawings"


def test_five_losses_also_of_an_image_without_objects():
    model = small().train()
    images = [to_input(SETS[1][i][0][None])[0] for i in range(2)]
    targets = [as_target(SETS[1][i][1], torch.device("cpu")) for i in range(2)]
    assert [len(target["labels"]) for target in targets] == [0, 1]
    for some in ([0, 1], [0]):
        losses = model([images[i] for i in some], [targets[i] for i in some])
        assert set(losses) == set(LOSSES)
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses["loss_mask"] == 0


@pytest.mark.parametrize("training", [True, False])
def test_predictions_are_in_the_image_s_own_pixels(training):
    model = small().train(training)
    image = torch.randint(0, 256, (3, 50, 90), dtype=torch.uint8)
    found = instances_of(model, image)
    assert model.training == training
    assert len(found) > 0
    assert found.masks.shape == (len(found), 50, 90)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([90, 50, 90, 50])).all()
    assert found.scores.min() >= 0.05
    with torch.inference_mode():
        (theirs,) = model.eval()([to_input(image[None])[0]])
    torch.testing.assert_close(found.boxes, theirs["boxes"])
    assert torch.equal(found.masks, theirs["masks"][:, 0] >= 0.5)


# --- the weights that torchvision publishes ---
@pytest.fixture
def published(monkeypatch, tmp_path):
    """A file with a hash in its name that stands in for torchvision's; the real loading code reads it."""
    state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "weights.pth"
    torch.save(state, file)
    file = file.rename(file.with_name(f"weights-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"))
    url = property(lambda self: f"https://localhost/{file.name}")
    monkeypatch.setattr(MaskRCNN_ResNet50_FPN_Weights, "url", url)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return state


def test_published_weights_get_heads_for_other_classes(published):
    model = mask_rcnn(21, size=64, proposals=10)
    assert model.weights == "coco"
    new = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.")
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith(new)}
    assert_same(kept, {name: published[name] for name in kept})
    assert model.roi_heads.box_predictor.cls_score.out_features == 21
    assert model.roi_heads.mask_predictor.mask_fcn_logits.out_channels == 21
    body = model.backbone.body
    assert encoder_of(model) is body
    assert not body.layer1[0].conv1.weight.requires_grad
    assert body.layer2[0].conv1.weight.requires_grad
    before = {name: value.clone() for name, value in body.bn1.state_dict().items()}
    model.train()(list(torch.randn(2, 3, 64, 64)), [as_target(SETS[1][i][1], torch.device("cpu")) for i in range(2)])
    assert_same(before, body.bn1.state_dict())  # the norm's statistics stay


def test_without_a_network_one_sentence_and_a_network_that_learns_everywhere(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(encoders, "reachable", lambda url: False)
    model = mask_rcnn(3)
    assert model.weights == "random"
    assert all(p.requires_grad for p in model.parameters())
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "maskrcnn_resnet50_fpn starts from random weights instead of COCO's" in printed


def test_published_weights_are_of_one_network():
    with pytest.raises(ValueError, match=r'pretrained="coco" is torchvision\'s network on a ResNet-50, not .*resnet18'):
        small(pretrained="coco")


# --- training ---
def test_maps_of_classes_and_objects_go_together():
    image, maps = SETS[0][1]
    assert image.shape == (3, 64, 64)
    assert maps.shape == (2, 64, 64)
    assert torch.equal(maps[0] == 255, maps[1] == 255)
    assert torch.equal(maps[0] == 2, maps[1] == 7)
    cached = cache(SETS[0])
    assert torch.equal(cached[1][1], maps)
    assert cached.fingerprint() == SETS[0].fingerprint() != Objects(4).fingerprint()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_five_losses_are_logged_apart(accumulate, tmp_path):
    history = train(small(), *SETS, recipe(accumulate=accumulate), tmp_path, task=TASK)
    for row in history.rows:
        assert row["loss"] == pytest.approx(sum(row[name] for name in LOSSES), rel=1e-5)
        assert all(row[name] > 0 for name in LOSSES)
    (last,) = history.evaluations
    assert last["step"] == 2
    assert {"mask_ap", "mask_ap50", "box_ap50"} <= set(last)


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path):
    whole, broken = small(), small()
    train(whole, *SETS, recipe(save_every=1), tmp_path / "whole", task=TASK)
    with pytest.raises(Stop):
        train(broken, *SETS, recipe(save_every=1), tmp_path / "broken", task=TASK, callbacks=[stop_at(1)])
    train(broken, *SETS, recipe(save_every=1), tmp_path / "broken", task=TASK)
    assert_same(whole, broken)
    logs = [(tmp_path / name / "log.csv").read_bytes() for name in ("whole", "broken")]
    assert logs[0] == logs[1]


def test_a_trained_network_is_loaded_again(capsys):
    run = train_or_load("tiny", small(), *SETS, recipe(), task=TASK)
    again = train_or_load("tiny", small(), *SETS, recipe(), task=TASK)
    assert again.loaded
    assert_same(run.model, again.model)
    assert not train_or_load("tiny", small(), *SETS, recipe(), task=InstanceTask(smallest=9)).loaded
    assert "mask_ap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best_metric": "mean_iou"}, "best_metric='mean_iou'.*must be 'mask_ap' for instances"),
        ({"loss": "dice"}, "loss='dice'.*must be 'ce' for instances"),
        ({"score_train": 2}, "score_train=2.*must be 0 for instances"),
        ({"oversample_rare": True}, "oversample_rare=True.*must be False for instances"),
    ],
)
def test_recipes_that_instances_cannot_follow(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(small(), *SETS, recipe(**changes), tmp_path, task=TASK)


def test_class_labels_alone_tell_no_objects_apart(tmp_path):
    with pytest.raises(ValueError, match=r"maps \(B, 2, H, W\), got \(4, 64, 64\): train on ObjectMaps\(train_set\)"):
        train(small(), Objects(4), SETS[1], recipe(), tmp_path, task=TASK)


def test_objects_are_painted_with_the_surest_on_top():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, :3] = True, True
    boxes = torch.tensor([[0.0, 0, 4, 2], [0, 0, 4, 3]])
    found = Instances(boxes, torch.tensor([5, 20]), masks, torch.tensor([0.9, 0.8]))
    assert painted(found)[:, 0].tolist() == [5, 5, 20, 0]
