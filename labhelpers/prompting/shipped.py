"""The weights that come with the project, and predictors by name."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from labhelpers.models import MiniSAM, build_encoder
from labhelpers.models.sam import SAM_MODELS, build_sam
from labhelpers.models.shipped import half, read_weights, save_half, shipped_weights
from labhelpers.prompting.predictor import MiniSamPredictor, Predictor
from labhelpers.prompting.sam import SamPredictor

PREDICTORS = ("mini_sam", "mini_sam_semantic")
SEMANTIC = "semantic."  # what the 21-class head has of its own; all else it shares with the other


def load_predictor(name: str = "mini_sam", device: str | torch.device = "cpu") -> Predictor:
    """The predictor `name`: "mini_sam" marks objects, "mini_sam_semantic" marks a class and names it.

    "sam" and the names of `models.sam.SAM_MODELS` ("sam_vit_b", ...) load a SAM, see `models.sam.build_sam`.

    Raises:
        ValueError: an unknown name. FileNotFoundError: the weights are not where they came with the project.
        SamUnavailable: a SAM's weights, or the library for it, are out of reach; one sentence says so.
    """
    if name in ("sam", *SAM_MODELS):
        return SamPredictor(*build_sam(name, device))
    if name not in PREDICTORS:
        raise ValueError(f"unknown predictor {name!r}; known: {', '.join([*PREDICTORS, 'sam', *SAM_MODELS])}")
    model = fuse_norms(load_mini_sam(num_classes=21 if name == "mini_sam_semantic" else 1))
    return MiniSamPredictor(model.to(device, memory_format=torch.channels_last), name)


def fuse_norms(model: nn.Module) -> Any:
    """The model with each batch norm that follows a convolution put into its weights, in place: a quarter faster.

    In eval mode a batch norm is a factor and an offset for each channel. Only for answering: it can learn no more.
    """
    parts = list(model.named_children())
    for (conv_name, conv), (norm_name, norm) in pairwise(parts):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.num_features == conv.out_channels:
            setattr(model, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(model, norm_name, getattr(norm, "act", nn.Identity()))  # timm's norms bring their activation along
    for _, part in parts:
        fuse_norms(part)
    return model


def load_mini_sam(path: Path | None = None, num_classes: int = 1) -> MiniSAM:
    """Mini-SAM with the shipped weights (or those of another file that `save_mini_sam` wrote), in eval mode.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it holds other weights than this model needs.
    """
    path = path or shipped_weights("mini_sam.safetensors")
    state = read_weights(path)
    own = {k.removeprefix(SEMANTIC): v for k, v in state.items() if k.startswith(SEMANTIC)}
    state = {k: v for k, v in state.items() if not k.startswith(SEMANTIC)}
    if num_classes > 1:
        state |= own
    model = MiniSAM(build_encoder("efficientnet_lite0"), num_classes)
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
    state = {k: half(v) for k, v in model.state_dict().items()}
    if semantic is not None:
        for key, value in semantic.state_dict().items():
            if key not in state or not torch.equal(state[key], half(value)):
                state[SEMANTIC + key] = value
    save_half(path, state, about)
