"""Weights that come with the project: half-precision safetensors, each with a card beside it in checkpoints/."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from labhelpers.files import file_hash

SHIPPED = {
    "mini_sam.safetensors": "70a97494cc623414cede41a3ccf983186113057b71e278c294ce18a3428fd850",
    "encoder_resnet18.safetensors": "0db8eece3a82d4ce3c69a5138ba4addf449a5ad37db4be2d0152052aa3d608d9",
    "encoder_mobilenet_v3_small.safetensors": "80482359fc855928f3e7983cac20868a284d64a6785d7e97780e84ef0ec983cc",
}
"""The files and their SHA-256: whoever trains one anew writes its own here."""
REMEDY = "git checkout it again, or install labhelpers again"  # for a file of the course that is missing or damaged


def shipped_weights(file: str) -> Path:
    """The file that came with the project: in a checkout or in the installed package.

    Raises:
        FileNotFoundError: it is in neither; the message says where it was looked for.
        ValueError: it is not the file that came with it.
    """
    package = Path(__file__).resolve().parent.parent
    places = [package.parent / "checkpoints" / file, package / "weights" / file]
    for place in places:
        if place.is_file():
            if file_hash(place) != SHIPPED[file]:
                raise ValueError(f"{place} is damaged (its SHA-256 is not the one in {__name__}): {REMEDY}")
            return place
    raise FileNotFoundError(
        f"{file}, which comes with the course, is missing (looked for {' and '.join(map(str, places))}): {REMEDY}"
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by their names.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is damaged, or no safetensors; names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, KeyError) as error:  # KeyError: numbers of a kind that torch does not have
        raise ValueError(f"{path} is damaged, or no safetensors ({error}): put a whole one in its place") from error


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
