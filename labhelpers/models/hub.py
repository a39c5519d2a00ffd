"""A file of weights from the Hugging Face hub, without a wait when there is no network."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from labhelpers.network import reachable

FILE = "model.safetensors"  # tensors and nothing else: unlike a pickle it cannot run code
ANSWER_SECONDS = 5.0


def hub_weights(repo_id: str, revision: str, name: str) -> Path | None:
    """`repo_id`'s weights at `revision` (a branch, a tag or a commit), from the hub's cache, else downloaded.

    The hub names a large file by its SHA-256, and so does the cache; the file is checked against it at every call. Only
    where a file system without links keeps no such name, what remains is the check of its size after the download.

    Args:
        name: what the weights are for, as the sentence says it that is printed when they cannot be had.

    Returns:
        The file, or None when it is neither cached nor to be had: no connection within a second, no answer within
        five, or an error. One printed sentence then says so.

    Raises:
        ValueError: the file is not the one that the hub named.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    where = {"repo_id": repo_id, "filename": FILE, "revision": revision}
    token = False  # the files are public, and on Colab reading the token would ask for a permission
    try:
        return _verified(Path(hf_hub_download(**where, token=token, local_files_only=True)))
    except LocalEntryNotFoundError:
        pass  # not cached
    instead = f"{name} starts from random weights instead of ImageNet's"
    if constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT):
        print(f"No network: {instead} (looked for {repo_id} in the cache of huggingface_hub).")
        return None
    try:
        # hf_hub_download tries six times, half a minute, where no answer comes; this fails at the first.
        get_hf_file_metadata(hf_hub_url(**where), token=token, timeout=ANSWER_SECONDS)
        return _verified(Path(hf_hub_download(**where, token=token)))
    # The bases are the errors of the HTTP library that this version of huggingface_hub uses; hf_xet has RuntimeError.
    except (OSError, RuntimeError, *HfHubHTTPError.__bases__) as error:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        print(f"{urlsplit(constants.ENDPOINT).hostname} does not give {repo_id} ({reason}): {instead}.")
        return None


def _verified(path: Path) -> Path:
    """The file, after a look whether its content has the SHA-256 that is the name of the link's target."""
    name = path.readlink().name if path.is_symlink() else ""
    if len(name) == 64:  # small files, which git keeps itself, have a shorter hash
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != name:
            raise ValueError(
                f"{path} is damaged: its SHA-256 is {found}, not {name}. Delete {path.parents[2]} and run this again."
            )
    return path
