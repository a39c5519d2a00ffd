"""What the course expects of its models, and which networks those figures describe.

The figures are the course's own, copied from its handouts; none was measured here, and the handouts state neither the
hardware nor, for SAM, who named the masks.
"""

from dataclasses import dataclass

from labhelpers.evaluation.table import Table


@dataclass(frozen=True)
class CourseModel:
    """A model of labs 02 to 07 and what the course expects of it; "" where it states nothing.

    Attributes:
        name: as in the results table; a variant's name follows after a comma ("FCN-8s, CE + Dice").
        lab: the lab that makes it, "02" to "07".
        mean_iou: percent.
        parameters: millions.
        inference_ms: milliseconds for an image.
        describes: the protocol of these figures, as far as it is known.
    """

    name: str
    lab: str
    mean_iou: str = ""
    parameters: str = ""
    inference_ms: str = ""
    describes: str = ""


_FCN = "VOC 2012 val; 140 M are an FCN on VGG-16"
_SMP = "VOC, with a pretrained encoder"
_SAM = "VOC; 636 M are SAM ViT-H; who named the masks is not stated"

COURSE_MODELS = (
    CourseModel("FCN-32s", "02", "59.4", "140", "35", _FCN),
    CourseModel("FCN-16s", "02", "61.2", "140", "38", _FCN),
    CourseModel("FCN-8s", "02", "63.1", "140", "42", _FCN),
    CourseModel("DeepLabV3", "03"),
    CourseModel("DeepLabV3+", "03", "77.5", "60", "80", "VOC 2012 val; 60 M are a DeepLabV3+ on ResNet-101"),
    CourseModel("U-Net", "04"),
    CourseModel("U-Net, bilinear", "04"),
    *(
        CourseModel(f"{decoder}, {encoder}", "05", "75 to 85", describes=_SMP)
        for decoder in ("U-Net", "DeepLabV3+")
        for encoder in ("resnet34", "efficientnet-b0", "mobilenet_v2")
    ),
    CourseModel("Mini-SAM", "06", "65 to 68", "5", "60", "VOC; the prompts are not stated"),
    CourseModel("SAM (zero-shot)", "07", "75.0", "636", "1,050", _SAM),
    CourseModel("SAM (fine-tuned)", "07", "82.0", "636", "1,050", _SAM),
)
"""The models of the final table, in the order of the labs."""

NOTE = (
    "The course's figures stand beside ours for orientation only: some describe other networks, and all of them "
    "another protocol. FCN: 140 M parameters are about those of the original on VGG-16, nine tenths of which lie in "
    "fc6 and fc7, fully connected layers turned into convolutions; on ResNet-50 FCN-8s has 24 M (lab 02 counts both). "
    "59.4 % is also what Long et al. (2015) report for FCN-32s, on a part of VOC 2011 val, beside 62.4 and 62.7 for "
    "FCN-16s and FCN-8s. DeepLabV3+: with 60 M parameters it stands on a ResNet-101; on the ResNet-50 of lab 03 it "
    "has 40 M. The paper's scores also owe to SBD's labels and to longer training. Mini-SAM: ours does have 5 M "
    "parameters; what 65 to 68 % mean depends on the prompts, and the course does not state them. SAM: 636 M "
    "parameters are those of its largest version, ViT-H, nearly all of them in the image encoder; ViT-B, the default "
    "of lab 07, has a seventh of that. SAM knows no classes, so a mean IoU is always that of SAM and of somebody who "
    "named its masks. If the truth gives boxes and names, the score measures outlines only, and no network that has "
    "to find and name objects itself can be compared with it. Milliseconds depend on the device, and the course names "
    "none."
)
"""Which of the course's figures describe other networks than ours: a paragraph for the notebook and the report."""


def course_model(name: str) -> CourseModel | None:
    """The model of the course that a row of the results table is, or is a variant of; None if it is neither.

    "FCN-8s" and "FCN-8s, CE + Dice" are both FCN-8s; "U-Net, resnet34" is itself, not a variant of "U-Net".
    """
    found = [model for model in COURSE_MODELS if name == model.name or name.startswith(f"{model.name}, ")]
    return max(found, key=lambda model: len(model.name), default=None)


def expected_table() -> Table:
    """The course's figures by themselves, with what they describe."""
    stated = [model for model in COURSE_MODELS if model.mean_iou]
    rows = [[m.name, m.lab, m.mean_iou, m.parameters or "–", m.inference_ms or "–", m.describes] for m in stated]
    header = ["The course expects", "Lab", "mIoU (%)", "Parameters (M)", "Inference (ms)", "These figures describe"]
    return Table(header, rows, NOTE)
