"""Weights & Biases: the same rows as the CSV, pictures with masks, nothing that ends or holds up a run; and the bar."""

import math
import os
import re
import shlex
import struct
import sys
import time
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from course_toys import hold_keys, written_keys
from training_toys import SETS, tiny_net, tiny_recipe

from labhelpers.training import History, train, train_or_load
from labhelpers.training.tracking import Progress, Wandb

IMAGE = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGET = torch.zeros(24, 32, dtype=torch.uint8)
TARGET[3:9, 4:20] = 1
TARGET[9:11, 4:20] = 255


@pytest.fixture
def fake(monkeypatch):
    """Puts a module in the place of wandb that remembers what it is given, and fails where it is told to."""

    def install(broken_modes=(), broken_from=math.inf, error=ConnectionError):
        def init(mode, **options):
            module.started.append((mode, options))
            if mode in broken_modes:
                raise error("no way\nlong explanation")
            module.offline, module.url = mode == "offline", "https://wandb.ai/me/labs/runs/abc"
            module.dir = f"{options['dir']}/wandb/offline-run-1/files"
            return module

        def log(values, step):
            if step >= broken_from:
                raise error("the service has gone\nlong explanation")
            module.logged.append((step, values))

        class Settings(SimpleNamespace):
            finish_timeout = 0

        module = MagicMock(init=init, log=log, Settings=Settings, started=[], logged=[])
        module.__spec__ = ModuleSpec("wandb", None)  # accelerate looks for it
        module.Image = lambda data, **options: SimpleNamespace(data=data, **options)
        monkeypatch.setitem(sys.modules, "wandb", module)
        return module

    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    monkeypatch.setattr("labhelpers.training.tracking.reachable", lambda url: "127.0.0.1" not in url)
    return install


def test_a_run_logs_its_recipe_the_rows_of_the_csv_and_pictures_at_evaluations(fake, tmp_path):
    wandb, recipe = fake(), tiny_recipe(wandb=True)
    history = train(tiny_net(), *SETS, recipe, tmp_path / "net" / "key")
    [(mode, options)] = wandb.started
    assert mode == "offline"  # nobody is logged in
    assert options["config"] == {**recipe.identity(), "task": "Task"}
    assert options["name"] == "net-key"
    settings = options["settings"]
    assert (settings.init_timeout, settings.finish_timeout) == (15, 30)  # waiting has a limit at both ends
    assert (settings.silent, settings.console) == (True, "off")
    wandb.finish.assert_called_once()
    assert history.rows == History.read(tmp_path / "net" / "key" / "log.csv").rows
    logged = [{"step": step, **values} for step, values in wandb.logged if "predictions" not in values]
    assert [row["step"] for row in logged] == [1, 2, 3, 4, 5, 6]
    assert logged == [pytest.approx(row, rel=1e-6) for row in history.rows]
    assert [step for step, values in wandb.logged if set(values) == {"predictions"}] == [3, 6]


def test_images_carry_both_masks_with_names(fake, tmp_path):
    wandb = fake()
    log = Wandb(tmp_path, {})
    log.write({"step": 7, "loss": 0.5})
    log.images(7, [(IMAGE, TARGET, TARGET.clamp(max=1))] * 2, ("table", "piece"))
    assert [step for step, _ in wandb.logged] == [7, 7]
    first, second = wandb.logged[1][1]["predictions"]
    assert first.data.shape == (24, 32, 3)
    assert (first.data[5, 6] == IMAGE[:, 5, 6].numpy()).all()
    assert (first.masks["truth"]["mask_data"] == TARGET.numpy()).all()
    assert (first.masks["prediction"]["mask_data"] == TARGET.clamp(max=1).numpy()).all()
    for mask in second.masks.values():
        assert mask["class_labels"] == {0: "table", 1: "piece", 255: "void"}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("step,loss\n1,0.5\n2,\n", [{"step": 1, "loss": 0.5}, {"step": 2}]),
        ('\ufeff"loss";"step";"mine"\r\n"0,5";"1";""\r\n', [{"step": 1, "loss": 0.5}]),  # moved, and one more
        ("step,loss\n", []),
        ("step;loss\n1;0,5\n3;0,5\n", "row 2 is not of step 2"),
        ("step,loss\n1,0,5\n", "row 1 has not as many cells as the header"),
        ("step,loss\n1,0.5\n2", "row 2 has not as many cells"),
        ("step,loss\n1,many\n", "many"),
        ("name,loss\nnet,0.5\n", "net"),
        ('step,loss\n1,"' + "0" * 2**18, "field larger than field limit"),
    ],
)
def test_a_log_is_read_from_a_spreadsheet_and_what_is_none_is_named(tmp_path, text, rows):
    path = tmp_path / "log.csv"
    path.write_text(text, encoding="utf-8", newline="")
    if isinstance(rows, list):
        assert History.read(path).rows == rows
    else:
        with pytest.raises(ValueError, match=rf"log\.csv is no log of a run, or was changed since \(.*{rows}"):
            History.read(path)


@pytest.mark.parametrize("error", [ConnectionError, OSError, AssertionError])
def test_a_failure_while_logging_is_one_sentence_and_the_training_goes_on(fake, tmp_path, capsys, error):
    wandb = fake(broken_from=3, error=error)
    history = train(tiny_net(), *SETS, tiny_recipe(wandb=True), tmp_path)
    assert [row["step"] for row in history.rows] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in wandb.logged] == [1, 2]
    said = f"logging ends here ({error.__name__}: the service has gone); the run goes on, and log.csv has it all."
    assert [line for line in capsys.readouterr().out.splitlines() if "wandb" in line] == [f"wandb: {said}"]


@pytest.mark.parametrize(
    ("mode", "asked", "wanted"),
    [("", False, False), ("", True, True), ("offline", False, True), ("disabled", True, False), ("online", True, True)],
)
def test_the_environment_wins(monkeypatch, mode, asked, wanted):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert Wandb.wanted(asked) is wanted


BROKEN = {
    "online": "wandb: online does not work here (ConnectionError: no way); logging offline.",
    "offline": "wandb: offline does not work here (ConnectionError: no way); log.csv has it all.",
}


@pytest.mark.parametrize(
    ("logged_in", "broken", "tried"),
    [
        (False, (), ["offline"]),
        (True, (), ["online"]),
        (True, ("online",), ["online", "offline"]),
        (True, ("online", "offline"), ["online", "offline"]),
    ],
)
def test_it_is_offline_unless_logged_in_and_survives_what_does_not_work(
    fake, tmp_path, capsys, monkeypatch, logged_in, broken, tried
):
    if logged_in:
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    wandb = fake(broken_modes=broken)
    log = Wandb(tmp_path, {})
    log.write({"step": 3, "loss": 0.5})
    log.images(3, [(IMAGE, TARGET, TARGET)], ("table", "piece"))
    log.close()
    assert [mode for mode, _ in wandb.started] == tried
    assert [step for step, _ in wandb.logged] == ([] if "offline" in broken else [3, 3])
    said = capsys.readouterr().out.splitlines()
    assert said[: len(broken)] == [BROKEN[mode] for mode in broken]
    folder = os.path.relpath(tmp_path / "wandb" / "offline-run-1")
    where = {"online": [f"wandb: {wandb.url}"], "offline": [f"wandb: send it with: wandb sync {shlex.quote(folder)}"]}
    assert said[len(broken) :] == ([] if "offline" in broken else where[tried[-1]])


def test_the_project_can_be_chosen(fake, tmp_path, monkeypatch):
    wandb = fake()
    Wandb(tmp_path / "a", {})
    monkeypatch.setenv("WANDB_PROJECT", "my-labs")
    Wandb(tmp_path / "b", {})
    assert [options["project"] for _, options in wandb.started] == ["segmentation-labs", "my-labs"]


def test_a_loaded_run_says_that_nothing_new_is_sent(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_CHECKPOINTS", str(tmp_path))
    wandb = fake()
    for _ in range(2):
        torch.manual_seed(0)
        train_or_load("net", tiny_net(), *SETS, tiny_recipe(wandb=True))
    first, second = (line for line in capsys.readouterr().out.splitlines() if " min, key " in line)
    assert "Weights & Biases" not in first
    assert second.startswith("net: loaded")
    assert second.endswith("; nothing new goes to Weights & Biases")
    assert len(wandb.started) == 1


@pytest.mark.parametrize("asked", [None, "online"])
def test_a_server_that_cannot_be_reached_is_not_waited_for(fake, tmp_path, capsys, monkeypatch, asked):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    if asked:
        monkeypatch.setenv("WANDB_MODE", asked)
    wandb = fake()
    Wandb(tmp_path, {}).close()
    assert [mode for mode, _ in wandb.started] == ["offline"]
    assert "http://127.0.0.1:9 cannot be reached; logging offline" in capsys.readouterr().out


def test_the_user_can_interrupt_it(fake, tmp_path):
    fake(broken_from=1, error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        Wandb(tmp_path, {}).write({"step": 1, "loss": 0.5})


def recorded(folder):
    """The numbers of each step in an offline run's file: records in blocks of 32 KiB, as in LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("*.wandb")
    data, at, message, rows = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"[: len(data)]  # it may still be empty
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little for a header: the rest of a block is filled up
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record.FromString(message)
            values = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            if "loss" in values:
                rows.append({k: float(values[k]) for k in ("_step", "loss", "val_loss", "mean_iou")})
            message = b""
    return rows


def test_offline_writes_rows_and_pictures_without_a_network(monkeypatch, tmp_path, capsys):
    pytest.importorskip("wandb")
    hold_keys(monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    log = Wandb(tmp_path, {"lr": 0.1})
    for step in (1, 2):
        log.write({"step": step, "loss": 0.5, "val_loss": 0.4, "mean_iou": 0.3})
        log.images(step, [(IMAGE, TARGET, TARGET.clamp(max=1))], ("table", "piece"))
    log.close()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert capsys.readouterr().out == f"wandb: send it with: wandb sync {shlex.quote(os.path.relpath(folder))}\n"
    waits = iter(range(150))  # wandb's own process may still be writing, on a busy machine for seconds
    while len(recorded(folder)) < 2 and next(waits, None) is not None:
        time.sleep(0.2)
    assert recorded(folder) == [{"_step": step, "loss": 0.5, "val_loss": 0.4, "mean_iou": 0.3} for step in (1, 2)]
    written = [path.suffix for path in (tmp_path / "wandb").rglob("*") if path.is_file() and not path.is_symlink()]
    assert [written.count(ending) for ending in (".wandb", ".jpg", ".png")] == [1, 2, 4]  # two masks each
    assert written_keys(tmp_path / "wandb") == []


# --- the bar ---


def make_fifty_steps() -> None:
    with Progress("net", 0, 50, batch_size=4) as progress:
        for _ in range(50):
            progress.update(loss=0.5)


LAST_LINE = r"net: 100%.*50/50 steps.*loss 0.5, .* images/s"


def test_progress_in_a_notebook_is_one_output(monkeypatch):
    shown, updates = [], []
    handle = SimpleNamespace(update=lambda data, raw: updates.append(data["text/plain"]))
    ipython = SimpleNamespace(
        get_ipython=lambda: SimpleNamespace(kernel=SimpleNamespace(session=SimpleNamespace(pid=os.getpid()))),
        display=SimpleNamespace(display=lambda data, raw, display_id: shown.append(data) or handle),
    )
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    make_fifty_steps()
    assert len(shown) == 1
    assert re.search(LAST_LINE, updates[-1])


def test_progress_without_a_terminal_is_one_line(capsys):
    make_fifty_steps()
    said = capsys.readouterr()
    assert re.fullmatch(LAST_LINE + r"\S*\n", said.out)
    assert said.err == ""
