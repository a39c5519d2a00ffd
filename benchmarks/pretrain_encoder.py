"""Train an encoder that ships in checkpoints/: from nothing, by image labels of drawn pictures, minutes on one core.

    python benchmarks/pretrain_encoder.py resnet18 [--width 24] [--steps 2000] [--out FILE]
    python benchmarks/pretrain_encoder.py mobilenet_v3_small

What ImageNet is to photographs these drawings are to the scenes of the labs: pictures of the same world, drawn from
another seed, of which the network is told only which of the 20 categories occur, never where. Features of stride 32,
the largest over all positions (the label says that something is somewhere), one linear layer, binary cross-entropy;
the layer is thrown away. Prints mean average precision on drawings held out, which nothing is chosen by.
"""

import argparse
import hashlib
import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import labhelpers  # noqa: F401, I001  (before torch)
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.data import Augmentation, to_input
from labhelpers.data.augment import sample_rng
from labhelpers.data.scenes.composition import draw_scene
from labhelpers.models import build_encoder
from labhelpers.models.shipped import save_half

SEED = 1998  # of the drawings: the labs' scenes have seed 0, those of the shipped Mini-SAM too
SIZE = 128  # pixels of a drawing, as in the profile smoke
INPUT = 112  # pixels of what the network sees: a crop of 88 to 128 of them, resized
VISIBLE = 40  # pixels of a category that make it occur
BATCH = 16
AUGMENTATION = Augmentation(crop=INPUT, scale=(INPUT / 128, INPUT / 88), brightness=0.3, contrast=0.3, saturation=0.3)


def draw(split: str, count: int) -> tuple[list[Tensor], Tensor]:
    """`count` drawings, uint8 (3, S, S), and which of the 20 categories occur in them, float32 (count, 20)."""
    images, occurs = [], np.zeros((count, 20), dtype=np.float32)
    for index in range(count):
        scene = draw_scene(SEED, split, index, SIZE)
        images.append(torch.from_numpy(scene.image).permute(2, 0, 1))
        occurs[index] = np.bincount(scene.classes.ravel(), minlength=256)[1:21] > VISIBLE
    return images, torch.from_numpy(occurs)


class Classifier(nn.Module):
    """Images (B, 3, H, W) float -> logits (B, 20): does each category occur?"""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.linear = nn.Linear(encoder.channels[-1], 20)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.encoder(images)[-1].amax((2, 3)))


def train(model: Classifier, images: list[Tensor], occurs: Tensor, steps: int) -> None:
    """AdamW, one cycle; every epoch is a new order and every sample a new window, from the step's number alone."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    model.train()
    for step in range(steps):
        epoch, first = divmod(step * BATCH, len(images) // BATCH * BATCH)
        chosen = np.random.default_rng((SEED, epoch)).permutation(len(images))[first : first + BATCH]
        views = [AUGMENTATION.sample(SIZE, SIZE, sample_rng(SEED, epoch, int(i))) for i in chosen]
        batch = torch.stack([view.image(images[i]) for view, i in zip(views, chosen, strict=True)])
        colour = np.stack([view.colour for view in views])
        loss = F.binary_cross_entropy_with_logits(model(to_input(batch, colour)), occurs[torch.from_numpy(chosen)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}, {time.process_time():.0f} s of CPU", flush=True)


@torch.inference_mode()
def predict(model: Classifier, images: list[Tensor]) -> Tensor:
    """Logits (N, 20) of whole drawings."""
    model.eval()
    return torch.cat([model(to_input(torch.stack(images[i : i + 50]))) for i in range(0, len(images), 50)])


def mean_average_precision(scores: Tensor, occurs: Tensor) -> float:
    """Over the categories: for each, the mean of the precision at every picture that shows it, in order of score."""
    ranked = occurs.gather(0, scores.argsort(0, descending=True))
    precision = ranked.cumsum(0) / torch.arange(1, len(scores) + 1)[:, None]
    return ((precision * ranked).sum(0) / ranked.sum(0)).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("backbone", choices=("resnet18", "mobilenet_v3_small"))
    parser.add_argument("--width", type=int, default=24, help="of a ResNet: channels of its first stage")
    parser.add_argument("--drawings", type=int, default=7200)
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    width = {"width": args.width} if args.backbone.startswith("resnet") else {}
    model = Classifier(build_encoder(args.backbone, **width))
    images, occurs = draw("train", args.drawings)
    drawn = time.process_time()
    print(f"{args.drawings} drawings: {drawn:.0f} s of CPU", flush=True)
    train(model, images, occurs, args.steps)
    trained = time.process_time()
    held_out, truth = draw("val", args.held_out)
    score = mean_average_precision(predict(model, held_out), truth)
    print(f"trained in {trained - drawn:.0f} s of CPU; mean average precision on {args.held_out} others {score:.3f}")
    out = args.out or Path("checkpoints") / f"encoder_{args.backbone}.safetensors"
    about = {"drawings": str(args.drawings), "steps": str(args.steps), "mean_average_precision": f"{score:.3f}"}
    save_half(out, model.encoder.state_dict(), about)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, SHA-256 {hashlib.sha256(out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
