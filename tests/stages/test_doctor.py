"""Doctor looks at this machine; what it finds wrong has a remedy."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from firstlight.shell import install_command
from firstlight.stages import doctor as stage
from firstlight.stages.doctor import Diagnosis, Finding, doctor

Usage = namedtuple("Usage", "total used free")


def named(found: Diagnosis, name: str) -> Finding:
    return next(finding for finding in found.findings if finding.name == name)


def test_this_machine_is_healthy_enough_for_its_own_tests(tmp_path: Path):
    found = doctor(tmp_path / "runs")
    names = [finding.name for finding in found.findings]
    assert names[:2] == ["python", "torch"]
    assert {"gpu", "cpu", "memory", "compiler", "allocator", "disk", "fastokens", "pyarrow"} <= set(names)
    assert found.healthy
    assert named(found, "torch").value == torch.__version__
    assert f"free at {tmp_path}" in named(found, "disk").value
    assert not (tmp_path / "runs").exists()


def test_every_note_and_problem_says_what_to_do(tmp_path: Path):
    for finding in doctor(tmp_path).findings:
        assert finding.level in ("ok", "note", "problem")
        assert bool(finding.fix) == (finding.level != "ok"), finding


@pytest.mark.parametrize(
    ("version", "level"), [("2.10.1", "note"), ("2.11.0+cpu", "ok"), ("2.13.0", "ok"), ("2.14.0a0+git1", "note")]
)
def test_versions_of_torch(version: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert named(doctor(tmp_path), "torch").level == level


def test_a_library_that_is_missing_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    find = stage.importlib.util.find_spec
    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name))
    finding = named(doctor(tmp_path), "pyarrow")
    assert (finding.level, finding.fix) == ("note", f"Run: {install_command('pyarrow>=18')}")
    assert "reading .parquet" in finding.value


def test_a_small_disk_and_one_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 0, 10**9))
    assert named(doctor(tmp_path), "disk").level == "note"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = doctor(tmp_path)
    assert named(found, "disk").level == "problem"
    assert not found.healthy


def test_a_file_in_the_way_of_the_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    finding = named(doctor(tmp_path / "file" / "runs"), "disk")
    assert finding.level == "problem"
    assert f"{tmp_path / 'file'} is a file" in finding.value


def test_little_memory_and_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage, "_memory_bytes", lambda: (2**30, 2**29))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = doctor(tmp_path)
    assert named(found, "memory").value == "1.0 GiB, 0.5 free"
    assert named(found, "memory").level == "note"
    assert "no C++ compiler" in named(found, "compiler").value
    assert found.healthy
    monkeypatch.setattr(stage, "_memory_bytes", lambda: (0, 0))
    assert named(doctor(tmp_path), "memory").value == "unknown"
