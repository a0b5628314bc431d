"""Bundles: carried to a machine, measured there by the script alone, and carried back, whole or not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from targets.bundle import BundleAwayError, BundleRunner
from targets.runner import Answer, Failure, Job, RunnerError, Timing

TIMED = (0.001, 0.002, 0.003), Answer(1e-6, True)
pytestmark = pytest.mark.compiles


MakeJob = Callable[..., Job]


@pytest.fixture
def runner(tmp_path: Path) -> BundleRunner:
    return BundleRunner(tmp_path / "bundle", threads=1, deadline_s=5.0)


def asked(runner: BundleRunner, passes: list[list[Job]]) -> Path:
    """The folder that has to be carried away."""
    with pytest.raises(
        BundleAwayError, match=r"Carry the folder .* run `sh measure.sh` .* give the same command again"
    ):
        list(runner.run(passes))
    return sorted((path for path in runner.folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)[
        -1
    ]


def carried(bundle: Path, far: Path) -> None:
    """To another place, where the script runs, and the three files back."""
    shutil.copytree(bundle, far)
    subprocess.run(["sh", far / "measure.sh"], check=True, capture_output=True)
    for name in ("results", "machine", "sealed"):
        shutil.copy(far / name, bundle / name)


def test_a_round_trip(runner: BundleRunner, tmp_path: Path, job: MakeJob) -> None:
    passes = [[job("a"), job("crash", "kill -SEGV $$"), job("b")], [job("b"), job("crash", "kill -SEGV $$"), job("a")]]
    bundle = asked(runner, passes)
    # Whoever asks before it is back hears the same, and nothing is written anew.
    assert asked(runner, passes) == bundle
    carried(bundle, tmp_path / "far" / "bundle")
    results = list(runner.run(passes))
    assert results == [
        Timing("a", *TIMED),
        Failure("crash", "died of SIGSEGV"),
        *(Timing(key, *TIMED) for key in "bba"),
    ]
    assert list(runner.run(passes)) == results


def test_another_batch_is_another_bundle(runner: BundleRunner, tmp_path: Path, job: MakeJob) -> None:
    first = asked(runner, [[job("a")]])
    carried(first, tmp_path / "far" / "bundle")
    second = asked(runner, [[job("b")]])
    assert first != second
    assert list(runner.run([[job("a")]])) == [Timing("a", *TIMED)]


@pytest.mark.parametrize("name", ["results", "machine"])
def test_what_was_changed_on_the_way_is_refused(runner: BundleRunner, tmp_path: Path, job: MakeJob, name: str) -> None:
    bundle = asked(runner, [[job("a")]])
    carried(bundle, tmp_path / "far" / "bundle")
    (bundle / name).write_text((bundle / name).read_text() + "more\n")
    with pytest.raises(RunnerError, match=rf"{name} is not what the machine sealed. Bring results, machine and sealed"):
        list(runner.run([[job("a")]]))
    (bundle / name).unlink()
    with pytest.raises(RunnerError, match="is not what the machine sealed"):
        list(runner.run([[job("a")]]))


@pytest.mark.parametrize("seal", ["", "only one line"])
def test_a_seal_that_is_cut_seals_nothing(runner: BundleRunner, tmp_path: Path, job: MakeJob, seal: str) -> None:
    bundle = asked(runner, [[job("a")]])
    carried(bundle, tmp_path / "far" / "bundle")
    whole = (bundle / "sealed").read_text()
    (bundle / "sealed").write_text(seal and whole.splitlines(keepends=True)[0])
    with pytest.raises(RunnerError, match="is not what the machine sealed"):
        list(runner.run([[job("a")]]))


def test_results_that_are_not_all_there_are_refused(runner: BundleRunner, tmp_path: Path, job: MakeJob) -> None:
    """Stopped on the machine by Ctrl-C, and carried back too soon; then finished."""
    passes = [
        [
            job("a"),
            job("b", f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; kill -INT $(cat ../netlathe.pid); }}"),
        ]
    ]
    bundle, far = asked(runner, passes), tmp_path / "far" / "bundle"
    shutil.copytree(bundle, far)
    # In the background of a script, as under nohup, interrupts are ignored, and no shell can change that.
    interruptible = ["env", "--default-signal=INT", "sh"]
    subprocess.run([*interruptible, far / "measure.sh"], check=False, capture_output=True)
    for name in ("results", "machine", "sealed"):
        shutil.copy(far / name, bundle / name)
    with pytest.raises(RunnerError, match=r"has 1 of 2 lines: run `sh measure.sh` in the folder on the machine again"):
        list(runner.run(passes))
    subprocess.run(["sh", far / "measure.sh"], check=True, capture_output=True)
    for name in ("results", "machine", "sealed"):
        shutil.copy(far / name, bundle / name)
    assert list(runner.run(passes)) == [Timing(key, *TIMED) for key in "ab"]


def test_whatever_a_program_says_is_one_line(runner: BundleRunner, tmp_path: Path, job: MakeJob) -> None:
    passes = [[job("odd", "printf 'not\\f\\342\\200\\250here\\n'; exit 3"), job("a")]]
    bundle = asked(runner, passes)
    carried(bundle, tmp_path / "far" / "bundle")
    assert list(runner.run(passes)) == [Failure("odd", "not\f\u2028here"), Timing("a", *TIMED)]


def test_a_bundle_that_waits_has_the_script_of_today(runner: BundleRunner, tmp_path: Path, job: MakeJob) -> None:
    bundle = asked(runner, [[job("a")]])
    script, files = (bundle / "measure.sh").read_text(), (bundle / "files.sha256").read_text()
    for name in ("measure.sh", "files.sha256"):
        (bundle / name).write_text("an older one\n")
    assert asked(runner, [[job("a")]]) == bundle
    assert ((bundle / "measure.sh").read_text(), (bundle / "files.sha256").read_text()) == (script, files)
    # What has come back of an older one counts.
    carried(bundle, tmp_path / "far" / "bundle")
    (bundle / "files.sha256").write_text("an older one\n")
    assert list(runner.run([[job("a")]])) == [Timing("a", *TIMED)]


def test_two_machines_do_not_mix(runner: BundleRunner, tmp_path: Path, job: MakeJob) -> None:
    carried(asked(runner, [[job("a")]]), tmp_path / "far" / "bundle")
    list(runner.run([[job("a")]]))
    bundle = asked(runner, [[job("b")]])
    carried(bundle, tmp_path / "other" / "bundle")
    (bundle / "machine").write_text("another machine\n")
    sealed = subprocess.run(["sha256sum", "machine", "results"], cwd=bundle, check=True, capture_output=True, text=True)
    (bundle / "sealed").write_text(sealed.stdout)
    with pytest.raises(RunnerError, match="was measured on another machine than what"):
        list(runner.run([[job("b")]]))


def test_results_of_another_bundle_are_refused(runner: BundleRunner, tmp_path: Path, job: MakeJob) -> None:
    first, second = asked(runner, [[job("a")]]), asked(runner, [[job("b")]])
    carried(first, tmp_path / "far" / "bundle")
    for name in ("results", "machine", "sealed"):
        shutil.copy(first / name, second / name)
    with pytest.raises(RunnerError, match="Line 1 of what was measured is none of this batch"):
        list(runner.run([[job("b")]]))


def test_a_bundle_appears_whole_or_not_at_all(
    runner: BundleRunner, job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("targets.bundle.shutil.copy", full)
    with pytest.raises(OSError, match="No space left"):
        list(runner.run([[job("a")]]))
    assert list(runner.folder.iterdir()) == []


def test_nothing_to_run(runner: BundleRunner) -> None:
    assert list(runner.run([])) == []
    assert not runner.folder.exists()
