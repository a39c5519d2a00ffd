"""The conditions of a score, without which it cannot be compared with another."""

import hashlib
import json
from dataclasses import asdict, dataclass

COMPARABLE = ("dataset", "split", "images", "num_classes", "labels", "size", "void", "averaging", "prompts")
"""Two scores that differ in one of these fields answer different questions and never share a table."""


@dataclass(frozen=True)
class Protocol:
    """How a score was measured.

    The fields in `COMPARABLE` must agree between rows of a table; the others are shown and may differ.
    """

    dataset: str
    split: str
    images: int
    num_classes: int
    labels: str
    """Hash of the true pixel counts of every image: scenes of another seed and other subsets have another one."""
    size: str
    """Width x height in pixels; scores are always taken at the label's own resolution."""
    void: str = "255 ignored"
    averaging: str = "one matrix over the whole set, mean over the classes that occur"
    seed: int | None = None
    device: str = "cpu"
    precision: str = "no"
    minutes: float | None = None
    """Minutes of training."""
    prompts: str = "none"
    """What the model was told besides the image, and where the classes of its masks come from if it knows none."""

    def __str__(self) -> str:
        """What a score must be printed with, without a full stop: "camvid val, 101 images, 480x360 pixels, ..."."""
        text = (
            f"{self.dataset} {self.split}, {self.images} images, {self.size} pixels, {self.num_classes} classes, "
            f"{self.void}; {self.averaging}"
        )
        return text if self.prompts == "none" else f"{text}; prompted with {self.prompts}"

    @property
    def device_text(self) -> str:
        """The device and the precision, as tables show them: "cpu, fp32"."""
        return f"{self.device}, {'fp32' if self.precision == 'no' else self.precision}"

    @property
    def key(self) -> str:
        """A short name that two protocols share exactly when their scores are comparable; for file names."""
        fields = [getattr(self, name) for name in COMPARABLE]
        if self.prompts == "none":
            fields.pop()  # the key that such scores had before there were prompts: they stay in their table
        comparable = json.dumps(fields)
        return f"{self.dataset}-{self.split}-{hashlib.sha256(comparable.encode()).hexdigest()[:8]}"

    def differences(self, other: "Protocol") -> list[str]:
        """Name the fields that make the two incomparable, with both values; empty when they are comparable."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name} ({mine[name]} against {theirs[name]})" for name in COMPARABLE if mine[name] != theirs[name]]
