"""The sections of the report, from what `gather` found and what the student wrote."""

from collections.abc import Mapping

from labhelpers import data, evaluation, plots, prompting
from labhelpers.course import scoring
from labhelpers.course.finished import load_model
from labhelpers.course.report.discussion import discuss, suggest
from labhelpers.course.report.document import Block, Document, Paragraph, Picture, Section
from labhelpers.course.report.gather import Results, Trained
from labhelpers.data.voc import visible_objects
from labhelpers.evaluation.results import Row
from labhelpers.plots.output import encode
from labhelpers.training import DamagedCheckpoint

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
}
MOST_COLUMNS = 6  # of the grid of pictures, the image and the truth among them


def build(results: Results, own: Mapping[str, list[Paragraph]]) -> Document:
    """The whole report."""
    profile = results.profile
    subtitle = f"Profile {profile.name}: {profile.purpose}. Every number below comes from a run on the disk."
    sections = (
        Section("Architectures", _architectures(results)),
        Section("Training curves", _curves(results.trained)),
        Section("Results", _tables(results)),
        Section("Pictures", _pictures(results), new_page=True),
        Section("Discussion", [*discuss(results), *own["Discussion"]], new_page=True),
        Section("Challenges faced", own["Challenges faced"]),
        Section("Further improvements", [*suggest(results), *own["Further improvements"]]),
    )
    return Document("Segmentation Labs: report", subtitle, sections)


def _architectures(results: Results) -> list[Block]:
    texts = [Paragraph(NETWORKS[one.plan.name], "item") for one in results.trained]
    header = [
        "Network",
        "Parameters (M)",
        "Steps",
        "Batch",
        "Optimizer",
        "Learning rate",
        "Best step",
        "Training (min)",
    ]
    rows = []
    for one in results.trained:
        recipe = one.task.recipe
        rows.append(
            [
                one.plan.title,
                f"{one.parameters / 1e6:.2f}",
                f"{one.run.steps} of {recipe.steps}",
                str(recipe.batch_size),
                recipe.optimizer,
                f"{recipe.lr:g}, {recipe.schedule}",
                str(one.run.info["best_step"]),
                f"{one.run.minutes:.1f}",
            ]
        )
    sets = dict.fromkeys(f"{t.task.train_set.name} ({len(t.task.train_set)} images)" for t in results.trained)
    total = sum(one.run.minutes for one in results.trained)
    caption = f"Trained on {', '.join(sets)}; {total:.1f} minutes together. The weights of the best step are used."
    return [*texts, evaluation.Table(header, rows, caption)]


def _curves(trained: list[Trained]) -> list[Block]:
    """One figure for the networks that share a data set, one for those that answer prompts."""
    groups: dict[str, list[Trained]] = {}
    for one in trained:
        groups.setdefault("prompts" if one.plan.prompted else one.task.train_set.name, []).append(one)
    blocks = []
    for name, group in groups.items():
        quantities = ("loss", "box_iou", "click_iou") if name == "prompts" else ("loss", "mean_iou")
        figure = plots.curves({one.plan.title: one.run.history for one in group}, y=quantities)
        what = "by prompts drawn from the truth" if name == "prompts" else f"on {name}"
        caption = f"Training loss and validation scores {what}; faint: every step, line: a running mean."
        blocks.append(_picture(figure, caption))
    return blocks


def _tables(results: Results) -> list[Block]:
    blocks: list[Block] = [_table(rows) for rows in results.tables]
    unscored = [one.plan for one in results.trained if not one.plan.prompted and results.row(one.plan.title) is None]
    for plan in unscored:
        blocks.append(
            Paragraph(f"{plan.title} is trained, but has no score yet: labhelpers evaluate {plan.name}", "gap")
        )
    return blocks


def _table(rows: list[Row]) -> evaluation.Table:
    header = ["Network", "mIoU [95 %]", "Pixel accuracy", "Boundary IoU", "Parameters (M)"]
    header += ["FLOPs (G)", "Inference (ms)", "Memory (MB)", "Training (min)", "Course expects"]
    cells = [
        [
            row.name,
            _interval(row),
            _number(row.pixel_accuracy, 1, 100),
            _number(row.boundary_iou, 1, 100),
            _number(row.parameters, 2, 1e-6),
            _number(row.flops, 1, 1e-9),
            _number(row.inference_ms, 0),
            _number(row.memory_mb, 0),
            _number(row.protocol.minutes, 1),
            row.expected or "–",
        ]
        for row in rows
    ]
    devices = ", ".join(dict.fromkeys(row.protocol.device for row in rows))
    caption = f"{rows[0].protocol}. Scores in percent, 95 % intervals over the choice of images; measured on {devices}."
    return evaluation.Table(header, cells, caption)


def _interval(row: Row) -> str:
    if row.mean_iou_low is None:
        return _number(row.mean_iou, 1, 100)
    return f"{100 * row.mean_iou:.1f} [{100 * row.mean_iou_low:.1f}, {100 * row.mean_iou_high:.1f}]"


def _number(value: float | None, digits: int, factor: float = 1) -> str:
    return "–" if value is None else f"{factor * value:.{digits}f}"


def _pictures(results: Results) -> list[Block]:
    blocks: list[Block] = []
    groups: dict[str, list[Trained]] = {}
    for one in results.trained:
        if not one.plan.prompted:
            groups.setdefault(one.task.test_set.name, []).append(one)
    if groups:
        blocks += _grid(results, max(groups.values(), key=len))
    blocks += [block for one in results.trained if one.plan.prompted for block in _prompts(results, one)]
    return blocks


def _grid(results: Results, group: list[Trained]) -> list[Block]:
    """The five images of every comparison, the truth, and what the best of the networks make of them."""
    blocks: list[Block] = []
    if len(group) > MOST_COLUMNS - 2:
        best = sorted(group, key=lambda one: one.run.info["best_score"])[-(MOST_COLUMNS - 2) :]
        group = [one for one in group if one in best]
    images = group[0].task.test_set
    shown = data.comparison_indices(images, say=False)
    columns = {"image": [images[i][0] for i in shown], "truth": [images[i][1] for i in shown]}
    for one in group:
        try:
            model = load_model(one.run, one.plan, one.task, results.profile)
        except (DamagedCheckpoint, ValueError) as error:
            blocks.append(Paragraph(f"{one.plan.title} has no pictures: {error}", "gap"))
            continue
        columns[one.plan.title] = [evaluation.predict(model, images[i][0]) for i in shown]
    caption = (
        f"{images.name} {images.split}, the images of every comparison: {', '.join(images.ids[i] for i in shown)}."
    )
    return [_picture(plots.image_grid(columns, names=images.class_names), caption), *blocks]


def _prompts(results: Results, one: Trained) -> list[Block]:
    """The largest object of some images, asked for by its box."""
    model = load_model(one.run, one.plan, one.task, results.profile)
    predictor = scoring.own_predictor(one.task, model)
    objects, panels, titles = one.task.test_set, [], []
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
    caption = f"{one.plan.title}, asked by the box of the largest object; the box is drawn from the truth."
    return [_picture(plots.prompt_grid(panels[:4], titles[:4], columns=4), caption)]


def _picture(figure: object, caption: str) -> Picture:
    alt = figure.get_label() or caption
    image, mime = encode(figure)
    return Picture(image, mime, caption, alt)
