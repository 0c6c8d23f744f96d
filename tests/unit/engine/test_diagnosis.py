"""Doctor: honest about what is missing, with a remedy for each, and without touching anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyro_mcp.engine import diagnosis
from pyro_mcp.model.doctor import DoctorCheck, DoctorReport
from pyro_mcp.settings import Settings


def look(tmp_path: Path, platform: str | None = None, **overrides: object) -> DoctorReport:
    settings = Settings.load(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache", **overrides)
    return diagnosis.Diagnosis(settings).diagnose(platform)


def named(report: DoctorReport, name: str) -> DoctorCheck:
    return next(check for check in report.checks if check.name == name)


def test_every_finding_that_is_not_ok_has_a_remedy_and_nothing_is_made(tmp_path: Path) -> None:
    report = look(tmp_path)
    assert [check.name for check in report.checks if check.status != "ok" and not check.remedy] == []
    assert len({check.name for check in report.checks}) == len(report.checks)
    assert os.listdir(tmp_path) == []
    assert {"pyro", "python", "sqlite"} <= set(report.versions)


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "find_program", lambda name: None)
    report = look(tmp_path)
    assert not report.ready
    assert report.isolation is None
    assert named(report, "mkfs.erofs").remedy == "apt-get install erofs-utils"


def test_another_platform_is_not_ready(tmp_path: Path) -> None:
    report = look(tmp_path, "linux-aarch64")
    assert named(report, "platform").status == "missing"
    assert not report.ready


def test_emulation_is_never_called_a_boundary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_kvm_verdict", lambda settings: (False, "no /dev/kvm", "use another host"))
    report = look(tmp_path)
    assert report.isolation in ("emulated", None)
    assert "does not support software emulation as a security boundary" in named(report, "isolation").detail
    strict = look(tmp_path, require_isolation="kvm")
    assert named(strict, "kvm").status == "missing"
    assert not strict.ready


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    check = named(look(tmp_path), "state_dir")
    assert (check.status, check.remedy is not None) == ("missing", True)
