"""The trainings of the labs by name: the same data, recipe and run name as in the notebooks, for commands and reports.

A notebook trains the student's own class, so that its code is part of the run's key; here the library's class is
trained. `finished.find_run` therefore looks for a run that agrees in all but the class, as `training.load_finished`
does: what a notebook has trained is found here, and what was trained here is found by the notebooks of later labs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from labhelpers import data, models, training
from labhelpers.config import Profile
from labhelpers.data.voc import ObjectDataset
from labhelpers.prompting import load_mini_sam


@dataclass(frozen=True)
class Task:
    """What a network is trained on and how, and the images that its scores are reported on."""

    train_set: data.SegmentationDataset
    val_set: data.SegmentationDataset
    test_set: data.SegmentationDataset
    recipe: training.Recipe


@dataclass(frozen=True)
class Plan:
    """One network of the course and its training."""

    name: str  # as `models.build` and the command line know it
    title: str  # its row in the results table
    run: str  # what its training is called on the disk
    lab: str
    task: Callable[[Profile], Task]  # opens the data, and prints which they are
    options: Callable[[Profile], dict[str, Any]]  # of `models.build`
    prompted: bool = False  # answers prompts: its scores are not those of the results table
    own_loss: bool = False  # its loss is an exercise: any function counts as the same
    renamed: Mapping[str, str] | None = None  # names in the notebook's network -> in the library's

    def new_model(self, profile: Profile, task: Task, to_train: bool = True) -> nn.Module:
        """The network before training, from the same random numbers every time.

        Args:
            to_train: False leaves pretrained weights out, for a model that is about to load others.
        """
        options = self.options(profile)
        options["pretrained"] = to_train and options.get("pretrained", False)
        torch.manual_seed(0)
        model = models.build(self.name, 1 if self.prompted else task.train_set.num_classes, **options)
        if to_train and self.prompted and profile.mini_sam["encoder"] == "shipped":
            model.image_encoder.load_state_dict(load_mini_sam().image_encoder.state_dict())
            model.image_encoder.requires_grad_(False)
        return model


def _fcn(profile: Profile) -> Task:
    train_set, val_set = _course_data(profile)
    return Task(train_set, val_set, val_set, _fcn_recipe(profile, len(train_set)))


def _fcn_recipe(profile: Profile, images: int) -> training.Recipe:
    steps = profile.training_steps(images)
    return training.Recipe(
        steps=steps,
        augmentation=data.Augmentation(**profile.augmentation),
        eval_every=max(1, steps // 2),
        **profile.recipe,
    )


def _deeplab(profile: Profile) -> Task:
    train_set, val_set = _course_data(profile)
    recipe = _fcn_recipe(profile, len(train_set))
    crops = dataclasses.replace(recipe.augmentation, crop=profile.deeplab_crop)
    recipe = dataclasses.replace(recipe, augmentation=crops, **profile.deeplab_recipe)
    epoch = max(15, len(train_set) // recipe.batch_size)
    watched = val_set if len(val_set) <= 200 else data.subset(val_set, 200)
    return Task(train_set, watched, val_set, dataclasses.replace(recipe, eval_every=min(epoch, recipe.steps)))


def _unet(profile: Profile, **changes: Any) -> Task:
    size = profile.unet["jigsaw_size"]
    train_set, val_set, test_set = map(data.cache, data.open_splits("jigsaw", profile, jigsaw_size=size))
    numbers = {name: profile.unet[name] for name in ("steps", "batch_size", "lr", "warmup_steps", "score_train")}
    augmentation = data.Augmentation(
        crop=size, scale=(0.8, 1.25), rotation=15, elastic=size / 32, brightness=0.2, contrast=0.2, saturation=0.2
    )
    epoch = data.steps_per_epoch(train_set, profile.unet["batch_size"])
    recipe = training.Recipe(
        **(numbers | changes),
        loss="bce",
        optimizer="adam",
        weight_decay=0.0,
        augmentation=augmentation,
        eval_every=epoch * profile.unet["eval_epochs"],
    )
    return Task(train_set, val_set, test_set, recipe)


def _mini_sam(profile: Profile) -> Task:
    settings = profile.mini_sam
    train_set, val_set = data.open_course_data(profile)
    if settings["images"] is not None and len(train_set) > settings["images"]:
        train_set = data.subset(train_set, settings["images"])
    train_set, val_set = (ObjectDataset(data.cache(part)) for part in (train_set, val_set))
    augmentation = data.Augmentation(**settings["augmentation"])
    recipe = training.PromptRecipe(**settings["training"], augmentation=augmentation)
    return Task(train_set, val_set, val_set, recipe)


def _course_data(profile: Profile) -> tuple[data.SegmentationDataset, data.SegmentationDataset]:
    return tuple(map(data.cache, data.open_course_data(profile)))


def _deeplab_options(profile: Profile) -> dict[str, Any]:
    return {**profile.model_options, **profile.deeplab}


def _unet_options(profile: Profile) -> dict[str, Any]:
    return {"base_channels": profile.unet["base_channels"]}


def _mini_sam_options(profile: Profile) -> dict[str, Any]:
    return {"pretrained": profile.mini_sam["encoder"] == "imagenet"}


# The head of lab 03's DeepLabV3 is a Sequential.
_V3_HEAD = {
    "head.0.": "head.aspp.",
    "head.1.": "head.refine.0.",
    "head.2.": "head.refine.1.",
    "head.4.": "head.classifier.",
}
PLANS = {
    plan.name: plan
    for plan in (
        Plan("fcn32s", "FCN-32s", "FCN-32s", "02", _fcn, lambda p: p.model_options),
        Plan("fcn16s", "FCN-16s", "FCN-16s", "02", _fcn, lambda p: p.model_options),
        Plan("fcn8s", "FCN-8s", "FCN-8s", "02", _fcn, lambda p: p.model_options),
        Plan("deeplabv3", "DeepLabV3", "DeepLabV3", "03", _deeplab, _deeplab_options, renamed=_V3_HEAD),
        Plan("deeplabv3plus", "DeepLabV3+", "DeepLabV3+", "03", _deeplab, _deeplab_options),
        Plan("unet", "U-Net", "U-Net, augmentation", "04", _unet, _unet_options, own_loss=True),
        Plan(
            "unet_bilinear",
            "U-Net, bilinear",
            "U-Net, bilinear",
            "04",
            lambda p: _unet(p, score_train=0),
            _unet_options,
            own_loss=True,
        ),
        Plan(
            "mini_sam",
            "Mini-SAM",
            "mini_sam, spatial",
            "06",
            _mini_sam,
            _mini_sam_options,
            prompted=True,
            own_loss=True,
        ),
    )
}


def find_plan(name: str) -> Plan:
    """The plan of that name.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in PLANS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(PLANS)}")
    return PLANS[name]
