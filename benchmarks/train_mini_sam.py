"""Train the weights that ship in checkpoints/mini_sam.safetensors: hours on one CPU core, minutes on a GPU.

    python benchmarks/train_mini_sam.py ROOT [--steps 3000] [--start FILE] [--out FILE]

ROOT holds folders in VOC layout with instance masks (`PHOTOS`), one with regions (`REGIONS`), and CamVid, split into
images/train and labels/train; checkpoints/mini_sam.md names them. Synthetic scenes are drawn. First the object head
learns on windows of all of them, on pasted objects and on shapes with textures; then, with the image encoder as it is,
the head for 21 classes on scenes and photographs. An interrupted run continues.

Every eighth photograph of the first folder is left out: its scores, printed at the end, are for choosing between ideas.
What comes out is measured by benchmarks/mini_sam.py on photographs that nothing was chosen by.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mixture import Library, ObjectFolder, ObjectMixture
from torch import Tensor

from labhelpers import config
from labhelpers.data import FolderSegmentation, SegmentationDataset, VOCSegmentation, make_scenes
from labhelpers.data.augment import Augmentation
from labhelpers.data.loader import SubsetDataset
from labhelpers.data.voc import ObjectDataset
from labhelpers.models import MiniSAM, build
from labhelpers.prompting import (
    MiniSamPredictor,
    Prompts,
    PromptTask,
    SemanticPromptTask,
    evaluate_prompts,
    evaluate_semantic,
    objects,
    true_iou,
)
from labhelpers.prompting.shipped import load_mini_sam, save_mini_sam
from labhelpers.training import Recipe, train_or_load

PHOTOS = {
    "coco_photos": "train",
    "coco_people": "trainval",
    "coco_streets": "trainval",
    "voc2007_photos": "train",
    "voc_style_photos": "train",
}
CLASSES = ("coco_photos", "voc2007_photos", "voc_style_photos")  # of which VOC's classes are labelled
REGIONS, STREETS = "bsds500", "camvid"
SIZE = 160  # pixels of a window
AS_IT_IS = Augmentation(crop=SIZE, scale=(1.0, 1.0), flip=False)  # the mixture has flips, turns and light of its own
LEFT_OUT = 8
LARGEST_LOGIT = 12.0  # of a mask that is handed back; beyond it nothing changes any more


def focal_prompt_loss(logits: Tensor, predicted_iou: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """As `prompting.prompt_loss`, with half of the normalised focal loss in place of the cross-entropy.

    The focal weights (1 - p)^2 are scaled to a mean of one (Sofiiuk et al., AdaptIS, ICCV 2019, eq. 4): what is still
    wrong counts more, and the loss does not fade as masks become good. The predicted IoU's error counts a half.
    """
    logits, predicted_iou = logits.float(), predicted_iou.float()
    target, weight = target.float()[:, None], weight.float()[:, None]
    nll = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    with torch.no_grad():
        unsure = weight * (logits.sigmoid() - target).square()
        unsure *= weight.mean((2, 3), keepdim=True) / unsure.mean((2, 3), keepdim=True).clamp_min(1e-3)
    focal = (unsure * nll).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1)
    predicted, true = weight * logits.sigmoid(), weight * target
    overlap, areas = (predicted * target).sum((2, 3)), predicted.sum((2, 3)) + true.sum((2, 3))
    candidates = 0.5 * focal + 1 - (2 * overlap + 1) / (areas + 1)
    of_masks = candidates.amin(1) + 0.1 * candidates.mean(1)
    return of_masks.mean() + 0.5 * F.mse_loss(predicted_iou, true_iou(logits, target[:, 0], weight[:, 0]))


def refining_step_loss(
    model: MiniSAM, images: Tensor, prompts: Prompts, rounds: int, loss_of: Callable[..., Tensor] = focal_prompt_loss
) -> Tensor:
    """As `prompting.step_loss`, with what `MiniSAM` has more: masks of stride 4, and the earlier one as a prompt.

    Clicks fall anywhere near the middle of an error, as a hand's would. `loss_of` takes what `prompt_loss` takes.
    """
    embedding = model.encode(images).repeat(len(prompts.masks) // len(images))
    target, weight = (quarter(array, images.device) for array in (prompts.masks, ~prompts.void))
    loss, earlier, rng = torch.zeros((), device=images.device), None, np.random.default_rng(int(prompts.masks.sum()))
    for left in reversed(range(rounds)):
        logits, iou = model.decode(embedding, *prompts.tensors(images.device), earlier, full_size=False)
        loss = loss + loss_of(logits, iou, target, weight) / rounds
        if left:
            earlier = logits.detach()[torch.arange(len(iou)), iou.argmax(1)][:, None].float()
            masks = MiniSAM.enlarge(earlier, embedding.size)[:, 0] > 0
            prompts.add_next_click(masks.cpu().numpy(), rng)
            earlier = earlier.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
    return loss


def quarter(masks: np.ndarray, device: torch.device) -> Tensor:
    """Bool (N, H, W) -> the share of each position of stride 4 that is covered, float (N, 2h, 2w)."""
    share = torch.from_numpy(masks).to(device, torch.float32)[:, None]
    bottom, right = (-side % 8 for side in masks.shape[1:])  # the logits cover whole positions of stride 8
    return F.avg_pool2d(F.pad(share, (0, right, 0, bottom)), 4)[:, 0]


class Joined(SegmentationDataset):
    """Several data sets of the same classes as one."""

    def __init__(self, *parts: SegmentationDataset):
        self.items = [(part, index) for part in parts for index in range(len(part))]
        self.name, self.split, self.ids = "+".join(part.name for part in parts), "train", range(len(self.items))
        self.class_names, self.num_classes = parts[0].class_names, parts[0].num_classes

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        part, own = self.items[index]
        return part[own]

    def load_image(self, index: int) -> Tensor:
        return self[index][0]

    def load_target(self, index: int) -> Tensor:
        return self[index][1]

    def fingerprint(self) -> str:
        return "+".join(part.fingerprint() for part in dict.fromkeys(part for part, _ in self.items))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--semantic-steps", type=int, default=900)
    parser.add_argument("--start", type=Path, help="weights to go on from, as this script writes them")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--out", type=Path, default=config.checkpoints_root() / "mini_sam.safetensors")
    args = parser.parse_args()

    photos = [ObjectFolder(args.root / name, split) for name, split in PHOTOS.items()]
    photos[0].ids = [name for i, name in enumerate(photos[0].ids) if i % LEFT_OUT]
    streets = FolderSegmentation.from_root(args.root / STREETS, "train")
    root = make_scenes(config.data_root() / "scenes" / "256px-400-40", (400, 40), size=256)
    scenes, scenes_val = (VOCSegmentation(root, split, name="scenes") for split in ("train", "val"))
    mixture = ObjectMixture(
        Library(photos),
        Library([streets, ObjectFolder(args.root / REGIONS, "train")]),
        Library([scenes], smallest=60),
        size=SIZE,
        seed=int(args.start is not None),  # what is drawn after a new start has not been seen before
    )

    torch.manual_seed(0)
    recipe = Recipe(
        steps=args.steps,
        batch_size=12,
        augmentation=AS_IT_IS,
        lr=args.lr,
        backbone_factor=0.2,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule="cosine",
        warmup_steps=min(50 if args.start else 200, args.steps // 10),
        save_every=200,
        eval_every=args.steps,
    )
    task = PromptTask(step_loss=refining_step_loss, kinds=(0.4, 0.45, 0.15), rounds=3, box_jitter=0.1, smallest=64)
    model = load_mini_sam(args.start).train() if args.start else build("mini_sam", 1, pretrained=True)
    run = train_or_load("mini_sam_shipped", model, mixture, ObjectDataset(scenes_val), recipe, task=task)
    model = run.model
    chosen = VOCSegmentation(args.root / "coco_photos", "train")
    judged = objects(SubsetDataset(chosen, range(0, len(chosen), LEFT_OUT)))
    print(evaluate_prompts(MiniSamPredictor(model), judged))

    semantic = build("mini_sam", 21)
    same = {k: v for k, v in model.state_dict().items() if semantic.state_dict()[k].shape == v.shape}
    semantic.load_state_dict(same, strict=False)
    classes = Recipe(
        steps=args.semantic_steps,
        batch_size=12,
        augmentation=Augmentation(
            crop=SIZE, scale=(0.35, 1.0), rotation=10, brightness=0.3, contrast=0.3, saturation=0.3
        ),
        lr=2e-3,
        clip_norm=1.0,
        schedule="cosine",
        warmup_steps=min(50, args.semantic_steps // 10),
        loss="ce+dice",
    )
    named = Joined(scenes, *(VOCSegmentation(args.root / name, "train") for name in CLASSES))
    task21 = SemanticPromptTask(freeze_image_encoder=True)
    run21 = train_or_load("mini_sam_shipped_21", semantic, named, scenes_val, classes, task=task21)
    for data in (scenes_val, VOCSegmentation(args.root / "coco_photos", "val")):
        for source in ("none", "truth", "random"):
            evaluation = evaluate_semantic(run21.model, data, source)
            print(f"21 classes, {data.name}, prompts from {source}: mIoU {evaluation.scores.mean_iou:.3f}")
    about = {"steps": str(args.steps), "minutes": f"{run.minutes:.0f}", "made": time.strftime("%Y-%m-%d")}
    save_mini_sam(args.out, model, run21.model, about)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
