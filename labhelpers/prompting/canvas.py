"""The canvas: click on a picture in the notebook, and see the mask. A thin view on a `PromptSession`."""

import base64
import io
import shutil
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from PIL import Image

from labhelpers.data.reading import VOC_PALETTE, read_image
from labhelpers.prompting.session import COLOURS, OPACITY, REPLAYED, PromptSession, draw

MAX_BYTES = 20_000_000  # of an uploaded file
LONGER_SIDE = 1024  # to which a larger upload is reduced: what SAM sees, and more than Mini-SAM does
STATIC_BYTES = 70_000  # of the picture that stays in a stored notebook


class PromptCanvas(anywidget.AnyWidget):
    """A picture to click on: left for what belongs to the object, right (or Shift) for what does not, drag for a box.

    Points can be dragged elsewhere, and deleted; a mask is kept as an object with a label, and all is exported as a zip
    file of what `session.save` writes. Mouse, fingers or keys alone will do: the help under the picture says how. All
    of it acts on `session`; what a cell does to the session (`canvas.session.undo()`) appears in the canvas. What
    goes wrong is said under the picture. Runs in JupyterLab, Notebook 7, VS Code, Voila and Colab, whose manager of
    custom widgets it switches on (anywidget does). Where no frontend runs, as in a notebook on GitHub, the output is a
    picture of the session as it was when the cell ran.

    Args:
        session: what to look at; several canvases may show one session.
    """

    # How the two sides talk. A click comes as a message of its own, so that none is lost or overtaken: {"id", "action",
    # "image", "arguments"}. The answer goes back as bytes and a dict together with a sequence number, in one message;
    # the browser paints when the number changes. A preview and an export go back as messages of their own, so that they
    # are no part of the state that a notebook stores: {"preview": id} and {"export": id}, with bytes.
    _esm = Path(__file__).parent / "canvas.js"
    _css = Path(__file__).parent / "canvas.css"
    _picture = traitlets.Bytes().tag(sync=True)  # the current image as JPEG
    _mask = traitlets.Bytes().tag(sync=True)  # one bit a pixel, row after row, without gaps between rows
    _objects = traitlets.Bytes().tag(sync=True)  # kept objects as PNG, in VOC's colours by number; empty without any
    _state = traitlets.Dict().tag(sync=True)
    _sequence = traitlets.Int().tag(sync=True)
    _look = traitlets.Dict({"colours": COLOURS, "opacity": OPACITY, "upload_bytes": MAX_BYTES}).tag(sync=True)

    def __init__(self, session: PromptSession):
        self.session = session
        self._shown: str | None = None  # the image that the browser has
        self._shown_objects: Any = ()
        self._message = ""
        self._handled: Any = None  # id of the last event, so that the browser knows which click an answer is to
        self._upload = bytearray()
        super().__init__()
        self._look = {**self._look, "labels": session.class_names[1:]}
        self._refresh()
        session.observe(self._refresh)
        self.on_msg(self._receive)

    def _refresh(self) -> None:
        """Show what there is."""
        session = self.session
        height, width = session.image.shape[:2]
        with self.hold_sync():
            if self._shown != session.image_name:
                self._picture = encode_jpeg(Image.fromarray(session.image))
                self._shown = session.image_name
            if self._shown_objects is not session.objects:
                self._objects = encode_objects(session.label_maps()[1]) if session.objects else b""
                self._shown_objects = session.objects
            self._mask = np.packbits(session.mask).tobytes()
            self._state = {
                "image": session.image_name,
                "images": session.image_names,
                "model": session.model,
                "models": list(session.predictors),
                "size": [width, height],
                **session.prompts()[session.image_name],
                "candidates": [answer.predicted_iou for answer in session.candidates],
                "chosen": session.chosen,
                "objects": [
                    {"label": kept.label, "colour": f"#{VOC_PALETTE[number].tobytes().hex()}"}
                    for number, kept in enumerate(session.objects, start=1)
                ],
                "predicted_iou": session.predicted_iou,
                "latency_ms": session.latency_ms,
                "class_name": session.class_name,
                "can_undo": session.can_undo,
                "can_redo": session.can_redo,
                "message": self._message,
                "handled": self._handled,
            }
            self._sequence += 1

    def _receive(self, _widget: Any, event: dict[str, Any], buffers: list[memoryview]) -> None:
        """Do what an event asks for; whatever goes wrong is said in the canvas, where alone the user would see it."""
        if event.get("action") == "preview":
            return self._preview(event)
        self._message, self._handled, before = "", event.get("id"), self._sequence
        try:
            self._handle(event, buffers)
        except ValueError as error:
            self._message = str(error)
        except Exception as error:  # of any predictor: its traceback goes to the log, and a sentence to the user
            traceback.print_exc()
            self._message = f"{type(error).__name__}: {error}"
        if self._message or self._sequence == before:  # else the session has said that it changed
            self._refresh()

    def _handle(self, event: dict[str, Any], buffers: list[memoryview]) -> None:
        session, action, arguments = self.session, event.get("action"), event.get("arguments", {})
        if action == "upload":
            self._take_upload(buffers[0].tobytes(), **arguments)
        elif action == "export":
            self._export(event["id"])
        elif action in ("switch_image", "switch_model"):
            getattr(session, action)(**arguments)
        elif event.get("image") != session.image_name:
            self._message = "The picture changed under that click: click again."
        elif action in REPLAYED:
            getattr(session, action)(**arguments)
        else:
            raise ValueError(f"the canvas does not know the action {action!r}")

    def _preview(self, event: dict[str, Any]) -> None:
        """Answer with the mask of a click that is not made; where there is none, the click itself will say why."""
        mask = b""
        with suppress(Exception):
            if event["image"] == self.session.image_name:
                mask = np.packbits(self.session.preview(**event["arguments"]).mask).tobytes()
        self.send({"preview": event.get("id")}, [mask])

    def _export(self, event_id: str) -> None:
        """All that `session.save` writes, as one file for the browser to download."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.session.save(Path(scratch) / "masks")
            archive = shutil.make_archive(str(folder), "zip", folder)
            self.send({"export": event_id}, [Path(archive).read_bytes()])

    def _take_upload(self, part: bytes, name: str, first: bool, last: bool) -> None:
        """A file comes in parts, because servers end a connection at a message of more than 10 MB."""
        if first:
            self._upload.clear()
        self._upload += part[: MAX_BYTES + 1 - len(self._upload)]  # one byte too many is enough to refuse it
        if not last:
            return
        pixels = decode_upload(bytes(self._upload), name)
        unique, number = name, 1
        while unique in self.session.image_names:
            number += 1
            unique = f"{name} ({number})"
        self.session.add_image(unique, pixels)
        self.session.switch_image(unique)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The widget, and beside it a picture of the session for readers without a kernel."""
        session, (data, metadata) = self.session, super()._repr_mimebundle_(**kwargs) or ({}, {})
        prompts = f"{len(session.points)} points" + (" and a box" if session.box is not None else "")
        iou = "–" if session.predicted_iou is None else f"{session.predicted_iou:.2f}"
        answer = "no mask yet" if session.answer is None else f"predicted IoU {iou}"
        data["image/jpeg"] = base64.b64encode(encode_jpeg(draw(session), STATIC_BYTES)).decode()
        data["text/plain"] = f"{session.image_name}: {prompts}, {answer}"
        return data, {**metadata, "image/jpeg": {"alt": data["text/plain"]}}


def decode_upload(data: bytes, name: str) -> np.ndarray:
    """An uploaded picture, read as those of a data set are: uint8 (H, W, 3), its longer side at most 1024 pixels.

    Raises:
        ValueError: the file is too large, or see `read_image`; the message says what and what to do.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name} has more than {MAX_BYTES / 1e6:.0f} MB: choose a smaller one.")
    return read_image(io.BytesIO(data), name, LONGER_SIDE)


def encode_objects(numbers: np.ndarray) -> bytes:
    """Object numbers, uint8 (H, W), as PNG in VOC's colours, transparent where there is none."""
    image, buffer = Image.fromarray(numbers), io.BytesIO()
    image.putpalette(VOC_PALETTE.tobytes())
    image.save(buffer, "png", transparency=0)
    return buffer.getvalue()


def encode_jpeg(picture: Image.Image, limit: int | None = None) -> bytes:
    """JPEG of high quality, or of what quality fits into `limit` bytes."""
    for quality in (90, 80, 70, 60, 50, 40, 30):
        buffer = io.BytesIO()
        picture.save(buffer, "jpeg", quality=quality, subsampling=0)
        if limit is None or buffer.tell() <= limit:
            return buffer.getvalue()
    smaller = picture.resize([max(1, side * 3 // 4) for side in picture.size], Image.Resampling.LANCZOS)
    return encode_jpeg(smaller, limit)
