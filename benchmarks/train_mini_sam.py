"""Train the weights that ship in checkpoints/mini_sam.safetensors: hours on two CPU cores, minutes on a GPU.

    python benchmarks/train_mini_sam.py PHOTOS STREETS [--steps 8000] [--fold 0] [--out FILE]

PHOTOS is a folder in VOC layout with instance masks, STREETS one with images/train and labels/train (CamVid). Synthetic
scenes are drawn. First the object head learns on windows of all three, on pasted objects and on shapes with textures;
then, with the image encoder as it is, the head for 21 classes on scenes and photos. An interrupted run continues.

``--fold K`` leaves a quarter of the training photographs out and reports on them: for choosing between ideas. Without
it all are used, and what comes out is measured by benchmarks/mini_sam.py on photographs that nothing was chosen by.
"""

import argparse
import time
from pathlib import Path

import torch
from mixture import Library, ObjectMixture

from labhelpers import config
from labhelpers.data import FolderSegmentation, VOCSegmentation, make_scenes
from labhelpers.data.augment import Augmentation
from labhelpers.data.loader import SubsetDataset
from labhelpers.data.voc import ObjectDataset
from labhelpers.models import build
from labhelpers.prompting import (
    MiniSamPredictor,
    PromptTask,
    SemanticPromptTask,
    evaluate_prompts,
    evaluate_semantic,
    objects,
)
from labhelpers.prompting.shipped import load_mini_sam, save_mini_sam
from labhelpers.training import Recipe, train_or_load

SIZE = 128  # pixels of a window
AS_IT_IS = Augmentation(crop=SIZE, scale=(1.0, 1.0), flip=False)  # the mixture has flips, turns and light of its own
FOLDS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("streets", type=Path)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--semantic-steps", type=int, default=1500)
    parser.add_argument("--fold", type=int, choices=range(FOLDS))
    parser.add_argument("--start", type=Path, help="weights to go on from, as this script writes them")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--out", type=Path, default=config.checkpoints_root() / "mini_sam.safetensors")
    args = parser.parse_args()

    photos = VOCSegmentation(args.photos, "train")
    held_out = None
    if args.fold is not None:
        chosen = [i for i in range(len(photos)) if i % FOLDS == args.fold]
        held_out = SubsetDataset(photos, chosen)
        photos = SubsetDataset(photos, sorted(set(range(len(photos))) - set(chosen)))
    root = make_scenes(config.data_root() / "scenes" / "256px-400-40", (400, 40), size=256)
    scenes, scenes_val = (VOCSegmentation(root, split, name="scenes") for split in ("train", "val"))
    streets = FolderSegmentation.from_root(args.streets, "train")
    mixture = ObjectMixture(Library([photos]), Library([streets]), Library([scenes], smallest=60), size=SIZE)

    torch.manual_seed(0)
    recipe = Recipe(
        steps=args.steps,
        batch_size=12,
        augmentation=AS_IT_IS,
        lr=args.lr,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule="cosine",
        warmup_steps=min(200, args.steps // 10),
        save_every=250,
    )
    model = load_mini_sam(args.start).train() if args.start else build("mini_sam", 1)
    run = train_or_load("mini_sam_shipped", model, mixture, ObjectDataset(scenes_val), recipe, task=PromptTask())
    model = run.model
    if held_out is not None:
        print(evaluate_prompts(MiniSamPredictor(model), objects(held_out)))
        return

    semantic = build("mini_sam", 21)
    same = {k: v for k, v in model.state_dict().items() if semantic.state_dict()[k].shape == v.shape}
    semantic.load_state_dict(same, strict=False)
    classes = Recipe(
        steps=args.semantic_steps,
        batch_size=12,
        augmentation=Augmentation(
            crop=SIZE, scale=(0.5, 1.0), rotation=10, brightness=0.3, contrast=0.3, saturation=0.3
        ),
        lr=2e-3,
        clip_norm=1.0,
        schedule="cosine",
        warmup_steps=50,
        loss="ce+dice",
    )
    task = SemanticPromptTask(freeze_image_encoder=True)
    run21 = train_or_load("mini_sam_shipped_21", semantic, scenes, scenes_val, classes, task=task)
    for source in ("none", "truth", "random"):
        evaluation = evaluate_semantic(run21.model, scenes_val, source)
        print(f"21 classes, scenes, prompts from {source}: mIoU {evaluation.scores.mean_iou:.3f}")
    about = {"steps": str(args.steps), "minutes": f"{run.minutes:.0f}", "made": time.strftime("%Y-%m-%d")}
    save_mini_sam(args.out, model, run21.model, about)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
