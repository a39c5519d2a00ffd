"""The weights that come with the project, and predictors by name."""

from pathlib import Path

import torch
from torch import Tensor

from labhelpers.models import MiniSAM, build_encoder
from labhelpers.models.sam import SAM_MODELS, build_sam
from labhelpers.prompting.predictor import MiniSamPredictor, Predictor
from labhelpers.prompting.sam import SamPredictor

PREDICTORS = ("mini_sam", "mini_sam_semantic")
SEMANTIC = "semantic."  # what the 21-class head has of its own; all else it shares with the other


def load_predictor(name: str = "mini_sam", device: str | torch.device = "cpu") -> Predictor:
    """The predictor `name`: "mini_sam" marks objects, "mini_sam_semantic" marks a class and names it.

    The names of `models.sam.SAM_MODELS` ("sam_vit_b", ...) load a SAM, see `load_sam`.

    Raises:
        ValueError: an unknown name. FileNotFoundError: the weights are not where they came with the project.
        SamUnavailable: a SAM's weights, or the library for it, are out of reach; one sentence says so.
    """
    if name in SAM_MODELS:
        return SamPredictor(*build_sam(name, device))
    if name not in PREDICTORS:
        raise ValueError(f"unknown predictor {name!r}; known: {', '.join([*PREDICTORS, *SAM_MODELS])}")
    model = load_mini_sam(num_classes=21 if name == "mini_sam_semantic" else 1)
    return MiniSamPredictor(model.to(device), name)


def load_mini_sam(path: Path | None = None, num_classes: int = 1) -> MiniSAM:
    """Mini-SAM with the shipped weights (or those of another file that `save_mini_sam` wrote), in eval mode.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it holds other weights than this model needs.
    """
    from safetensors.torch import load_file

    path = path or mini_sam_weights()
    state = load_file(path)
    own = {k.removeprefix(SEMANTIC): v for k, v in state.items() if k.startswith(SEMANTIC)}
    state = {k: v for k, v in state.items() if not k.startswith(SEMANTIC)}
    if num_classes > 1:
        state |= own
    model = MiniSAM(build_encoder("mobilenet_v3_small"), num_classes)
    try:
        model.load_state_dict(state)  # half precision in the file, float32 in the model
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit MiniSAM with num_classes={num_classes}: {error}") from error
    return model.eval()


def save_mini_sam(
    path: Path, model: MiniSAM, semantic: MiniSAM | None = None, about: dict[str, str] | None = None
) -> None:
    """Writes float16 weights of the object head and, if given, of what differs in the semantic head's model.

    Raises:
        ValueError: a weight is too large for float16, or not a number.
    """
    from safetensors.torch import save_file

    state = {k: _half(v) for k, v in model.state_dict().items()}
    if semantic is not None:
        for key, value in semantic.state_dict().items():
            if key not in state or not torch.equal(state[key], _half(value)):
                state[SEMANTIC + key] = _half(value)
    save_file(state, path, metadata=about)


def mini_sam_weights() -> Path:
    """The file that came with the project: in a checkout or in the installed package.

    Raises:
        FileNotFoundError: it is in neither; the message says where it was looked for.
    """
    package = Path(__file__).resolve().parent.parent
    places = [package.parent / "checkpoints" / "mini_sam.safetensors", package / "weights" / "mini_sam.safetensors"]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"the weights of Mini-SAM are missing (looked for {' and '.join(map(str, places))}): git checkout them again, "
        "or install labhelpers again"
    )


def _half(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    if not tensor.half().isfinite().all():
        raise ValueError(f"a weight of shape {tuple(tensor.shape)} is not finite in half precision")
    return tensor.half()
