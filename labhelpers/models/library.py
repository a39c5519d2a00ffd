"""Networks of other libraries that keep to this course's interface, and weights from the Hugging Face hub.

Five decoders of segmentation-models-pytorch (smp) on any of its encoders, and MONAI's Swin-UNETR:

    unet           Ronneberger et al., U-Net, MICCAI 2015
    unetplusplus   Zhou et al., UNet++, DLMIA 2018
    deeplabv3plus  Chen et al., Encoder-Decoder with Atrous Separable Convolution, ECCV 2018
    pspnet         Zhao et al., Pyramid Scene Parsing Network, CVPR 2017
    segformer      Xie et al., SegFormer, NeurIPS 2021
"""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from labhelpers.files import file_hash, reachable
from labhelpers.models.deeplab import PooledBatchNorm2d
from labhelpers.models.encoders import LITES, Renormalize, packaged_state
from labhelpers.models.shipped import read_weights
from labhelpers.models.unet import pad_to_multiple

ARCHITECTURES = {
    "unet": "Unet",
    "unetplusplus": "UnetPlusPlus",
    "deeplabv3plus": "DeepLabV3Plus",
    "pspnet": "PSPNet",
    "segformer": "Segformer",
}
MULTIPLE = 32  # smp asks for sides that halve five times; PSPNet only claims to need less (its encoder may need it)
NO_OPTIONS = {"self", "kwargs", "encoder_name", "encoder_weights", "classes", "in_channels", "activation", "aux_params"}
TIMM = "tu-"  # smp's prefix for encoders that come from timm
PACKAGED = {f"{TIMM}tf_{name}": name for name in LITES}  # encoders whose ImageNet weights come as a Python package
FILE = "model.safetensors"  # tensors and nothing else: unlike a pickle it cannot run code
ANSWER_SECONDS = 5.0


class LibraryNetwork(nn.Module):
    """A network of another library, for images of any size and without parameters that its output ignores.

    Args:
        network: maps (B, 3, H, W) to logits (B, K, H, W) where `MULTIPLE` divides H and W.
        encoder: the name of the network's module that may be pretrained.
        name: as it should stand in tables.
        weights: of the encoder, `"imagenet"` or `"random"`.
        pixels: brings images normalised by ImageNet's statistics to those that the weights expect.
    """

    def __init__(self, network: nn.Module, encoder: str, name: str, weights: str, pixels: nn.Module | None = None):
        super().__init__()
        self.pixels = pixels or nn.Identity()
        self.network, self.name, self.weights = drop_unused(network, name), name, weights
        self._encoder = encoder

    @property
    def encoder(self) -> nn.Module:
        """The network's own encoder; a property, so that its parameters are registered once."""
        return self.network.get_submodule(self._encoder)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) float -> logits (B, K, H, W), any H and W: padded right and bottom, and cropped back."""
        height, width = images.shape[-2:]
        return self.network(pad_to_multiple(self.pixels(images), MULTIPLE))[..., :height, :width]


def build_smp(
    architecture: str, encoder: str, num_classes: int = 21, pretrained: bool = False, **options: Any
) -> LibraryNetwork:
    """smp's `architecture` on `encoder`, from images normalised by ImageNet's statistics to logits.

    What differs from smp: any size of image; DeepLabV3+ trains with one image, too (its pooling branch has our
    `PooledBatchNorm2d`); parts of an encoder that the architecture ignores are left out (PSPNet ends at stride 8, where
    smp keeps, counts and saves the rest); and nothing waits for a hub that cannot be reached.

    Args:
        architecture: one of `ARCHITECTURES`.
        encoder: smp's name, such as `"resnet34"`, `"efficientnet-b0"`, `"mobilenet_v2"` or `"mit_b0"`, or `"tu-"` and
            a name of timm's, such as `"tu-hrnet_w18"`.
        num_classes: K.
        pretrained: ImageNet weights for the encoder: safetensors at the commit that smp names, or of timm's default tag
            (see `hub_weights`); of `"tu-tf_efficientnet_lite0"`, 1 and 2 from a Python package, without a network (see
            `packaged_state`). Where they cannot be had one sentence says so and `weights` is `"random"`.
        **options: of smp's class, such as `decoder_channels`.

    Raises:
        ValueError: for an unknown name or option, a combination that smp cannot build, or pretrained weights that
            nobody published.
    """
    import segmentation_models_pytorch as smp

    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
    kind = getattr(smp, ARCHITECTURES[architecture])
    source = _published(encoder)
    known = set(inspect.signature(kind.__init__).parameters) - NO_OPTIONS
    unknown = sorted(options.keys() - known)
    if unknown:  # smp ignores them, or they would break the promise of logits for K classes
        raise ValueError(f"{architecture} has no option {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    if pretrained and source is None:
        raise ValueError(f"pretrained=True: no ImageNet weights of {encoder} are known; use pretrained=False")

    options = {"classes": num_classes, "encoder_weights": None, **options}
    network, pixels = _build(kind, architecture, encoder, options), None
    found = _imagenet(encoder, source, f"{architecture} on {encoder}") if pretrained and source else None
    if found is not None and encoder.startswith(TIMM):
        # timm's loader knows how its weights map to a network that gives features, and which pixels they expect.
        overlay = {"encoder_weights": True, "pretrained_cfg_overlay": found}
        with _quiet_timm():
            network = _build(kind, architecture, encoder, {**options, **overlay})
        trained = network.encoder.model.pretrained_cfg
        pixels = Renormalize(trained["mean"], trained["std"])
    elif found is not None:
        network.encoder.load_state_dict(read_weights(Path(found["file"])))
    weights = "random" if found is None else "imagenet"
    for block in network.decoder.modules():  # with a batch of one, there is one value per channel behind a pooling
        if isinstance(block, nn.Sequential) and isinstance(block[0], nn.AdaptiveAvgPool2d):
            for index, layer in enumerate(block):
                if isinstance(layer, nn.BatchNorm2d):
                    block[index] = PooledBatchNorm2d(layer.num_features)
    return LibraryNetwork(network, "encoder", f"{architecture} {encoder}", weights, pixels)


def _published(encoder: str) -> tuple[str, str] | None:
    """Repository and revision of an encoder's ImageNet weights on the hub; None where nobody published any.

    A name of timm's may be followed by the tag of its weights ("tu-resnet18.a1_in1k").

    Raises:
        ValueError: neither smp nor timm knows the encoder.
    """
    import timm
    from segmentation_models_pytorch.encoders import encoders, get_encoder_names

    if not encoder.startswith(TIMM):
        if encoder not in get_encoder_names():
            raise ValueError(
                f"unknown encoder {encoder!r}; segmentation_models_pytorch.encoders.get_encoder_names() lists smp's, "
                f"and {TIMM} before one of timm.list_models() takes timm's"
            )
        settings = encoders[encoder]["pretrained_settings"].get("imagenet")
        return None if settings is None else (settings["repo_id"], settings["revision"])
    name = encoder.removeprefix(TIMM)
    try:
        if not timm.is_model(name):
            raise ValueError(f"unknown encoder {encoder!r}: timm has no such model; timm.list_models() lists them")
        config: Any = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:  # no such tag
        raise ValueError(f"unknown encoder {encoder!r}: {error} timm.list_pretrained() lists the tags") from error
    published = config is not None and config.hf_hub_id and not config.hf_hub_filename
    return (config.hf_hub_id, "main") if published else None


def _imagenet(encoder: str, source: tuple[str, str], name: str) -> dict[str, Any] | None:
    """ImageNet weights of an encoder, from its package or else the hub, as timm calls them; None if out of reach."""
    if encoder in PACKAGED:
        state = packaged_state(PACKAGED[encoder])
        return None if state is None else {"state_dict": state}
    file = hub_weights(*source, name=name)
    return None if file is None else {"file": str(file)}


@contextmanager
def _quiet_timm() -> Iterator[None]:
    """Inside, timm does not warn that the classifier's weights find no place in an encoder."""
    log = logging.getLogger("timm.models._builder")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _build(kind: Callable[..., Any], architecture: str, encoder: str, options: dict[str, Any]) -> Any:
    try:
        return kind(encoder_name=encoder, **options)
    except (AssertionError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        remedy = "Try this encoder with another architecture."
        if architecture == "deeplabv3plus":
            remedy = (
                "DeepLabV3+ needs an encoder that can replace its last stride by dilation: ResNets, EfficientNets, "
                f"MobileNets and mit_b0 to mit_b5 can; HRNets, VGG and DenseNets cannot. unet takes {encoder}."
            )
        reason = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
        raise ValueError(f"smp cannot build {architecture} on {encoder} ({reason}). {remedy}") from error


def drop_unused(network: nn.Module, name: str) -> nn.Module:
    """The network, with every module whose parameters the output ignores replaced by an identity.

    Such parameters would count as if they did something, and gradients that never come stop training on several GPUs.

    Raises:
        ValueError: the network does not run without them, or its output is not as large as its input.
    """
    training = network.training
    image = torch.zeros(1, 3, 2 * MULTIPLE, 2 * MULTIPLE)
    logits = network.eval()(image)
    if logits.shape[-2:] != image.shape[-2:]:
        raise ValueError(f"{name} makes {tuple(logits.shape)} of {tuple(image.shape)}: correct the network's options")
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
    used = {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    if len(used) < len(parameters):
        _replace_unused(network, used)
        try:
            same = torch.allclose(network(image), logits)
        except (AttributeError, RuntimeError, TypeError):  # it does more with them than to call them
            same = False
        if not same:
            raise ValueError(
                f"{name}: the architecture ignores parts of this encoder that it cannot run without. Combine either "
                "with another."
            )
    return network.train(training)


class _Skip(nn.Module):
    """Where an unused module was: encoders may call it all the same, and EfficientNet gives it a second argument."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


def _replace_unused(module: nn.Module, used: set[int]) -> None:
    for name, child in module.named_children():
        parameters = list(child.parameters())
        if parameters and used.isdisjoint(map(id, parameters)):
            setattr(module, name, _Skip())
        else:
            _replace_unused(child, used)


def build_swin_unetr(num_classes: int = 21, feature_size: int = 24) -> LibraryNetwork:
    """MONAI's SwinUNETR in two dimensions, a Swin transformer and a convolutional decoder, with random weights.

    Args:
        num_classes: K.
        feature_size: channels of the patch embedding, a multiple of 12; 24 gives 6.3 M parameters, 48 (as in
            the paper) 25 M.

    Raises:
        ImportError: MONAI or einops is not installed.
        ValueError: `feature_size` is not a multiple of 12.
    """
    try:
        import einops  # noqa: F401  (MONAI asks for it at the first call only)
        from monai.networks.nets import SwinUNETR
    except ImportError as error:
        raise ImportError(
            f"Swin-UNETR needs MONAI and einops, an optional extra of labhelpers ({error}). Install it with "
            'pip install "labhelpers[monai]", or leave this network out.'
        ) from error
    if feature_size < 12 or feature_size % 12:
        raise ValueError(f"feature_size={feature_size}: it must be a multiple of 12, as the heads share the channels")
    network = SwinUNETR(in_channels=3, out_channels=num_classes, feature_size=feature_size, spatial_dims=2)
    return LibraryNetwork(network, "swinViT", f"swin_unetr {feature_size}", "random")


class Unreachable(OSError):
    """A file that is neither in the hub's cache nor to be had from the hub."""

    def __init__(self, reason: str, remark: str = ""):
        super().__init__(reason + remark)
        self.reason, self.remark = reason, remark

    def sentence(self, consequence: str) -> str:
        """Why there is no file, and what follows from it."""
        return f"{self.reason}: {consequence}{self.remark}."


def hub_weights(repo_id: str, revision: str, name: str) -> Path | None:
    """`repo_id`'s weights at `revision`, as `hub_file` finds them; None, and one printed sentence, without them.

    Args:
        name: what the weights are for, as the sentence says it.

    Raises:
        ValueError: the file is not the one that the hub named.
    """
    try:
        return hub_file(repo_id, revision, FILE)
    except Unreachable as error:
        print(error.sentence(f"{name} starts from random weights instead of ImageNet's"))
        return None


def hub_file(repo_id: str, revision: str, filename: str, tell: Callable[[int], None] | None = None) -> Path:
    """A file of `repo_id` at `revision` (a branch, a tag or a commit), from the hub's cache, else downloaded.

    The hub names a large file by its SHA-256, and so does the cache; the file is checked against it at every call. Only
    where a file system without links keeps no such name, what remains is the check of its size after the download.

    Args:
        tell: called with the number of bytes before a download begins.

    Raises:
        Unreachable: it is neither cached nor to be had: no connection within a second, no answer within five, or an
            error. ValueError: the file is not the one that the hub named.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # The files are public, and on Colab reading the token would ask for a permission.
    download = partial(hf_hub_download, repo_id, filename, revision=revision, token=False)
    try:
        return _verified(Path(download(local_files_only=True)))
    except LocalEntryNotFoundError:
        pass  # not cached
    if constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT):
        raise Unreachable("No network", f" (looked for {repo_id} in the cache of huggingface_hub)")
    # The bases are the errors of the HTTP library that this version of huggingface_hub uses; hf_xet has RuntimeError.
    failures: Any = (OSError, RuntimeError, *HfHubHTTPError.__bases__)
    try:
        # hf_hub_download tries six times, half a minute, where no answer comes; this fails at the first.
        url = hf_hub_url(repo_id, filename, revision=revision)
        metadata = get_hf_file_metadata(url, token=False, timeout=ANSWER_SECONDS)
        if tell is not None:
            tell(metadata.size or 0)
        return _verified(Path(download()))
    except failures as error:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise Unreachable(f"{urlsplit(constants.ENDPOINT).hostname} does not give {repo_id} ({reason})") from error


def _verified(path: Path) -> Path:
    """The file, after a look whether its content has the SHA-256 that is the name of the link's target."""
    name = path.readlink().name if path.is_symlink() else ""
    if len(name) == 64:  # small files, which git keeps itself, have a shorter hash
        found = file_hash(path)
        if found != name:
            raise ValueError(
                f"{path} is damaged: its SHA-256 is {found}, not {name}. Delete {path.parents[2]} and run this again."
            )
    return path
