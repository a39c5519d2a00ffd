"""A prompting session as a file: what was done, in JSON that can be replayed, and the masks as PNG."""

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labhelpers.prompting.steps import Answer

if TYPE_CHECKING:
    from labhelpers.prompting.session import PromptSession

FORMAT = 1  # raise it when an older recording can no longer be replayed
REPLAYED = ("add_point", "add_box", "clear", "undo", "redo", "switch_image", "switch_model")


def to_json(session: "PromptSession") -> str:
    return json.dumps(_record(session), indent=1)


def replay(session: "PromptSession", text: str) -> list[Answer | None]:
    try:
        record = json.loads(text)
        version, images, actions = (record[key] for key in ("prompt_session", "images", "actions"))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"this is no recording of a PromptSession ({error}): use what to_json() returned") from error
    if version != FORMAT:
        raise ValueError(f"the recording has format {version!r}; this version of labhelpers reads format {FORMAT}")
    if len(session.actions) > 2:  # beyond the model and the image that it began with
        raise ValueError("replay needs a session in which nothing was done yet: make a new one")
    for name, recorded in images.items():
        if _digest(session.pixels(name)) != recorded["sha256"]:
            raise ValueError(f"image {name!r} is not the one that was recorded, its pixels differ: give the same file")
    answers = []
    for action in actions:
        arguments = {key: value for key, value in action.items() if key != "action"}
        if action["action"] not in REPLAYED:
            raise ValueError(f"unknown action {action['action']!r} in the recording; known: {', '.join(REPLAYED)}")
        getattr(session, action["action"])(**arguments)
        answers.append(session.answer)
    return answers


def save(session: "PromptSession", folder: str | Path) -> Path:
    from PIL import Image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = _record(session)
    for number, (name, answer) in enumerate(session.answers().items(), start=1):
        if answer is not None:
            file = f"mask_{number:02d}_{re.sub('[^A-Za-z0-9]+', '_', name).strip('_')}.png"
            Image.fromarray(answer.mask.astype(np.uint8) * 255).save(folder / file)
            record["images"][name]["mask"] = file
    (folder / "session.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return folder


def _record(session: "PromptSession") -> dict[str, Any]:
    images, prompts = {}, session.prompts()
    for name, answer in session.answers().items():
        pixels = session.pixels(name)
        images[name] = {
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "sha256": _digest(pixels),
            **prompts[name],
            "predicted_iou": answer and answer.predicted_iou,
            "class_name": answer and answer.class_name,
        }
    return {"prompt_session": FORMAT, "model": session.model, "images": images, "actions": session.actions}


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels).hexdigest()
