"""What "segment everything" needs of a network: the masks of many clicks in one look, and a picture of many masks.

Kirillov et al., Segment Anything, ICCV 2023, section 5 and appendix B.
"""

import numpy as np
import torch
from torch import Tensor

from labhelpers.prompting.predictor import OVERVIEW, SURE, MiniSamPredictor, OneLook, as_tensor, check_image
from labhelpers.prompting.sam import SamPredictor
from labhelpers.prompting.windows import Window

CLICKS_AT_ONCE = 16  # each costs three masks of 1024 x 1024 logits in SAM, 12 MB


@torch.no_grad()
def click_candidates(
    predictor: OneLook | MiniSamPredictor | SamPredictor, image: np.ndarray, clicks: np.ndarray, min_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """The candidates that a network draws for each of many clicks, each click asked alone, in one look at the image.

    Args:
        image: uint8 (H, W, 3), RGB.
        clicks: (P, 2), pixels (x, y) of the image, on the object.
        min_iou: candidates whose predicted IoU is not above it are left out, before they are enlarged.

    Returns:
        Logits float32 (N, H, W), of which a mask is what is above 0, and predicted IoUs float32 (N,) in 0..1; N is at
        most 3 P.
    """
    check_image(image)
    size, device = image.shape[:2], predictor.device
    if isinstance(predictor, SamPredictor):
        sam = predictor.model
        predictor.set_image(image)
        seen = predictor.embedding

        def decode(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return sam.decode(seen, points, labels)

        def enlarge(logits: Tensor) -> Tensor:
            return sam.enlarge(logits, seen)[0]
    else:
        mini, side = predictor.model, predictor.overview if isinstance(predictor, OneLook) else OVERVIEW
        whole = Window.whole(size, side)
        once = mini.encode(whole.cut(as_tensor(image).to(device))[None])
        clicks = whole.points(clicks)

        def decode(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return mini.decode(once.repeat(len(points)), points, labels)

        def enlarge(logits: Tensor) -> Tensor:
            return whole.paste(logits[0], size, -SURE)

    found = [(np.zeros((0, *size), dtype=np.float32), np.zeros(0, dtype=np.float32))]
    for points in torch.from_numpy(clicks)[:, None].to(device).split(CLICKS_AT_ONCE):
        logits, ious = decode(points, torch.ones(points.shape[:2], dtype=torch.int64, device=device))
        good = ious > min_iou
        if good.any():
            full = enlarge(logits[good][None])
            found.append((full.float().cpu().numpy(), ious[good].clamp(0, 1).float().cpu().numpy()))
    return np.concatenate([logits for logits, _ in found]), np.concatenate([ious for _, ious in found])


def paint(masks: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Put masks on top of each other, the largest first, so that a small one is seen on the one that holds it.

    Of two of the same size the one with the higher score is on top. Pixels in no mask are background, 0.

    Args:
        masks: bool (N, H, W).
        scores: (N,).
        classes: int (N,), 0..254, or -1 for a mask to leave out.

    Returns:
        uint8 (H, W).
    """
    painted = np.zeros(masks.shape[1:], dtype=np.uint8)
    sizes = masks.sum((1, 2))
    for index in np.lexsort((scores, -sizes)):
        if classes[index] >= 0:
            painted[masks[index]] = classes[index]
    return painted
