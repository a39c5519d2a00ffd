"""One code path, several budgets: every number that depends on the time at hand stands in this file.

``LAB_PROFILE`` names the profile; without it, ``smoke`` is used on a CPU and ``lab`` with a GPU.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Profile:
    """The numbers of one budget. ``recipe`` and ``augmentation`` are keyword arguments of the classes so named."""

    name: str
    purpose: str
    data: str  # "scenes" (synthetic) or "voc" (downloaded)
    scenes: tuple[int, int]  # number of synthetic scenes: train, val
    scene_size: int  # pixels, square
    backbone: str
    width: int  # channels of the encoder's first stage
    pretrained: bool  # ImageNet weights
    steps: int | None  # optimizer steps of one training run ...
    epochs: int | None  # ... or passes over the training set
    recipe: MappingProxyType = field(repr=False)
    augmentation: MappingProxyType = field(repr=False)
    deeplab: MappingProxyType = field(repr=False)  # of DeepLab: keyword arguments of the model beyond the backbone
    deeplab_recipe: MappingProxyType = field(repr=False)  # of DeepLab: what its recipe changes ...
    deeplab_crop: int  # ... and the side of its crops, pixels
    unet: MappingProxyType = field(repr=False)  # of lab 04, see _SMOKE_UNET
    backbones: MappingProxyType = field(repr=False)  # of lab 05, see _SMOKE_BACKBONES
    mini_sam: MappingProxyType = field(repr=False)  # of lab 06, see _SMOKE_MINI_SAM
    sam: MappingProxyType = field(repr=False)  # of lab 07, see _SMOKE_SAM
    minutes: MappingProxyType = field(repr=False)  # of each lab

    @property
    def model_options(self) -> dict[str, Any]:
        """Keyword arguments for ``labhelpers.models.build``."""
        return {"backbone": self.backbone, "width": self.width, "pretrained": self.pretrained}

    def training_steps(self, num_images: int) -> int:
        """Optimizer steps of one run over ``num_images`` training images (an epoch drops the last partial batch)."""
        if self.steps is not None:
            return self.steps
        return self.epochs * max(1, num_images // self.recipe["batch_size"])


# From random weights on 128 px scenes: a high rate, few steps, flips only (scale jitter needs longer to pay). Crops of
# 96 px because steps cost half as much and more of them fit into the time.
_SMOKE_RECIPE = {
    "batch_size": 8,
    "optimizer": "adamw",
    "lr": 4e-3,
    "weight_decay": 1e-4,
    "backbone_factor": 1.0,  # nothing is pretrained, so the encoder learns as fast as the rest
    "schedule": "poly",
    "warmup_steps": 15,
}
_SMOKE_AUGMENTATION = {"crop": 96, "scale": (1.0, 1.0)}
# The recipe of the course: AdamW 1e-4, decay 1e-4, batch 8 to 16, crop 256, the encoder at a tenth of the rate.
_COURSE_RECIPE = {
    "batch_size": 16,
    "optimizer": "adamw",
    "lr": 1e-4,
    "weight_decay": 1e-4,
    "backbone_factor": 0.1,
    "schedule": "poly",
    "warmup_steps": 100,
}
_COURSE_AUGMENTATION = {
    "crop": 256,
    "scale": (0.5, 2.0),
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
}

# DeepLab at output stride 16. Rates fit the map of a crop: 6 x 6 positions for 96 px, 16 x 16 for 256 px and 33 x 33
# for 513 px, where they are the paper's.
_SMOKE_DEEPLAB = {"output_stride": 16, "rates": (1, 2, 3), "channels": 96}
_LAB_DEEPLAB = {"output_stride": 16, "rates": (3, 6, 9), "channels": 256}
_FULL_DEEPLAB = {"output_stride": 16, "rates": (6, 12, 18), "channels": 256}
# The published recipe of lab 03: 5,000 iterations, the rate falls tenfold every 1,000.
_FULL_DEEPLAB_RECIPE = {
    "steps": 5000,
    "batch_size": 8,
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "schedule": "step",
    "step_size": 1000,
    "gamma": 0.1,
    "warmup_steps": 0,
}

# Lab 04, ten jigsaw pictures. An epoch is five steps of two; the rate is high because a run is short.
_SMOKE_UNET = {
    "jigsaw_size": 128,  # pixels of a picture and of a crop
    "base_channels": 8,
    "steps": 90,
    "batch_size": 2,
    "lr": 4e-3,
    "warmup_steps": 10,
    "eval_epochs": 1,  # epochs from one evaluation to the next
    "score_train": 4,  # training pictures scored at each of them
    "patience": 3,  # evaluations without a better validation IoU before an early stop
}
_LAB_UNET = {  # the course's network; crops of a quarter of a picture, so that a run takes minutes on a T4
    "jigsaw_size": 256,
    "base_channels": 64,
    "steps": 800,
    "batch_size": 4,
    "lr": 1e-3,
    "warmup_steps": 20,
    "eval_epochs": 10,
    "score_train": 10,
    "patience": 10,
}
_FULL_UNET = {**_LAB_UNET, "jigsaw_size": 512, "steps": 3000, "batch_size": 2}

# Lab 05, full-size library networks from random weights. Crops are whole pictures: stride 32 leaves 4 positions a side.
_SMOKE_BACKBONES = {
    "data": "jigsaw",  # see data.open_splits
    "jigsaw": {"jigsaw_size": 128, "jigsaw_counts": (24, 8, 16)},  # train, validation, test
    "encoders": ("resnet34", "efficientnet-b0", "mobilenet_v2"),
    "pretrained": False,
    "seeds": (0,),
    "steps": 32,
    "eval_every": 8,
    "batch_size": 2,
    "augmentation": {"crop": 128, "scale": (1.0, 1.0)},
    "lr": 3e-3,
    "backbone_factor": 1.0,
    "warmup_steps": 5,
    "norm_momentum": 0.2,  # of batch norm: running statistics that can follow so short a training
    "score_train": 4,  # training images scored at each evaluation
    "time_size": (256, 256),  # height and width for which inference is timed
    "beyond": ("PSPNet, resnet34", "SegFormer, mit_b0"),  # trained in the last section, as far as there is time
    "swin": False,  # Swin-UNETR as well, where MONAI is installed
}
_LAB_BACKBONES = {
    **_SMOKE_BACKBONES,
    "data": "course",
    "jigsaw": {},
    "pretrained": True,
    "steps": 2000,
    "eval_every": 200,
    "batch_size": 16,
    "augmentation": _COURSE_AUGMENTATION,
    "lr": 5e-4,
    "backbone_factor": 0.1,
    "warmup_steps": 100,
    "norm_momentum": 0.1,
    "score_train": 100,
    "time_size": (512, 512),
    "beyond": ("PSPNet, resnet34", "SegFormer, mit_b0", "U-Net++, resnet34", "U-Net, tu-hrnet_w18"),
    "swin": True,
}
_FULL_BACKBONES = {
    **_LAB_BACKBONES,
    "seeds": (0, 1, 2),
    "steps": 5000,
    "eval_every": 250,
    "augmentation": {**_COURSE_AUGMENTATION, "crop": 512},
}

# Lab 06: Mini-SAM has its full size in every profile. On a CPU its encoder stays as it comes, and a crop is a whole
# scene at half of its size, as the network is asked about it afterwards.
_SMOKE_MINI_SAM = {
    "images": None,  # training images; None takes all
    "debug_steps": 40,  # of each run that learns a handful of masks by heart
    "training": {  # keyword arguments of training.PromptRecipe ...
        "steps": 80,
        "batch_size": 8,
        "lr": 2e-3,
        "weight_decay": 1e-4,
        "clip_norm": 1.0,
        "schedule": "cosine",
        "warmup_steps": 30,  # else the judge learns that every mask is bad, as they are at first, and stays with it
        "freeze_encoder_steps": 80,  # all of them
        "eval_every": 20,
        "eval_objects": 20,
        "prompts": 4,
        "kinds": (0.15, 0.6, 0.25),  # most of all clicks, since the lab is about them
        "smallest": 40,
    },
    "augmentation": {  # ... and of its augmentation
        "crop": 64,
        "scale": (0.5, 0.5),
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
    },
    "encoder": "shipped",  # where the image encoder's weights come from: "shipped" with the course, or "imagenet"
    "min_side": 20,  # pixels: objects whose box is narrower or lower are not judged
    "judged_images": 12,  # all objects of so many validation images are judged
    "clicks": 10,  # most clicks of the simulated user
    "time_size": 512,  # side of the image for which a click is timed
}
_LAB_MINI_SAM = {
    **_SMOKE_MINI_SAM,
    "images": 500,
    "training": {
        "steps": 30 * (500 // 16),  # 30 epochs
        "batch_size": 16,
        "lr": 3e-4,
        "weight_decay": 1e-4,
        "clip_norm": 1.0,
        "schedule": "cosine",
        "warmup_steps": 30,
        "freeze_encoder_steps": 3 * (500 // 16),
        "eval_every": 3 * (500 // 16),
        "eval_objects": 100,
    },
    "augmentation": {**_COURSE_AUGMENTATION, "scale": (0.4, 0.8)},  # the network is asked about whole images: at 0.5
    "encoder": "imagenet",
    "min_side": 32,
    "judged_images": 60,
    "clicks": 20,
}
_FULL_MINI_SAM = {
    **_LAB_MINI_SAM,
    "images": None,
    "training": {**_LAB_MINI_SAM["training"], "steps": 30 * (1464 // 16), "freeze_encoder_steps": 3 * (1464 // 16)},
    "judged_images": 200,
}

# Lab 07: how much is asked of SAM and Mini-SAM. SAM encodes an image in seconds on a CPU, in a tenth of one on a GPU.
_SMOKE_SAM = {
    "judged_images": 8,  # all objects of so many validation images are asked for with points and boxes
    "clicks": 10,  # most clicks of the simulated user
    "everything_images": 6,  # validation images in which everything is segmented ...
    "grid": 8,  # ... by so many clicks along each side
    "box_images": 30,  # validation images in which every object is asked for with its box
    "tuning": {"steps": 20, "images": 8},  # keyword arguments of training.SamRecipe
    "time_size": 512,  # side of the image for which costs are measured
}
_LAB_SAM = {
    **_SMOKE_SAM,
    "judged_images": 40,
    "clicks": 20,
    "everything_images": 40,
    "grid": 16,
    "box_images": 200,
    "tuning": {"steps": 200, "images": 100},
}
_FULL_SAM = {
    **_LAB_SAM,
    "judged_images": 200,
    "everything_images": 100,
    "box_images": 1449,
    "tuning": {"steps": 1000, "images": 500},
}

PROFILES = {
    "tiny": Profile(
        name="tiny",
        purpose="a handful of steps: every cell runs, nothing is learned",
        data="scenes",
        scenes=(100, 12),
        scene_size=128,
        backbone="resnet18",
        width=8,
        pretrained=False,
        steps=2,
        epochs=None,
        recipe=MappingProxyType({**_SMOKE_RECIPE, "batch_size": 2, "warmup_steps": 0}),
        augmentation=MappingProxyType(_SMOKE_AUGMENTATION),
        deeplab=MappingProxyType({**_SMOKE_DEEPLAB, "channels": 16}),
        deeplab_recipe=MappingProxyType({}),
        deeplab_crop=96,
        unet=MappingProxyType({**_SMOKE_UNET, "base_channels": 2, "steps": 5, "warmup_steps": 0}),
        backbones=MappingProxyType(
            {
                **_SMOKE_BACKBONES,
                "jigsaw": {"jigsaw_size": 128, "jigsaw_counts": (4, 2, 2)},
                "steps": 2,
                "eval_every": 2,
                "augmentation": {"crop": 64, "scale": (1.0, 1.0)},
                "warmup_steps": 0,
                "score_train": 2,
                "time_size": (64, 64),
            }
        ),
        mini_sam=MappingProxyType(
            {
                **_SMOKE_MINI_SAM,
                "debug_steps": 2,
                "training": {
                    **_SMOKE_MINI_SAM["training"],
                    "steps": 2,
                    "batch_size": 2,
                    "warmup_steps": 0,
                    "freeze_encoder_steps": 2,
                    "eval_every": 1,
                    "eval_objects": 3,
                },
                "judged_images": 2,
                "clicks": 2,
                "time_size": 128,
            }
        ),
        sam=MappingProxyType(
            {
                **_SMOKE_SAM,
                "judged_images": 2,
                "clicks": 2,
                "everything_images": 2,
                "grid": 4,
                "box_images": 3,
                "tuning": {"steps": 2, "images": 2},
                "time_size": 128,
            }
        ),
        minutes=MappingProxyType({"01": 0.5, "02": 0.5, "03": 0.5, "04": 0.5, "05": 0.7, "06": 0.6, "07": 0.5}),
    ),
    "smoke": Profile(
        name="smoke",
        purpose="a CPU: small networks on synthetic scenes, the lessons visible",
        data="scenes",
        scenes=(600, 150),
        scene_size=128,
        backbone="resnet18",
        width=24,
        pretrained=False,
        steps=120,
        epochs=None,
        recipe=MappingProxyType(_SMOKE_RECIPE),
        augmentation=MappingProxyType(_SMOKE_AUGMENTATION),
        deeplab=MappingProxyType(_SMOKE_DEEPLAB),
        deeplab_recipe=MappingProxyType({}),
        deeplab_crop=96,
        unet=MappingProxyType(_SMOKE_UNET),
        backbones=MappingProxyType(_SMOKE_BACKBONES),
        mini_sam=MappingProxyType(_SMOKE_MINI_SAM),
        sam=MappingProxyType(_SMOKE_SAM),
        minutes=MappingProxyType({"01": 1, "02": 3, "03": 2.7, "04": 2, "05": 3, "06": 2, "07": 1}),
    ),
    "lab": Profile(
        name="lab",
        purpose="one GPU of Colab or Kaggle: ResNet-50 on Pascal VOC",
        data="voc",
        scenes=(1500, 300),
        scene_size=256,
        backbone="resnet50",
        width=64,
        pretrained=True,
        steps=2000,
        epochs=None,
        recipe=MappingProxyType(_COURSE_RECIPE),
        augmentation=MappingProxyType(_COURSE_AUGMENTATION),
        deeplab=MappingProxyType(_LAB_DEEPLAB),
        deeplab_recipe=MappingProxyType({}),
        deeplab_crop=256,
        unet=MappingProxyType(_LAB_UNET),
        backbones=MappingProxyType(_LAB_BACKBONES),
        mini_sam=MappingProxyType(_LAB_MINI_SAM),
        sam=MappingProxyType(_LAB_SAM),
        minutes=MappingProxyType({"01": 3, "02": 47, "03": 52, "04": 16, "05": 77, "06": 45, "07": 25}),
    ),
    "full": Profile(
        name="full",
        purpose="the published recipe, 50 epochs",
        data="voc",
        scenes=(1500, 300),
        scene_size=513,
        backbone="resnet50",
        width=64,
        pretrained=True,
        steps=None,
        epochs=50,
        recipe=MappingProxyType(_COURSE_RECIPE),
        augmentation=MappingProxyType(_COURSE_AUGMENTATION),
        deeplab=MappingProxyType(_FULL_DEEPLAB),
        deeplab_recipe=MappingProxyType(_FULL_DEEPLAB_RECIPE),
        deeplab_crop=513,
        unet=MappingProxyType(_FULL_UNET),
        backbones=MappingProxyType(_FULL_BACKBONES),
        mini_sam=MappingProxyType(_FULL_MINI_SAM),
        sam=MappingProxyType(_FULL_SAM),
        minutes=MappingProxyType({"01": 3, "02": 189, "03": 230, "04": 82, "05": 640, "06": 120, "07": 40}),
    ),
}


def profile() -> Profile:
    """The profile named by ``LAB_PROFILE``, else ``lab`` where CUDA is available and ``smoke`` elsewhere.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    name = os.environ.get("LAB_PROFILE")
    if not name:
        import torch

        name = "lab" if torch.cuda.is_available() else "smoke"
    if name not in PROFILES:
        raise ValueError(f"unknown profile LAB_PROFILE={name!r}; known: {', '.join(PROFILES)}")
    return PROFILES[name]


def home() -> Path:
    """The folder of ``data/`` and ``checkpoints/``: ``LAB_HOME``, else the checkout, else the current folder."""
    if os.environ.get("LAB_HOME"):
        return Path(os.environ["LAB_HOME"]).expanduser().resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def data_root() -> Path:
    """Where downloads and generated scenes lie; created on use."""
    return _created(home() / "data")


def checkpoints_root() -> Path:
    """Where weights, logs and the results table lie, ``LAB_CHECKPOINTS`` if set (a Drive, say); created on use."""
    return _created(Path(os.environ.get("LAB_CHECKPOINTS") or home() / "checkpoints"))


def _created(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
