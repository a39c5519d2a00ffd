"""Mask R-CNN: propose boxes, look into each of them, and draw a mask for each class it may be.

He, Gkioxari, Dollár, Girshick: Mask R-CNN, ICCV 2017, on a feature pyramid (Lin et al., CVPR 2017), with proposals from
Faster R-CNN (Ren et al., NeurIPS 2015). The network is torchvision's; here are its parts put together for an encoder of
the course, the published weights with heads for other classes, and a prediction as `Instances`.
"""

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from labhelpers.data.augment import to_input
from labhelpers.data.instances import Instances
from labhelpers.models.encoders import Encoder, build_encoder, published_state

if TYPE_CHECKING:
    from torchvision.models.detection import MaskRCNN

NO_CHANGE = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
"""For torchvision's own normalisation: `to_input` has done it, as for every network of the course."""


class Pyramid(nn.Module):
    """A feature pyramid on an encoder: images -> {"0": stride 4, ..., "3": stride 32, "pool": 64}, all as wide.

    Lin et al., Figure 3: from the coarsest map on, each is enlarged and added to a 1x1 convolution of the encoder's
    next finer one. So fine maps know what the deep layers know. The encoder is called `body`, as in torchvision.
    """

    def __init__(self, encoder: Encoder, channels: int):
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        self.body = encoder
        self.fpn = FeaturePyramidNetwork(list(encoder.channels), channels, extra_blocks=LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) float -> five maps (B, channels, ceil(H / s), ceil(W / s))."""
        return self.fpn(OrderedDict((str(level), x) for level, x in enumerate(self.body(images))))


def mask_rcnn(
    num_classes: int,
    backbone: str = "resnet50",
    width: int = 64,
    pretrained: bool | str = "coco",
    size: int = 800,
    channels: int = 256,
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512),
    hidden: int = 1024,
    mask_layers: int = 4,
    proposals: int = 1000,
    samples: int = 512,
) -> "MaskRCNN":
    """Mask R-CNN on a feature pyramid. The defaults of all numbers are those of the paper and of torchvision.

    It is called as torchvision's: a list of images, float (3, H, W), normalised by `to_input`. In train mode a list of
    targets, dicts of boxes (N, 4), labels (N,) and masks uint8 (N, H, W), comes with it, and five losses come back; in
    eval mode a list of dicts does, which `instances_of` turns into `Instances`.

    Args:
        num_classes: K, background (0) among them.
        backbone, width: see `build_encoder`.
        pretrained: "coco" takes the whole network that torchvision trained on COCO, with new last layers; its other
            layers are as the defaults say. Without a network one sentence says so. Else see `Encoder`.
        size: the shorter side to which an image is resized, in pixels; crops of that size stay as they are.
        channels: of the pyramid.
        anchors: sides of the anchors at strides 4, 8, 16, 32 and 64, pixels; each in the shapes 1:2, 1:1 and 2:1.
        hidden: width of the two layers that name a box.
        mask_layers: 3x3 convolutions before the mask is enlarged to 28 x 28.
        proposals: boxes that are left of an image's after suppression when it predicts; twice as many in training.
        samples: proposals of an image that the heads learn from; of anchors half as many.

    Attributes:
        weights: "coco", or those of the encoder.

    Raises:
        ValueError: "coco" for another network than the published one; and as `build_encoder` does.
    """
    from torchvision.models.detection import MaskRCNN, mask_rcnn
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

    options: dict[str, Any] = {
        "min_size": size,
        "max_size": 2 * size,
        **NO_CHANGE,
        "rpn_pre_nms_top_n_train": 2 * proposals,
        "rpn_pre_nms_top_n_test": proposals,
        "rpn_post_nms_top_n_train": 2 * proposals,
        "rpn_post_nms_top_n_test": proposals,
        "rpn_batch_size_per_image": samples // 2,
        "box_batch_size_per_image": samples,
    }
    if pretrained == "coco":
        own = (backbone, width, channels, anchors, hidden, mask_layers)
        if own != ("resnet50", 64, 256, (32, 64, 128, 256, 512), 1024, 4):
            raise ValueError(
                f'pretrained="coco" is torchvision\'s network on a ResNet-50, not {own}: leave backbone, width, '
                "channels, anchors, hidden and mask_layers at their defaults, or take other weights."
            )
        return _published(num_classes, options)
    encoder = build_encoder(backbone, pretrained=pretrained, width=width)
    model = MaskRCNN(
        Pyramid(encoder, channels),
        rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in anchors), ((0.5, 1.0, 2.0),) * len(anchors)),
        box_head=TwoMLPHead(channels * 7**2, hidden),  # RoI Align gives 7 x 7 positions to it ...
        box_predictor=FastRCNNPredictor(hidden, num_classes),
        mask_head=mask_rcnn.MaskRCNNHeads(channels, (channels,) * mask_layers, dilation=1),  # ... and 14 x 14 to this
        mask_predictor=mask_rcnn.MaskRCNNPredictor(channels, channels, num_classes),
        **options,
    )
    model.weights = encoder.weights
    return model


def _published(num_classes: int, options: dict[str, Any]) -> "MaskRCNN":
    """torchvision's `maskrcnn_resnet50_fpn`, the network of the paper, with last layers for `num_classes`.

    Its second version scores higher and takes more than twice the arithmetic, more than a T4 has time for.
    """
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
    from torchvision.ops import FrozenBatchNorm2d

    state = published_state("maskrcnn_resnet50_fpn", "COCO's")
    # Trained with the norm's statistics frozen and no epsilon; so it goes on, and the first two stages stay.
    norm, learning = (partial(FrozenBatchNorm2d, eps=0.0), 3) if state else (nn.BatchNorm2d, 5)
    backbone: Any = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=norm, trainable_layers=learning
    )
    model = MaskRCNN(backbone, num_classes=91, **options)
    if state is not None:
        model.load_state_dict(state)
    heads: Any = model.roi_heads
    heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, num_classes)
    heads.mask_predictor = MaskRCNNPredictor(heads.mask_predictor.conv5_mask.in_channels, 256, num_classes)
    model.weights = "random" if state is None else "coco"
    return model


def instances_of(model: nn.Module, image: Tensor) -> Instances:
    """The objects that a Mask R-CNN finds in an image, in the image's own pixels, by descending score.

    A mask is what has at least a half of the probability, of the class that the box was given (He et al., Section 3).

    Args:
        image: uint8 (3, H, W).

    Returns:
        On the CPU; with scores from 0.05 on, at most 100, as torchvision leaves them.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        with torch.inference_mode():
            found = model([to_input(image[None].to(device))[0]])[0]
    finally:
        model.train(training)
    boxes, labels, scores = (found[name].cpu() for name in ("boxes", "labels", "scores"))
    return Instances(boxes, labels, found["masks"][:, 0].cpu() >= 0.5, scores)
