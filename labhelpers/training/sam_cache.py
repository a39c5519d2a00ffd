"""SAM's image embeddings on the disk: encoding takes seconds an image on a CPU, and the encoder does not change."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from labhelpers.files import write_atomic
from labhelpers.models.sam import SAM, SamEmbedding
from labhelpers.training.run import sketch


class EmbeddingCache:
    """Gives the embedding of an image, from a file if there is one. It is rounded to float16 either way.

    A file is named after the encoder's weights and the image's content, and holds the hash of its own values: a
    damaged one is said to be so, computed again and replaced.

    Args:
        folder: where the files are; it is made. SAM's take 2 MB an image.
    """

    def __init__(self, model: SAM, folder: Path):
        self.model, self.folder = model, folder
        folder.mkdir(parents=True, exist_ok=True)
        encoder = model.network.vision_encoder
        described = f"{type(encoder).__name__} {encoder.dtype} {model.side} {sketch(encoder)}"
        self._encoder = hashlib.sha256(described.encode()).hexdigest()[:16]

    def embed(self, image: Tensor) -> SamEmbedding:
        """uint8 (3, H, W) -> the embedding, in float16 on the CPU."""
        content = hashlib.sha256(f"{tuple(image.shape)}".encode() + image.numpy().tobytes()).hexdigest()[:32]
        path = self.folder / f"{self._encoder}-{content}.safetensors"
        if path.exists():
            try:
                return _read(path)
            except ValueError as error:
                print(f"{error}: the embedding is computed again.")
        full = self.model.encode(image[None])
        embedding = SamEmbedding(tuple(_half(part) for part in full.features), full.size, full.seen)
        _write(path, embedding)
        return embedding


def on_device(embedding: SamEmbedding, device: torch.device) -> SamEmbedding:
    """As the decoder wants it: float32, on the model's device."""
    features = tuple(part.to(device, torch.float32) for part in embedding.features)
    return SamEmbedding(features, embedding.size, embedding.seen)


def _half(tensor: Tensor) -> Tensor:
    tensor = tensor.cpu().contiguous()
    return tensor.half() if tensor.abs().max() < torch.finfo(torch.float16).max else tensor


def _write(path: Path, embedding: SamEmbedding) -> None:
    from safetensors.torch import save

    sizes = torch.tensor([embedding.size, embedding.seen])
    tensors = {"sizes": sizes} | {f"features.{i}": part for i, part in enumerate(embedding.features)}
    write_atomic(path, save(tensors, {"sha256": _hash(tensors)}))


def _read(path: Path) -> SamEmbedding:
    """Raises ValueError for a file that is not as it was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors, written = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if (written or {}).get("sha256") != _hash(tensors):
        raise ValueError(f"{path} is damaged (its values are not those whose hash it holds)")
    size, seen = (tuple(row) for row in tensors.pop("sizes").tolist())
    return SamEmbedding(tuple(tensors[f"features.{i}"] for i in range(len(tensors))), size, seen)


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
