"""SAM and its successors from `transformers`, in two parts: encode an image once, decode prompts on it often.

Kirillov et al., Segment Anything, ICCV 2023; Chen et al., SlimSAM, NeurIPS 2024; Ke et al., Segment Anything in High
Quality, NeurIPS 2023; Ravi et al., SAM 2, 2024; Zhou et al., EdgeTAM, CVPR 2025. Networks and preprocessing are the
library's. What is added is the interface of Mini-SAM: coordinates in pixels of the image, prompts in one call, masks of
the image's own size.
"""

import copy
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers import config
from labhelpers.files import file_hash
from labhelpers.models.library import FILE, Unreachable, hub_file

SURE = 8.0  # the logit of a pixel that is taken as certain
_IN_LEVELS = ("Sam2Model", "EdgeTamModel")  # their embedding is a list of features, the finest first


@dataclass(frozen=True)
class Published:
    """Weights on the hub: one commit of a repository, and the SHA-256 of its `model.safetensors`.

    Where no hash was to be had, that of the first download counts: the hub's cache names the file by it.
    """

    repo_id: str
    revision: str  # a commit; "main", the newest one, where no commit was to be had
    megabytes: int  # about
    licence: str
    sha256: str = ""


SAM_MODELS = {
    "slimsam_77": Published(
        "Zigeng/SlimSAM-uniform-77",
        "9e72a1bc79fa17f1f4e239003f0d84170c96464d",
        39,
        "Apache-2.0",
        "b0ee221e3d33935807a820c157fec81a537b3b9979edc88b148a8dae8bbdd5d2",
    ),
    "edgetam": Published(
        "yonigozlan/EdgeTAM-hf",
        "c266ce53b3fc00f0f495b583f6a116c4e57f53bb",
        56,
        "Apache-2.0",
        "8858f8e4757b0b96dab8763f296ecffd845efbbbf698f64163cfa20a63d5fff4",
    ),
    "sam2_hiera_tiny": Published(
        "facebook/sam2.1-hiera-tiny",
        "de431c4043854a71d8101e17995dfe596bf101a5",
        156,
        "Apache-2.0",
        "48c14467e5cf9e51870511feb72c89688e82dd74523142c0538b663e193ac2a7",
    ),
    "sam_vit_b": Published(
        "facebook/sam-vit-base",
        "70c1a07f894ebb5b307fd9eaaee97b9dfc16068f",
        375,
        "Apache-2.0",
        "892c410e496344e527255ccdcb2cb7244a609acb5389c7c4fdba1288f861c579",
    ),
    "sam_hq_vit_b": Published("syscv-community/sam-hq-vit-base", "main", 380, "Apache-2.0"),
    "sam_vit_l": Published("facebook/sam-vit-large", "6851e0441005b0fb96f2cc4dfac472f3d1b14af1", 1250, "Apache-2.0"),
    "sam_vit_h": Published("facebook/sam-vit-huge", "87aecf0df4ce6b30cd7de76e87673c49644bdf67", 2564, "Apache-2.0"),
}
"""The smallest first. "sam" is the one that suits the device, see `build_sam`."""


@dataclass(frozen=True)
class SamEmbedding:
    """What is computed once for an image."""

    features: tuple[Tensor, ...]  # float32; SAM: (1, 256, 64, 64), then what a variant's decoder wants besides
    size: tuple[int, int]  # (H, W) of the image
    seen: tuple[int, int]  # (h, w) to which it was resized; the rest of the network's square is padding


class SAM(nn.Module):
    """A Segment Anything model with coordinates in pixels of the image.

    Args:
        network: `SamModel`, `SamHQModel`, `Sam2Model` or `EdgeTamModel` of `transformers`. It is frozen and put in eval
            mode.
        processor: the library's image processor for it.

    Attributes:
        side: pixels of the square that the network sees, 1024 in all published weights.
        low_side: pixels of the square of the decoder's logits, 256.
    """

    def __init__(self, network: Any, processor: Any):
        super().__init__()
        self.network, self.processor = network.requires_grad_(False), processor
        self.eval()
        self.side: int = network.prompt_encoder.input_image_size
        self.low_side: int = 4 * network.prompt_encoder.image_embedding_size[0]

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def decoder(self) -> nn.Module:
        """The mask decoder, the part that is fine-tuned."""
        return self.network.mask_decoder

    def with_own_decoder(self) -> "SAM":
        """The same network with a copy of the mask decoder; the encoders are shared, not copied."""
        others = [part for name, part in self.network.named_children() if name != "mask_decoder"]
        return SAM(copy.deepcopy(self.network, {id(part): part for part in others}), self.processor)

    @torch.no_grad()
    def encode(self, images: Tensor) -> SamEmbedding:
        """All that does not depend on a prompt, without gradients.

        Args:
            images: one image, uint8 (1, 3, H, W), RGB; or float, normalised as `data.to_input` does.

        Raises:
            ValueError: another shape.
        """
        if images.ndim != 4 or images.shape[:2] != (1, 3):
            raise ValueError(f"SAM encodes one image (1, 3, H, W) at a time, got {tuple(images.shape)}")
        raw = images.dtype == torch.uint8
        prepared = self.processor(
            images.to(self.device), return_tensors="pt", input_data_format="channels_first", do_convert_rgb=False,
            do_rescale=raw, do_normalize=raw,
        )  # fmt: skip
        features = self.network.get_image_embeddings(prepared["pixel_values"])
        if isinstance(features, tuple):  # SAM-HQ: its decoder looks at the first of the intermediate ones only
            features = (features[0], features[1][0])
        elif isinstance(features, Tensor):
            features = (features,)
        height, width = (int(length) for length in prepared.get("reshaped_input_sizes", [(self.side, self.side)])[0])
        return SamEmbedding(tuple(features), (images.shape[2], images.shape[3]), (height, width))

    def decode(
        self,
        embedding: SamEmbedding,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """P prompts on one encoded image.

        Args:
            points: (P, N, 2), pixels (x, y) of the image; the centre of the first pixel is (0, 0).
            point_labels: integers (P, N): 1 foreground, 0 background.
            boxes: (P, 4), pixels (x0, y0, x1, y1), extreme pixel indices, inclusive.
            mask_input: logits (1, 1, low_side, low_side) of an earlier answer, with P = 1.
            multimask: M = 3 masks for a prompt that may mean several things; else M = 1.

        Returns:
            Logits (P, M, low_side, low_side) of the network's square, see `enlarge`, and predicted IoUs (P, M),
            which no function holds within 0..1.

        Raises:
            ValueError: points without labels, or labels without points.
        """
        given: dict[str, Any] = {"input_masks": mask_input, "multimask_output": multimask}
        if points is not None and point_labels is not None:
            given["input_points"] = self._to_seen(points, embedding)[None]
            given["input_labels"] = point_labels.to(self.device)[None]
        elif points is not None or point_labels is not None:
            raise ValueError("points and point_labels belong together: give both or none")
        if boxes is not None:
            given["input_boxes"] = self._boxes_to_seen(boxes, embedding)[None]
        features, kind = embedding.features, type(self.network).__name__
        given["image_embeddings"] = list(features) if kind in _IN_LEVELS else features[0]
        if kind == "SamHQModel":
            given["intermediate_embeddings"] = [features[1]]
        answer = self.network(**given)
        return answer.pred_masks[0], answer.iou_scores[0]

    def enlarge(self, logits: Tensor, embedding: SamEmbedding) -> Tensor:
        """Logits of the network's square as logits of the image: (P, M, low_side, low_side) -> (P, M, H, W)."""
        sizes = {"original_sizes": [embedding.size], "reshaped_input_sizes": [embedding.seen]}
        return self.processor.post_process_masks([logits], **sizes, binarize=False)[0]

    def shrink(self, masks: Tensor, embedding: SamEmbedding) -> Tensor:
        """The share of each position of the network's square that a mask covers, 0 in the padding.

        (P, H, W), bool or float -> float (P, low_side, low_side), what `enlarge` turns back.
        """
        masks = masks.to(self.device, torch.float32)[:, None]
        height, width = embedding.seen
        seen = F.interpolate(masks, (height, width), mode="bilinear", antialias=True)
        square = F.pad(seen, (0, self.side - width, 0, self.side - height))
        return F.interpolate(square, (self.low_side, self.low_side), mode="area")[:, 0]

    def mask_logits(self, mask: Tensor, embedding: SamEmbedding) -> Tensor:
        """A mask without logits, bool (H, W), as `mask_input`: (1, 1, low_side, low_side)."""
        return SURE * (2 * self.shrink(mask[None], embedding)[None] - 1)

    def _to_seen(self, xy: Tensor, embedding: SamEmbedding) -> Tensor:
        return (xy.to(self.device, torch.float32) + 0.5) * self._scale(embedding) - 0.5

    def _boxes_to_seen(self, boxes: Tensor, embedding: SamEmbedding) -> Tensor:
        """From the first pixel's outer corner to the last one's, and back to the extreme pixels of what is seen."""
        boxes, scale = boxes.to(self.device, torch.float32), self._scale(embedding)
        return torch.cat([boxes[:, :2] * scale, (boxes[:, 2:] + 1) * scale - 1], dim=1)

    def _scale(self, embedding: SamEmbedding) -> Tensor:
        (height, width), (seen_height, seen_width) = embedding.size, embedding.seen
        return torch.tensor([seen_width / width, seen_height / height], device=self.device)


# What the networks of `transformers` need to have changed from outside, by hooks on their parts.


def halve(encoder: nn.Module) -> None:
    """Have a part of a network compute in float16, while what goes in and comes out stays float32."""

    def as_half(_module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Any]) -> tuple[tuple, dict]:
        return _cast(args, torch.float16), _cast(named, torch.float16)

    def as_float(_module: nn.Module, _args: Any, output: Any) -> Any:
        for key in output:  # a dict that is an object, too
            output[key] = _cast(output[key], torch.float32)
        return output

    encoder.half()
    encoder.register_forward_pre_hook(as_half, with_kwargs=True)
    encoder.register_forward_hook(as_float)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_cast(item, dtype) for item in value)
    return {key: _cast(item, dtype) for key, item in value.items()} if isinstance(value, dict) else value


def repair_hq_decoder(decoder: Any) -> None:
    """Have SAM-HQ's decoder enlarge what its transformer returned, as Ke et al. (2023) do and SAM's decoder does.

    In `transformers` 5.23 it enlarges the embedding from before the transformer, which no prompt has reached, and with
    rows and columns exchanged, so that masks are not where the prompt was. Where the library is right this changes
    nothing.
    """
    updated: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: tuple[Tensor, Tensor]) -> None:
        updated[:] = [output[1]]  # (P, 1, h * w, C)

    def replace(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (updated.pop().transpose(2, 3).reshape(args[0].shape),)  # (P, C, h, w)

    decoder.transformer.register_forward_hook(keep)
    decoder.upscale_conv1.register_forward_pre_hook(replace)


# The weights of SAM: from a folder, the hub's cache or the hub, in this order, and as safetensors only.

VARIABLE = "LAB_SAM_WEIGHTS"

# What config.json calls the architecture -> classes of `transformers`. The weights of SAM 2 and EdgeTAM are those of a
# video network, of which the image network is a part.
_CLASSES = {
    "sam": ("SamModel", "SamImageProcessor"),
    "sam_hq": ("SamHQModel", "SamImageProcessor"),
    "sam2": ("Sam2Model", "Sam2ImageProcessor"),
    "sam2_video": ("Sam2Model", "Sam2ImageProcessor"),
    "edgetam": ("EdgeTamModel", "Sam2ImageProcessor"),
    "edgetam_video": ("EdgeTamModel", "Sam2ImageProcessor"),
}


class SamUnavailable(RuntimeError):
    """There are no weights, or no library, to be had; the message is one sentence that says what to do."""


def build_sam(
    name: str = "sam", device: str | torch.device = "cpu", tell: Callable[[str], None] = print
) -> tuple[SAM, str]:
    """The model `name` of `SAM_MODELS` with its published weights, or the one in the folder `LAB_SAM_WEIGHTS`.

    On a GPU the image encoder, nearly all of the parameters, computes in float16 and the rest in float32.

    Args:
        name: "sam" is SlimSAM on a CPU, whose encoder is SAM's smallest pruned to a sixteenth, and SAM 2.1 tiny on a
            GPU.
        tell: gets one sentence before something large is downloaded.

    Returns:
        The model, and the name of what it is: of `SAM_MODELS`, or of the folder.

    Raises:
        SamUnavailable: the library or the weights are out of reach, which is decided within about a second.
        ValueError: an unknown name, a folder with other files than a SAM's, or weights that are not those of
            `SAM_MODELS`. FileNotFoundError: no such folder.
    """
    if name == "sam":
        name = "sam2_hiera_tiny" if torch.device(device).type == "cuda" else "slimsam_77"
    if name not in SAM_MODELS:
        raise ValueError(f"unknown SAM {name!r}; known: {', '.join(['sam', *SAM_MODELS])}")
    if importlib.util.find_spec("transformers") is None:
        raise SamUnavailable(
            f"{name} needs the library transformers, which is not installed: "
            'pip install "labhelpers[sam]", then restart the kernel.'
        )
    if (found := importlib.metadata.version("transformers")).startswith("4."):  # Colab came with it for long
        raise SamUnavailable(
            f"{name} needs the library transformers, 5.0 or later, and {found} is here: take a newer runtime or "
            'environment, or pip install "labhelpers[sam]", then restart the kernel.'
        )
    folder = config.path_from(VARIABLE)
    if folder:
        return load_sam_folder(folder, device), folder.name
    return load_sam_folder(_downloaded(name, tell), device), name


def load_sam_folder(folder: Path, device: str | torch.device = "cpu") -> SAM:
    """The SAM in a folder that `save_pretrained` wrote: `config.json` says which, `model.safetensors` weighs it.

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
            raise ValueError(f"{folder / FILE} lacks weights of a {kind}, such as {lacking[0]}: {remedy}")
        processor = _processor(processor_class, folder, network)
    if kind == "sam_hq":
        repair_hq_decoder(network.mask_decoder)
    if torch.device(device).type == "cuda":
        halve(network.vision_encoder)
    return SAM(network.to(device), processor)


def _processor(kind: Any, folder: Path, network: Any) -> Any:
    """The folder's image processor, or the class's own; in either case for the network's size of image."""
    side = network.prompt_encoder.input_image_size
    square = {"height": side, "width": side}
    padded = kind.__name__ == "SamImageProcessor"
    sizes = {"size": {"longest_edge": side}, "pad_size": square} if padded else {"size": square}
    if any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return kind.from_pretrained(folder, local_files_only=True, **sizes)
    return kind(**sizes)


def _downloaded(name: str, tell: Callable[[str], None]) -> Path:
    """The folder of the hub's cache with this model's files."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    published = SAM_MODELS[name]
    bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        large = hub_file(
            published.repo_id,
            published.revision,
            FILE,
            lambda size: tell(f"{name}: downloading {size / 1e6:,.0f} MB from {published.repo_id} ..."),
        )
        # Of the same commit, also when the revision is a branch.
        hub_file(published.repo_id, large.parent.name, "config.json")
    except Unreachable as error:
        remedy = f"connect and run this again, or set {VARIABLE} to a folder with its weights"
        raise SamUnavailable(error.sentence(f"{name} is left out; to have it, {remedy}")) from error
    finally:
        if bars:
            enable_progress_bars()
    found = file_hash(large)
    if published.sha256 and found != published.sha256:
        raise ValueError(
            f"{large} is not the {name} of this course: its SHA-256 is {found}, not {published.sha256}. Delete "
            f"{large.parents[2]} and run this again, or set {VARIABLE} to a folder with weights that you trust."
        )
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
