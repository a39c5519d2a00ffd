"""The sections of the report, from what is on the disk and what the student wrote."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from labhelpers import data, evaluation, plots, prompting
from labhelpers.course.plans import Experiment, FinishedRun
from labhelpers.course.report.document import Block, Document, Paragraph, Picture, Section
from labhelpers.course.report.findings import Results, discuss, suggest
from labhelpers.data.voc import visible_objects
from labhelpers.evaluation.results import Row, course_note, measured_as_the_course
from labhelpers.plots.output import encode
from labhelpers.training import DamagedCheckpoint, History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORKS = {
    "fcn32s": "FCN-32s (Long et al., CVPR 2015) turns a classifier into a network of convolutions only: class scores "
    "at stride 32, enlarged by one transposed convolution that starts as bilinear interpolation.",
    "fcn16s": "FCN-16s adds the scores of the features of stride 16 before enlarging.",
    "fcn8s": "FCN-8s adds those of stride 8 as well: what and where, from deep and from shallow layers.",
    "deeplabv3": "DeepLabV3 (Chen et al., 2017) keeps the encoder at stride 16 by atrous convolution, and looks at its "
    "features with several rates at once (ASPP) and as a whole (global pooling).",
    "deeplabv3plus": "DeepLabV3+ (Chen et al., ECCV 2018) enlarges the result of ASPP to stride 4, joins it with few "
    "channels of early features and refines both by two convolutions, so that edges become sharp.",
    "unet": "U-Net (Ronneberger et al., MICCAI 2015) contracts four times and expands four times; at each level the "
    "expanding path gets the features of the contracting one beside its own.",
    "unet_bilinear": "U-Net, bilinear, interpolates where U-Net has transposed convolutions.",
    "mini_sam": "Mini-SAM answers clicks and boxes, as SAM does (Kirillov et al., ICCV 2023): an image encoder runs "
    "once, and a small decoder turns its features and maps of the prompt into three masks and their predicted IoUs.",
    "mask_rcnn": "Mask R-CNN (He et al., ICCV 2017) proposes boxes on a feature pyramid, samples the features of each "
    "by RoI Align, and from them names the box, corrects it and draws its mask, one for each class.",
}
MOST_COLUMNS = 6  # of the grid of pictures, the image and the truth among them


def build(results: Results, own: Mapping[str, list[Paragraph]]) -> Document:
    """The whole report."""
    profile = results.profile
    subtitle = f"Profile {profile.name}: {profile.purpose}. Every number below comes from a run on the disk."
    sections = (
        Section("Architectures", _architectures(results)),
        Section("Training curves", _curves(results)),
        Section("Results", _tables(results)),
        Section("Pictures", _pictures(results), new_page=True),
        Section("Discussion", [*discuss(results), *own["Discussion"]], new_page=True),
        Section("Challenges faced", own["Challenges faced"]),
        Section("Further improvements", [*suggest(results), *own["Further improvements"]]),
    )
    return Document("Segmentation Labs: report", subtitle, sections)


def _architectures(results: Results) -> list[Block]:
    header = ["Network", "Parameters (M)", "Steps", "Batch", "Optimizer", "Learning rate", "Best step"]
    rows = []
    for experiment, run in results.trained:
        recipe = experiment.recipe
        parameters = evaluation.count_parameters(experiment.new_model(pretrained=False))
        rows.append(
            [
                experiment.plan.title,
                f"{parameters / 1e6:.2f}",
                f"{run.steps} of {recipe.steps}",
                str(recipe.batch_size),
                recipe.optimizer,
                f"{recipe.lr:g}, {recipe.schedule}",
                str(run.info["best_step"]),
                f"{run.minutes:.1f}",
            ]
        )
    train_sets = [experiment.data.train for experiment, _ in results.trained]
    sets = dict.fromkeys(f"{train_set.name} ({len(train_set)} images)" for train_set in train_sets)
    total = sum(run.minutes for _, run in results.trained)
    caption = f"Trained on {', '.join(sets)}; {total:.1f} minutes together. The weights of the best step are used."
    texts = [Paragraph(NETWORKS[experiment.plan.name], "item") for experiment, _ in results.trained]
    return [*texts, evaluation.Table([*header, "Training (min)"], rows, caption)]


def _curves(results: Results) -> list[Block]:
    """One figure for the networks that share a data set, one for those that answer prompts or find objects."""
    groups: dict[str, dict[str, History]] = {}
    for experiment, run in results.trained:
        plan = experiment.plan
        name = "prompts" if plan.prompted else "objects" if plan.finds_objects else experiment.data.train.name
        groups.setdefault(name, {})[plan.title] = run.history
    blocks: list[Block] = []
    scores = {"prompts": ("box_iou", "click_iou"), "objects": ("mask_ap", "box_ap50")}
    told = {"prompts": "by prompts drawn from the truth", "objects": "of objects found one by one"}
    for name, histories in groups.items():
        quantities = ("loss", *scores.get(name, ("mean_iou",)))
        what = told.get(name, f"on {name}")
        caption = f"Training loss and validation scores {what}; faint: every step, line: a running mean."
        blocks.append(_picture(plots.curves(histories, y=quantities), caption))
    return blocks


def _tables(results: Results) -> list[Block]:
    blocks: list[Block] = [_table(rows) for rows in results.tables]
    for plan in (experiment.plan for experiment, _ in results.trained):
        if not plan.prompted and results.row(plan.title) is None:
            text = f"{plan.title} is trained, but has no score yet: labhelpers evaluate {plan.name}"
            blocks.append(Paragraph(text, "gap"))
    return blocks


def _table(rows: list[Row]) -> evaluation.Table:
    if rows[0].average_precision is not None:
        return _objects_table(rows)
    header = ["Network", "mIoU [95 %]", "Pixel accuracy", "Boundary IoU", "Parameters (M)"]
    header += ["FLOPs (G)", "Inference (ms)", "Memory (MB)", "Training (min)"]
    cells = [
        [
            row.name,
            _number(row.mean_iou, 1, 100) + _interval(row),
            _number(row.pixel_accuracy, 1, 100),
            _number(row.boundary_iou, 1, 100),
            _number(row.parameters, 2, 1e-6),
            _number(row.flops, 1, 1e-9),
            _number(row.inference_ms, 0),
            _number(row.memory_mb, 0),
            _number(row.protocol.minutes, 1),
        ]
        for row in rows
    ]
    devices = ", ".join(dict.fromkeys(row.protocol.device for row in rows))
    caption = f"{rows[0].protocol}. Scores in percent, 95 % intervals over the choice of images; measured on {devices}."
    if measured_as_the_course(rows[0].protocol):
        header.append("Course expects")
        cells = [[*line, row.expected or "–"] for line, row in zip(cells, rows, strict=True)]
    caption += f" {course_note(rows)}".rstrip()
    return evaluation.Table(header, cells, caption)


def _objects_table(rows: list[Row]) -> evaluation.Table:
    names = {"mask_ap": "Mask AP", "mask_ap50": "Mask AP50", "mask_ap75": "Mask AP75", "box_ap": "Box AP",
             "box_ap50": "Box AP50"}  # fmt: skip
    cells = [
        [
            row.name,
            *(_number((row.average_precision or {}).get(name), 1, 100) for name in names),
            _number(row.parameters, 2, 1e-6),
            _number(row.inference_ms, 0),
            _number(row.protocol.minutes, 1),
        ]
        for row in rows
    ]
    devices = ", ".join(dict.fromkeys(row.protocol.device for row in rows))
    caption = f"{rows[0].protocol}. Scores in percent; measured on {devices}."
    header = ["Network", *names.values(), "Parameters (M)", "Inference (ms)", "Training (min)"]
    return evaluation.Table(header, cells, caption)


def _interval(row: Row) -> str:
    ends = [_number(end, 1, 100) for end in (row.mean_iou_low, row.mean_iou_high) if end is not None]
    return f" [{', '.join(ends)}]" if ends else ""


def _number(value: float | None, digits: int, factor: float = 1) -> str:
    return "–" if value is None else f"{factor * value:.{digits}f}"


def _pictures(results: Results) -> list[Block]:
    groups: dict[str, list[tuple[Experiment, FinishedRun]]] = {}
    blocks: list[Block] = []
    for experiment, run in results.trained:
        if experiment.plan.prompted:
            blocks += _prompts(experiment, run)
        elif experiment.plan.finds_objects:
            blocks += _grid([(experiment, run)])
        else:
            groups.setdefault(experiment.data.test.name, []).append((experiment, run))
    return _grid(max(groups.values(), key=len)) + blocks if groups else blocks


def _grid(group: list[tuple[Experiment, FinishedRun]]) -> list[Block]:
    """The five images of every comparison, the truth, and what the best of the networks make of them."""
    worst_first = sorted(group, key=lambda trained: trained[1].info["best_score"])
    images = group[0][0].data.test
    shown = data.comparison_indices(images, say=False)
    pictures = [images.load_image(i) for i in shown]
    columns = {"image": pictures, "truth": [images.load_target(i) for i in shown]}
    gaps: list[Block] = []
    for experiment, run in (trained for trained in group if trained in worst_first[2 - MOST_COLUMNS :]):
        title = experiment.plan.title
        try:
            model = experiment.load(run)
        except (DamagedCheckpoint, ValueError) as error:
            gaps.append(Paragraph(f"{title} has no pictures: {error}", "gap"))
            continue
        columns[title] = [experiment.plan.label_map(model, picture) for picture in pictures]
    names = ", ".join(images.ids[i] for i in shown)
    caption = f"{images.name} {images.split}, the images of every comparison: {names}."
    return [_picture(plots.image_grid(columns, names=images.class_names), caption), *gaps]


def _prompts(experiment: Experiment, run: FinishedRun) -> list[Block]:
    """The largest object of some images, asked for by its box."""
    predictor = experiment.predictor(experiment.load(run))
    objects = experiment.data.test
    panels, titles = [], []
    for index in data.comparison_indices(objects, say=False):
        image, numbered = objects[index]
        there = visible_objects(numbered)
        if there:
            mask = max((numbered.numpy() == number for number in there), key=lambda m: m.sum())
            box = prompting.box_from_mask(mask)
            predictor.set_image(image.permute(1, 2, 0).numpy())
            found, _ = predictor.predict(box=box)
            panels.append({"image": image, "box": box, "mask": found, "truth": mask})
            titles.append(f"IoU {prompting.mask_iou(found, mask, (numbered == 255).numpy()):.2f}")
    if not panels:
        return []
    caption = f"{experiment.plan.title}, asked by the box of the largest object; the box is drawn from the truth."
    return [_picture(plots.prompt_grid(panels[:4], titles[:4], columns=4), caption)]


def _picture(figure: "Figure", caption: str) -> Picture:
    image, mime = encode(figure)
    return Picture(image, mime, caption, alt=str(figure.get_label() or caption))
