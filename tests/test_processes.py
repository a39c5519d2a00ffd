"""Two processes train as one does. As a script, this file is the two processes (forked, so torch is imported once)."""

import json
import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_toys import Squares, run_as_script, tiny_net, tiny_recipe


def main(folder: Path) -> None:
    import accelerate  # noqa: F401  (what takes seconds to import, before the forks)
    import safetensors.torch
    import torch._dynamo  # noqa: F401  (by the first optimizer)

    from labhelpers.training import train_or_load

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recipes = {
        "plain": tiny_recipe(clip_norm=0.5, accumulate=2),
        "frozen": tiny_recipe(freeze_encoder_steps=3, precision="bf16"),
    }
    nodes = [("both", rank, 2, port) for rank in range(2)] + [("one", 0, 1, port)]
    children = []
    for name, rank, world, port in nodes:
        child = os.fork()
        if child:
            children.append(child)
            continue
        os.environ["LAB_CHECKPOINTS"] = str(folder / name)
        if world > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        for kind, recipe in recipes.items():
            # Batch norm and dropout would see parts of the batch.
            model = tiny_net(norm=False, dropout=0.0)
            run = train_or_load(kind, model, Squares(), Squares(5, "val"), recipe)
            safetensors.torch.save_file(run.model.state_dict(), folder / f"{name}-{rank}-{kind}.safetensors")
        os._exit(0)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run_as_script(__file__, tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("kind", ["plain", "frozen"])
def test_two_processes_train_as_one(folder, kind):
    one, first, second = (load_file(folder / f"{name}-{kind}.safetensors") for name in ("one-0", "both-0", "both-1"))
    for name in one:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], one[name], rtol=2e-2 if kind == "frozen" else 1e-4, atol=1e-4)
    infos = [next((folder / name / kind).glob("*/step-00000006.json")).read_text() for name in ("one", "both")]
    whole, part = (json.loads(info)["micro_batch"] for info in infos)
    assert whole == 2 * part  # each process takes half
    logs = [next((folder / name / kind).glob("*/log.csv")).read_text().splitlines() for name in ("one", "both")]
    assert len(logs[0]) == len(logs[1]) == 7
    scores = [[float(x) for x in log[-1].split(",")] for log in logs]
    assert scores[0] == pytest.approx(scores[1], rel=1e-2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
