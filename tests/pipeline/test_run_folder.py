from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ConfigError, RunConfig, make_config
from pipeline.disk import DiskSpaceError, require_free_space
from pipeline.files import read_json, write_atomically, write_json
from pipeline.run_folder import Run, RunFolderError, claim_folder, default_folder, stored_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def two_stages(folder: Path, calls: list[str], said: list[str], *, resume: bool, number: int = 1) -> dict[str, Any]:
    """A run of two stages, the second of which doubles the number that the first one stores."""

    def first(work: Path) -> dict[str, Any]:
        calls.append("first")
        (work / "number.txt").write_text(str(number))
        return {"number": number}

    def second(work: Path) -> dict[str, Any]:
        calls.append("second")
        return {"number": 2 * int((work.parent / "first" / "number.txt").read_text())}

    with Run(folder, RunConfig(), resume=resume, say=said.append) as run:
        run.perform("first", (), first)
        return run.perform("second", ("first",), second)


def test_a_resumed_run_does_nothing_twice(folder: Path) -> None:
    calls: list[str] = []
    said: list[str] = []
    assert two_stages(folder, calls, said, resume=False) == {"number": 2}
    before = (folder / "manifest.json").read_bytes()
    assert two_stages(folder, calls, said, resume=True) == {"number": 2}
    assert calls == ["first", "second"]
    assert said == []
    assert (folder / "manifest.json").read_bytes() == before


def test_an_interrupted_stage_finds_its_checkpoint(folder: Path) -> None:
    def work(place: Path) -> dict[str, Any]:
        checkpoint = place / "net.checkpoint"
        if not checkpoint.exists():
            checkpoint.write_text("half")
            raise KeyboardInterrupt
        return {"from": checkpoint.read_text()}

    with Run(folder, RunConfig(), resume=False, say=pytest.fail) as run, pytest.raises(KeyboardInterrupt):
        run.perform("train", (), work)
    with Run(folder, RunConfig(), resume=True, say=pytest.fail) as run:
        assert run.perform("train", (), work) == {"from": "half"}
    assert "net.checkpoint" not in (folder / "manifest.json").read_text()


def change(path: Path) -> None:
    path.write_text(path.read_text() + " ")


@pytest.mark.parametrize(
    ("damage", "reason", "redone"),
    [
        (lambda f: change(f / "first" / "number.txt"), "first/number.txt is not what the stage wrote", ["first"]),
        (lambda f: change(f / "second" / "result.json"), "second/result.json is not what the stage wrote", ["second"]),
        (lambda f: (f / "second" / "result.json").unlink(), "second/result.json is missing", ["second"]),
    ],
)
def test_changed_outputs_are_said_moved_aside_and_redone(
    folder: Path, damage: Callable[[Path], None], reason: str, redone: list[str]
) -> None:
    calls: list[str] = []
    said: list[str] = []
    two_stages(folder, calls, said, resume=False)
    damage(folder)
    calls.clear()
    assert two_stages(folder, calls, said, resume=True) == {"number": 2}
    assert calls == redone
    assert reason in said[0]
    assert (folder / "superseded" / f"{redone[0]}-1").is_dir()


def test_a_stage_is_redone_when_what_it_rests_on_changed(folder: Path) -> None:
    said: list[str] = []
    two_stages(folder, [], said, resume=False)
    change(folder / "first" / "number.txt")
    assert two_stages(folder, [], said, resume=True, number=7) == {"number": 14}
    assert "it was made from another first/number.txt, first/result.json" in said[1]


def test_a_damaged_manifest_is_moved_aside(folder: Path) -> None:
    calls: list[str] = []
    said: list[str] = []
    two_stages(folder, calls, said, resume=False)
    (folder / "manifest.json").write_text("{")
    assert two_stages(folder, calls, said, resume=True) == {"number": 2}
    assert calls == ["first", "second"] * 2
    assert "manifest.json is damaged; it was moved to" in said[0]
    assert "it is not in the manifest" in said[1]
    assert (folder / "superseded" / "manifest.json-1").read_text() == "{"


def test_a_stage_does_not_depend_on_its_event_files(folder: Path) -> None:
    calls = []

    def work(place: Path) -> dict[str, Any]:
        calls.append(place)
        (place / "events").mkdir()
        (place / "events" / "events.out.tfevents.1.host.search-00001").touch()
        return {}

    for resume in (False, True):
        with Run(folder, RunConfig(), resume=resume, say=pytest.fail) as run:
            run.perform("search", (), work)
        shutil.rmtree(folder / "search" / "events", ignore_errors=True)
    assert calls == [folder / "search"], "events that are gone are no reason to search again"


def test_another_run_is_refused(folder: Path) -> None:
    Run(folder, RunConfig(), resume=False, say=print).close()
    for resume in (False, True):
        with pytest.raises(RunFolderError, match=r"holds another run \(seed is 0 there, 1 here\)"):
            Run(folder, make_config(seed=1), resume=resume, say=print)
    with pytest.raises(RunFolderError, match=r"already holds this run. Add --resume"):
        Run(folder, RunConfig(), resume=False, say=print)


def test_a_foreign_folder_is_refused_and_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match="is not empty and is not a run"):
        Run(folder, RunConfig(), resume=True, say=print)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunFolderError, match="is a file"):
        Run(folder / "thesis.tex", RunConfig(), resume=True, say=print)


def test_nothing_to_resume(folder: Path) -> None:
    with pytest.raises(RunFolderError, match=r"There is no run in .*run to go on with. Name the folder of one"):
        Run(folder, RunConfig(), resume=True, say=print)
    assert not folder.exists()


def test_only_its_own_output_is_overwritten(folder: Path) -> None:
    claim_folder(folder, "compile")
    (folder / "model.so").touch()
    claim_folder(folder, "compile")
    with pytest.raises(RunFolderError, match="is not empty and is not a run"):
        claim_folder(folder, "train")
    (folder / ".netlathe").unlink()
    with pytest.raises(RunFolderError, match="is not empty and is not a run"):
        claim_folder(folder, "compile")
    with pytest.raises(RunFolderError, match="is a file"):
        claim_folder(folder / "model.so", "compile")


def test_a_run_is_not_overwritten(folder: Path) -> None:
    claim_folder(folder, "compile")
    Run(folder, RunConfig(), resume=False, say=print).close()
    with pytest.raises(RunFolderError, match="holds a run, which would be overwritten"):
        claim_folder(folder, "compile")


def test_a_damaged_config_is_refused(folder: Path) -> None:
    Run(folder, RunConfig(), resume=False, say=print).close()
    (folder / "config.json").write_text('{"format": ')
    with pytest.raises(RunFolderError, match=r"has no readable config.json"):
        Run(folder, RunConfig(), resume=True, say=print)
    write_json(folder / "config.json", {"format": "netlathe-run/3", "sed": 1})
    with pytest.raises(ConfigError, match=r"Unknown option 'sed'. Did you mean seed"):
        stored_config(folder)


def test_one_process_at_a_time_and_a_kill_frees_the_folder(folder: Path) -> None:
    hold = (
        "import sys, pathlib, time; from pipeline.config import RunConfig; from pipeline.run_folder import Run\n"
        "run = Run(pathlib.Path(sys.argv[1]), RunConfig(), resume=False, say=print)\n"
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match="Another process is writing"):
            Run(folder, RunConfig(), resume=True, say=print)
        other.kill()
    Run(folder, RunConfig(), resume=True, say=print).close()


def test_default_folders(tmp_path: Path) -> None:
    config = RunConfig()
    assert default_folder(config, tmp_path, resume=True) == tmp_path / config.name
    assert default_folder(config, tmp_path, resume=False) == tmp_path / config.name
    (tmp_path / config.name).mkdir()
    assert default_folder(config, tmp_path, resume=False) == tmp_path / f"{config.name}-2"
    assert default_folder(config, tmp_path, resume=True) == tmp_path / config.name


def test_too_little_disk_space(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "there" / "yet", needed_bytes=1)
    with pytest.raises(DiskSpaceError, match=r"Only \d+ MB are free .* choose another disk with --out"):
        require_free_space(tmp_path, needed_bytes=2**60)


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    write_atomically(path, b"[1]")
    assert read_json(path) is None
