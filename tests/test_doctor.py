"""The doctor: every check says what it found, and a remedy where something is missing."""

import importlib.metadata
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from labhelpers import config
from labhelpers.course import doctor


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(doctor, "connection_problems", lambda urls: dict.fromkeys(urls, "cannot connect (test)"))


def found(check) -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in check()}


def test_the_whole_examination_creates_nothing_and_ends_with_what_to_do(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "smoke")
    text = doctor.examine()
    lines = text.splitlines()
    for word in ("Python", "torch", "CPU cores", "Memory", "Data on the disk", "Network: SAM", "Jupyter", "mini_sam"):
        assert word in text
    assert "  Network: PASCAL VOC: without it the labs work on synthetic scenes" in text
    assert lines[-1].endswith("they run in the profile smoke.")
    assert not config.home().exists()
    values = [line.index(line[33:].lstrip()) for line in lines[: lines.index("")]]
    assert len(set(values)) == 1, "the values are aligned"


def test_every_check_that_fails_has_a_remedy(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e6))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    for check in doctor.CHECKS:
        for finding in check():
            assert finding.value
            assert finding.ok is not False or finding.remedy, finding
    assert not found(doctor.check_disk)["Data on the disk"].ok


@pytest.mark.parametrize(("what", "extra"), [("transformers", "sam"), ("The demo's page", "course")])
def test_a_missing_extra_is_a_note_with_what_to_install(monkeypatch, what, extra):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor.importlib.metadata, "version", Mock(side_effect=importlib.metadata.PackageNotFoundError))
    line = next(line for line in doctor.examine().splitlines() if f"  {what} " in line)
    assert line.startswith("--")
    assert line.endswith(f'pip install "labhelpers[{extra}]"')


def test_versions_are_held_against_the_ranges_of_the_package(monkeypatch):
    assert all(finding.ok is not False for finding in doctor.check_versions())  # None: an extra that is not there
    version = importlib.metadata.version

    def older(name):
        if name == "accelerate":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name == "torch" else version(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", older)
    findings = found(doctor.check_versions)
    assert findings["torch"].remedy == 'pip install "torch>=2.6"'
    assert findings["accelerate"].value == "not installed"
    assert findings["numpy"].ok


def test_disk_is_judged_where_it_will_be_used(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_CHECKPOINTS", str(tmp_path / "drive" / "labs"))
    asked = []
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: asked.append(folder) or SimpleNamespace(free=5e9))
    findings = found(doctor.check_disk)
    assert asked == [tmp_path, tmp_path]  # the parts that exist
    assert "drive/labs" in findings["Checkpoints on the disk"].value
    monkeypatch.setenv("LAB_PROFILE", "lab")
    assert not found(doctor.check_disk)["Checkpoints on the disk"].ok
    assert set(doctor.NEEDS_GB) == set(config.PROFILES)


def test_a_folder_that_cannot_be_written_is_not_ok(monkeypatch, tmp_path):
    assert "Data can be written" not in found(doctor.check_disk)
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAB_CHECKPOINTS", str(tmp_path / "file" / "checkpoints"))
    finding = found(doctor.check_disk)["Checkpoints can be written"]
    assert not finding.ok
    assert f"{tmp_path / 'file'} cannot be written" in finding.value
    assert "LAB_CHECKPOINTS" in finding.remedy
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert "cannot be written (Permission denied)" in found(doctor.check_disk)["Data can be written"].value


def test_gpus_are_named_with_memory_and_bf16(monkeypatch):
    gpus = [SimpleNamespace(name="L4", total_memory=2**34, major=8)]
    gpus += [SimpleNamespace(name="Tesla T4", total_memory=15 * 2**30, major=7)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", gpus.__getitem__)
    assert [found(doctor.check_gpu)[f"GPU {i}"].value for i in (0, 1)] == [
        "L4, 16 GB, bf16",
        "Tesla T4, 15 GB, fp16, no bf16",
    ]


def test_minutes_of_every_lab_stand_in_the_table_and_estimates_are_marked():
    text = doctor.minutes_table()
    for name, *cells in (line.replace("*", "").split() for line in text.splitlines() if line.startswith("  ")):
        *numbers, total = map(float, cells)
        assert numbers == [*config.PROFILES[name].minutes.values()]
        assert total == pytest.approx(sum(numbers))
    assert "estimates for a T4, not measured" in text
