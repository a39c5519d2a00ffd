"""Every test gets its own folder for data and checkpoints, and the threads that the project asks for."""

import os
from pathlib import Path

import pytest

import labhelpers  # noqa: F401  (sets OMP_WAIT_POLICY before any test imports torch)


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "home"))
    for name in ("LAB_CHECKPOINTS", "LAB_VOC_ROOT", "LAB_STEPS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module", autouse=True)
def wrong_answers_run_once(request):
    """In the tests of the checks, for each of many answers is compared with all wrong ones that its exercise knows."""
    if not request.module.__name__.startswith("test_checks"):
        yield
        return
    from judging import remembered

    with remembered():
        yield


@pytest.fixture
def real_data() -> Path:
    """The folder with voc_style_photos/ and camvid/, or a skip that says why."""
    folder = os.environ.get("LAB_REAL_DATA")
    if not folder:
        pytest.skip("LAB_REAL_DATA does not name a folder with real photographs")
    return Path(folder)
