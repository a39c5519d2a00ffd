"""torchvision's published DeepLabV3 in this course's DeepLabV3: other names, the same numbers."""

import re

from torch import Tensor

from labhelpers.models.deeplab import DeepLabV3
from labhelpers.models.encoders import published_state

# torchvision's names, and ours. Its auxiliary classifier takes part in training only and is left out.
_NAMES = (
    (r"backbone\.", "encoder."),
    (r"classifier\.0\.convs\.0\.", "head.aspp.conv1."),
    (r"classifier\.0\.convs\.([123])\.", lambda match: f"head.aspp.atrous_convs.{int(match[1]) - 1}."),
    (r"classifier\.0\.convs\.4\.", "head.aspp.global_avg_pool."),
    (r"classifier\.0\.project\.", "head.aspp.conv_out."),
    (r"classifier\.1\.", "head.refine.0."),
    (r"classifier\.2\.", "head.refine.1."),
    (r"classifier\.4\.", "head.classifier."),
)


def published_deeplabv3(backbone: str = "resnet50") -> DeepLabV3:
    """DeepLabV3 at output stride 8 with rates 12, 24, 36, as torchvision trained it (COCO images with VOC's 21 labels).

    Without a network one sentence says so and the weights stay random; ``model.weights`` is ``"coco"`` or ``"random"``.

    Args:
        backbone: ``resnet50`` or ``resnet101``.

    Raises:
        ValueError: for another backbone.
    """
    if backbone not in ("resnet50", "resnet101"):
        raise ValueError(f"no published DeepLabV3 for backbone {backbone!r}; known: resnet50, resnet101")
    from torchvision.models import get_model_weights

    name = f"deeplabv3_{backbone}"
    model = DeepLabV3(num_classes=21, backbone=backbone, output_stride=8)
    model.weights = "random"
    state = published_state(get_model_weights(name).DEFAULT, name, "torchvision's")
    if state is not None:
        model.load_state_dict(from_torchvision(state))
        model.weights = "coco"
    return model


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a torchvision ``deeplabv3_resnet*`` under the names of :class:`DeepLabV3`.

    Raises:
        ValueError: for a name that is no part of torchvision's DeepLabV3.
    """
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("aux_classifier."):
            continue
        for pattern, ours in _NAMES:
            new, count = re.subn(rf"^{pattern}", ours, name)
            if count:
                renamed[new] = tensor
                break
        else:
            raise ValueError(f"{name!r} is not part of torchvision's DeepLabV3: is this another model's state dict?")
    return renamed
