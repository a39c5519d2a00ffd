"""A tiny data set in memory and a tiny network with dropout and batch norm, for the tests of training."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.data.augment import Augmentation
from labhelpers.data.base import SegmentationDataset
from labhelpers.training import Recipe

CLASSES = ("background", "square", "dog, hot")  # a comma in a name must not break the log


class InMemory(SegmentationDataset):
    """Pairs of an image (3, H, W) and a target (H, W), both uint8."""

    def __init__(self, name: str, split: str, class_names: Sequence[str], items: Sequence[tuple[Tensor, Tensor]]):
        super().__init__(name, split, class_names, [f"{split}{i}" for i in range(len(items))], [], [])
        self.items = items

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.items[index]

    def load_image(self, index: int) -> Tensor:
        return self[index][0]

    def load_target(self, index: int) -> Tensor:
        return self[index][1]

    def fingerprint(self) -> str:
        return f"{self.split}{len(self)}"


class Squares(InMemory):
    """Coloured squares of class 1 and 2 on a dark ground, with a void rim; image i is a function of i alone."""

    def __init__(self, n: int = 12, split: str = "train", size: int = 40):
        super().__init__("squares", split, CLASSES, [self._draw(i, size) for i in range(n)])

    @staticmethod
    def _draw(i: int, size: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(i)
        label = 1 + i % 2
        x, y = torch.randint(2, size // 2, (2,), generator=generator).tolist()
        target = torch.zeros(size, size, dtype=torch.uint8)
        target[y - 1 : y + 15, x - 1 : x + 15] = 255
        target[y : y + 14, x : x + 14] = label
        image = torch.randint(0, 60, (3, size, size), generator=generator, dtype=torch.uint8)
        image[label, target == label] += 150
        return image, target


class TinyNet(nn.Module):
    """Two convolutions, named as the models are: encoder and the rest."""

    def __init__(self, num_classes: int = 3, width: int = 8, dropout: float = 0.2, norm: bool = True):
        super().__init__()
        layers = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width) if norm else nn.Identity(), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(width, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


def tiny_net(seed: int = 0, **options) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet(**options)


def tiny_recipe(**changes) -> Recipe:
    numbers = {"steps": 6, "batch_size": 4, "lr": 1e-2, "eval_every": 3, "save_every": 2, "precision": "no"}
    return Recipe(**({"augmentation": Augmentation(crop=32, scale=(0.8, 1.2), brightness=0.2)} | numbers | changes))


SETS = Squares(), Squares(4, "val")


def own_ce(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, ignore_index=255)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(a: nn.Module | dict, b: nn.Module | dict, **tolerance) -> None:
    """Equal weights, to the last bit if no tolerance is given."""
    a, b = (x.state_dict() if isinstance(x, nn.Module) else x for x in (a, b))
    assert a.keys() == b.keys()
    torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


class Stop(Exception):
    """What ends a run early in a test."""


def stop_at(step: int, error: type[BaseException] = Stop):
    """A callback that raises after this step."""

    def callback(event) -> None:
        if event.step == step:
            raise error

    return callback


def free_port() -> int:
    """A port of the loopback address that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_as_script(file: str, folder: Path) -> Path:
    """Runs a test file, which forks its children after what takes seconds to import; gives the folder it writes to."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with open(folder / "output", "w") as output:  # a file: orphaned workers would hold a pipe open
        command = [sys.executable, file, str(folder)]
        code = subprocess.run(command, stdout=output, stderr=output, env=environment, timeout=300).returncode
    assert code == 0, (folder / "output").read_text()[-3000:]
    return folder
