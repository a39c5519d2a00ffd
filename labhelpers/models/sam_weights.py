"""The weights of SAM: from a folder, the hub's cache or the hub, in this order, and as safetensors only."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labhelpers.models.hub import FILE, Unreachable, hub_file
from labhelpers.models.sam import SAM, SAM_MODELS
from labhelpers.models.sam_hooks import halve, repair_hq_decoder

__all__ = ["SamUnavailable", "build_sam", "load_sam_folder", "quiet"]

VARIABLE = "LAB_SAM_WEIGHTS"

# What config.json calls the architecture -> classes of `transformers`. The weights of SAM 2 are those of its video
# network, of which the image network is a part.
_CLASSES = {
    "sam": ("SamModel", "SamImageProcessor"),
    "sam_hq": ("SamHQModel", "SamImageProcessor"),
    "sam2": ("Sam2Model", "Sam2ImageProcessor"),
    "sam2_video": ("Sam2Model", "Sam2ImageProcessor"),
}


class SamUnavailable(RuntimeError):
    """There are no weights, or no library, to be had; the message is one sentence that says what to do."""


def build_sam(
    name: str = "sam_vit_b", device: str | torch.device = "cpu", tell: Callable[[str], None] = print
) -> tuple[SAM, str]:
    """The model ``name`` of ``SAM_MODELS`` with its published weights, or the one in the folder ``LAB_SAM_WEIGHTS``.

    On a GPU the image encoder, nearly all of the parameters, computes in float16 and the rest in float32.

    Args:
        tell: gets one sentence before something large is downloaded.

    Returns:
        The model, and the name of what it is: ``name``, or that of the folder.

    Raises:
        SamUnavailable: the library or the weights are out of reach, which is decided within about a second.
        ValueError: an unknown name, or a folder with other files than a SAM's. FileNotFoundError: no such folder.
    """
    if name not in SAM_MODELS:
        raise ValueError(f"unknown SAM {name!r}; known: {', '.join(SAM_MODELS)}")
    if importlib.util.find_spec("transformers") is None:
        raise SamUnavailable(
            f"{name} needs the library transformers, which is not installed: "
            'pip install "labhelpers[sam]", then restart the kernel.'
        )
    if os.environ.get(VARIABLE):
        folder = Path(os.environ[VARIABLE]).expanduser()
        return load_sam_folder(folder, device), folder.name
    return load_sam_folder(_downloaded(name, tell), device), name


def load_sam_folder(folder: Path, device: str | torch.device = "cpu") -> SAM:
    """The SAM in a folder that ``save_pretrained`` wrote: ``config.json`` says which, ``model.safetensors`` weighs it.

    Raises:
        FileNotFoundError: there is no such folder, or one of the two files is missing. ValueError: the files are of
            another network, or damaged.
    """
    remedy = "give a folder as save_pretrained writes it, with config.json and model.safetensors of a SAM"
    for path in (folder, folder / "config.json", folder / FILE):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: {remedy}")
    import transformers
    from safetensors import SafetensorError

    with quiet():
        try:
            settings, _ = transformers.PreTrainedConfig.get_config_dict(folder, local_files_only=True)
            kind = settings.get("model_type")
            if kind not in _CLASSES:
                raise ValueError(f"its config.json is of the model type {kind!r}, not {', '.join(_CLASSES)}")
            network_class, processor_class = (getattr(transformers, name) for name in _CLASSES[kind])
            network, found = network_class.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder} holds no SAM ({str(error).splitlines()[0]}): {remedy}") from error
        if found["missing_keys"] or found["mismatched_keys"]:
            lacking = sorted([*found["missing_keys"], *found["mismatched_keys"]], key=str)
            raise ValueError(f"{folder / FILE} has not all weights of a {kind}, not {lacking[0]}: {remedy}")
        processor = _processor(processor_class, folder, network)
    if kind == "sam_hq":
        repair_hq_decoder(network.mask_decoder)
    if torch.device(device).type == "cuda":
        halve(network.vision_encoder)
    return SAM(network.to(device), processor)


def _processor(kind: Any, folder: Path, network: nn.Module) -> Any:
    """The folder's image processor, or the class's own; in either case for the network's size of image."""
    side = network.prompt_encoder.input_image_size
    square = {"height": side, "width": side}
    padded = kind.__name__ == "SamImageProcessor"
    sizes = {"size": {"longest_edge": side}, "pad_size": square} if padded else {"size": square}
    if (folder / "preprocessor_config.json").is_file() or (folder / "processor_config.json").is_file():
        return kind.from_pretrained(folder, local_files_only=True, **sizes)
    return kind(**sizes)


def _downloaded(name: str, tell: Callable[[str], None]) -> Path:
    """The folder of the hub's cache with this model's files."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    repo_id, revision = SAM_MODELS[name]
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        large = hub_file(
            repo_id, revision, FILE, lambda size: tell(f"{name}: downloading {size / 1e6:,.0f} MB from {repo_id} ...")
        )
        hub_file(repo_id, large.parent.name, "config.json")  # of the same commit, also when the revision is a branch
    except Unreachable as error:
        remedy = f"connect and run this again, or set {VARIABLE} to a folder with its weights"
        raise SamUnavailable(error.sentence(f"{name} is left out; to have it, {remedy}")) from error
    finally:
        if shown:
            enable_progress_bars()
    return large.parent


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's progress bars, and without its warnings: what is wrong is raised here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
