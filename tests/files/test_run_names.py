"""A run or a checkpoint is named by its folder, a file in it, or RUN@STEP."""

from pathlib import Path

import pytest

from firstlight.errors import UsageError
from firstlight.files.run_names import RunPath, is_run_directory, list_checkpoints, parse_run_path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    run = Path("runs/x")
    for step in (5, 20, 123456789):
        folder = run / "checkpoints" / f"step-{step:08d}"
        (folder / "trainer").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "trainer" / "state.json").write_text("{}")
    for name in ("run.toml", "state.json", "report.html", ".firstlight-run"):
        (run / name).write_text("")
    (run / "best").write_text("step-00000020\n")
    (run / "latest").write_text("../../elsewhere\n")
    return run


def test_the_names_of_a_run(run: Path) -> None:
    for name in (
        "runs/x",
        "runs/x/",
        "runs/x/run.toml",
        "runs/x/report.html",
        "runs/x/checkpoints",
        str(run.absolute()),
    ):
        found = parse_run_path(name)
        assert found.run is not None and found.run.samefile(run) and found.checkpoint is None, name


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("runs/x/checkpoints/step-00000005", 5),
        ("runs/x/checkpoints/step-00000005/", 5),
        ("runs/x/checkpoints/step-00000005/config.json", 5),
        ("runs/x/checkpoints/step-00000005/trainer/state.json", 5),
        ("runs/x/best", 20),
        ("runs/x@best", 20),
        ("runs/x@5", 5),
        ("runs/x/@20", 20),
        ("runs/x@00000020", 20),
        ("runs/x@123456789", 123456789),
    ],
)
def test_the_names_of_a_checkpoint(name: str, step: int, run: Path) -> None:
    assert parse_run_path(name) == RunPath(run, run / "checkpoints" / f"step-{step:08d}")


@pytest.mark.parametrize(
    "name", ["text.txt", "nothere", "nothere@5", "@5", "runs", "runs/x/data", "a" * 5000, "you@example.org"]
)
def test_other_names(name: str, run: Path) -> None:
    Path("text.txt").write_text("")
    assert parse_run_path(name) == RunPath(None)


def test_an_existing_path_takes_precedence(run: Path) -> None:
    (Path("runs") / "x@5").mkdir()
    assert parse_run_path("runs/x@5") == RunPath(None)


@pytest.mark.parametrize("step", ["7", "", "-5", "5.0", "٥", "last"])
def test_a_step_that_is_not_saved(step: str, run: Path) -> None:
    with pytest.raises(UsageError, match=r"has no checkpoint of this step \(found @.*; expected 123456789, 20, 5\)"):
        parse_run_path(f"runs/x@{step}")


def test_a_pointer_that_leads_elsewhere_names_no_checkpoint(run: Path) -> None:
    assert parse_run_path("runs/x/latest") == RunPath(run, None)


def test_a_settings_file_alone_is_no_run(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("")
    assert parse_run_path("run.toml") == RunPath(None)
    assert not is_run_directory(tmp_path) and is_run_directory(run)
    assert [p.name for p in list_checkpoints(run)] == ["step-123456789", "step-00000020", "step-00000005"]
