"""Weights that come with the project: half-precision safetensors, each with a card beside it in checkpoints/."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

SHIPPED = ("mini_sam.safetensors", "encoder_resnet18.safetensors", "encoder_mobilenet_v3_small.safetensors")


def shipped_weights(file: str) -> Path:
    """The file that came with the project: in a checkout or in the installed package.

    Raises:
        FileNotFoundError: it is in neither; the message says where it was looked for.
    """
    package = Path(__file__).resolve().parent.parent
    places = [package.parent / "checkpoints" / file, package / "weights" / file]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"{file}, which comes with the course, is missing (looked for {' and '.join(map(str, places))}): git checkout "
        "it again, or install labhelpers again"
    )


def save_half(path: Path, state: Mapping[str, Tensor], about: dict[str, str] | None = None) -> None:
    """Writes the tensors, those of floats as float16, with a few words `about` them.

    Raises:
        ValueError: a value is too large for float16, or not a number.
    """
    from safetensors.torch import save_file

    save_file({name: half(tensor) for name, tensor in state.items()}, path, metadata=about)


def half(tensor: Tensor) -> Tensor:
    """The tensor as it is stored, on the CPU, floats in half precision; raises ValueError as `save_half` does."""
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    if not tensor.half().isfinite().all():
        raise ValueError(f"a weight of shape {tuple(tensor.shape)} is not finite in half precision")
    return tensor.half()
