"""The score of a trained network, with its protocol: what `labhelpers evaluate` prints, and where it is kept."""

from torch import nn

from labhelpers import config, evaluation, prompting
from labhelpers.course.finished import FinishedRun
from labhelpers.course.plans import Plan, Task
from labhelpers.evaluation.costs import costs
from labhelpers.evaluation.results import COURSE_MODELS

KINDS = ("box", "jittered_box", "centre_click", "random_click")
SIZE = (512, 512)  # pixels, for which costs are measured in every lab


def add_to_table(plan: Plan, task: Task, run: FinishedRun, model: nn.Module) -> evaluation.ResultsTable:
    """Scores the network on the images that its lab reports on, and puts its row into the results table.

    The row is the one that the notebook writes. In the profile `tiny` nothing is stored.
    """
    measured = evaluation.evaluate(model, task.test_set, batch_size=8)
    expected = next((model.mean_iou for model in COURSE_MODELS if model.name == plan.title), "")
    table = evaluation.ResultsTable(config.checkpoints_root() / f"results-{measured.protocol.key}.json")
    table.add(
        plan.title,
        measured,
        seed=task.recipe.seed,
        minutes=run.minutes,
        **costs(model, SIZE, warmup=1, runs=5),
        expected=f"{expected} (VOC)" if expected else "",
    )
    return table


def prompt_scores(task: Task, model: nn.Module, profile: config.Profile) -> prompting.PromptScores:
    """Scores a network that answers prompts on the objects that lab 06 judges."""
    predictor = own_predictor(task, model)
    return prompting.evaluate_prompts(predictor, judged_objects(task, profile), KINDS)


def own_predictor(task: Task, model: nn.Module) -> prompting.MiniSamPredictor:
    """The network as lab 06 asks it: one look at the whole image, reduced to the size of a training crop."""
    return prompting.MiniSamPredictor(model, "Mini-SAM", zoom=False, overview=task.recipe.augmentation.crop)


def judged_objects(task: Task, profile: config.Profile) -> list[prompting.ObjectRef]:
    """All objects of some validation images, spread over the set, that are not too small, as lab 06 chooses them."""
    images = task.test_set.dataset  # with the classes, of which the objects have one each
    of_image: dict[int, list[prompting.ObjectRef]] = {}
    for item in prompting.objects(images, min_side=profile.mini_sam["min_side"]):
        of_image.setdefault(item.index, []).append(item)
    step = -(-len(of_image) // profile.mini_sam["judged_images"])
    return [item for items in list(of_image.values())[::step] for item in items]
