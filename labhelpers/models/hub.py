"""A file from the Hugging Face hub, without a wait when there is no network."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from labhelpers.network import reachable

FILE = "model.safetensors"  # tensors and nothing else: unlike a pickle it cannot run code
ANSWER_SECONDS = 5.0


class Unreachable(OSError):
    """A file that is neither in the hub's cache nor to be had from the hub."""

    def __init__(self, reason: str, remark: str = ""):
        super().__init__(reason + remark)
        self.reason, self.remark = reason, remark

    def sentence(self, consequence: str) -> str:
        """Why there is no file, and what follows from it."""
        return f"{self.reason}: {consequence}{self.remark}."


def hub_weights(repo_id: str, revision: str, name: str) -> Path | None:
    """`repo_id`'s weights at `revision`, as :func:`hub_file` finds them; None, and one printed sentence, without them.

    Args:
        name: what the weights are for, as the sentence says it.

    Raises:
        ValueError: the file is not the one that the hub named.
    """
    try:
        return hub_file(repo_id, revision, FILE)
    except Unreachable as error:
        print(error.sentence(f"{name} starts from random weights instead of ImageNet's"))
        return None


def hub_file(repo_id: str, revision: str, filename: str, tell: Callable[[int], None] | None = None) -> Path:
    """A file of `repo_id` at `revision` (a branch, a tag or a commit), from the hub's cache, else downloaded.

    The hub names a large file by its SHA-256, and so does the cache; the file is checked against it at every call. Only
    where a file system without links keeps no such name, what remains is the check of its size after the download.

    Args:
        tell: called with the number of bytes before a download begins.

    Raises:
        Unreachable: it is neither cached nor to be had: no connection within a second, no answer within five, or an
            error. ValueError: the file is not the one that the hub named.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    where = {"repo_id": repo_id, "filename": filename, "revision": revision}
    token = False  # the files are public, and on Colab reading the token would ask for a permission
    try:
        return _verified(Path(hf_hub_download(**where, token=token, local_files_only=True)))
    except LocalEntryNotFoundError:
        pass  # not cached
    if constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT):
        raise Unreachable("No network", f" (looked for {repo_id} in the cache of huggingface_hub)")
    try:
        # hf_hub_download tries six times, half a minute, where no answer comes; this fails at the first.
        metadata = get_hf_file_metadata(hf_hub_url(**where), token=token, timeout=ANSWER_SECONDS)
        if tell is not None:
            tell(metadata.size)
        return _verified(Path(hf_hub_download(**where, token=token)))
    # The bases are the errors of the HTTP library that this version of huggingface_hub uses; hf_xet has RuntimeError.
    except (OSError, RuntimeError, *HfHubHTTPError.__bases__) as error:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise Unreachable(f"{urlsplit(constants.ENDPOINT).hostname} does not give {repo_id} ({reason})") from error


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
