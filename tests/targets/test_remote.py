"""Measuring over a shell: what is sent, what each way to break means, and a machine that is lost and comes back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from targets.batch import Batch
from targets.remote import LOSSES_IN_A_ROW, RemoteRunner, lay_out
from targets.runner import Answer, Failure, Job, RunnerError, Timing
from targets.shell import LostError, RemoteShell, ShellError

MakeJob = Callable[..., Job]
SAMPLES = (0.001, 0.002, 0.003)
ANSWER = Answer(1e-6, True)
pytestmark = pytest.mark.compiles


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The folder that stands for the machine's disk."""
    folder = tmp_path / "machine"
    folder.mkdir()
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def runner(machine: Path, words: Sequence[str] = ("sh", "-c"), deadline_s: float = 5.0) -> RemoteRunner:
    return RemoteRunner(RemoteShell(tuple(words), lost=(255,)), str(machine), 1, deadline_s, return_s=5.0)


def link(folder: Path, script: str) -> tuple[str, ...]:
    """A command that takes a line of shell as $1, and may be a bad connection."""
    path = folder / "link"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return (str(path),)


def test_turns_come_in_order_with_raw_times_and_what_netbench_found(machine: Path, here: Path, job: MakeJob) -> None:
    a, b = job("a"), job("b")
    results = list(runner(machine).run([[a, b], [b, a]]))
    assert results == [Timing(key, SAMPLES, ANSWER) for key in "abba"]
    # Nothing is left behind.
    assert list(machine.iterdir()) == []


def test_programs_get_their_options_and_the_fastest_cpu(machine: Path, here: Path, job: MakeJob) -> None:
    told = job("a", f'echo "$@" > {here}/options')
    list(runner(machine).run([[told]]))
    options = (here / "options").read_text().split()
    assert {"--num_runs=3", "--warmup_runs=1", "--evict_bytes=64", "--num_threads=1", "--deadline_secs=5"} <= {*options}
    (mask,) = (int(word.partition("=")[2], 16) for word in options if word.startswith("--cpu_mask="))
    assert mask.bit_count() == 1
    assert mask.bit_length() - 1 in os.sched_getaffinity(0)


def test_each_way_to_break_is_a_failure_with_its_reason_and_has_no_second_turn(
    machine: Path, here: Path, job: MakeJob
) -> None:
    jobs = [
        job("good"),
        job("crash", "kill -SEGV $$"),
        job("hang", "kill -ALRM $$"),
        job("wrong", "echo 'netbench: the output is off by 3.' >&2; exit 1"),
        job("silent", "exit 4"),
        job("nonsense", "echo hello; exit 0"),
        job("too few", samples="0.001"),
        job("no time", samples="0.001, 0.0, 0.003"),
        job("too long", samples="0.001, 7.0, 0.003"),
    ]
    results = list(runner(machine).run([jobs, jobs]))
    reasons = {result.key: result.reason for result in results if isinstance(result, Failure)}
    assert [result.key for result in results if isinstance(result, Timing)] == ["good", "good"]
    assert reasons.pop("nonsense").startswith("answered what are no 3 times: hello")
    for key in ("too few", "no time", "too long"):
        assert reasons.pop(key).startswith("answered what are no 3 times: {")
    assert reasons == {
        "crash": "died of SIGSEGV",
        "hang": "took longer than 5 s",
        "wrong": "the output is off by 3.",
        "silent": "ended with exit code 4",
    }
    assert len(results) == 2 + 8


def test_a_program_that_did_not_arrive_whole_fails_alone(machine: Path, here: Path, job: MakeJob) -> None:
    jobs = [job("a"), job("b"), job("c")]
    # Whatever is unpacked there, the file with `# b` in it is cut.
    cut = f"""sh -c "$1"; status=$?
case $1 in *tar*) for f in {machine}/*/programs/*; do grep -q '# b' $f && echo cut > $f; done; exit $status;; esac
exit $status"""
    results = list(runner(machine, link(here, cut)).run([jobs, jobs]))
    assert [result.key for result in results] == ["a", "b", "c", "a", "c"]
    assert results[1] == Failure("b", "its program did not arrive whole; is the disk of the machine full?")


def test_a_machine_without_room_is_told(machine: Path, here: Path, job: MakeJob) -> None:
    full = 'case $1 in mkdir*) echo "mkdir: No space left on device" >&2; exit 2;; esac; sh -c "$1"'
    with pytest.raises(RunnerError, match=r"Nothing can be stored in .*machine.*: mkdir: No space left on device"):
        list(runner(machine, link(here, full)).run([[job("a")]]))


def test_a_lost_connection_is_waited_for_and_nothing_is_measured_twice(machine: Path, here: Path, job: MakeJob) -> None:
    """The link dies with the second turn, and comes back after two refused attempts."""
    jobs = [job(key, f"echo {key} >> {here}/ran") for key in "abc"]
    broken = f"""
case $1 in *measure.sh*) if [ ! -e {here}/lost ]; then touch {here}/lost; sh -c "$1" | head -n 1; exit 255; fi;; esac
if [ -e {here}/lost ] && [ "$(cat {here}/lost | wc -l)" -lt 2 ]; then echo refused >> {here}/lost; exit 255; fi
sh -c "$1" """
    results = list(runner(machine, link(here, broken)).run([jobs, jobs]))
    assert [result.key for result in results] == list("abcabc")
    ran = (here / "ran").read_text().split()
    # The second may have run, with nobody to tell.
    assert ran in (list("abcabc"), list("abbcabc"))


def test_a_machine_that_forgets_its_files_gets_them_again(machine: Path, here: Path, job: MakeJob) -> None:
    restart = f"""
case $1 in *measure.sh\\ *) if [ ! -e {here}/lost ]; then
  touch {here}/lost; sh -c "$1" | head -n 1; rm -rf {machine}/*; exit 255; fi;; esac
sh -c "$1" """
    results = list(runner(machine, link(here, restart)).run([[job(key) for key in "abc"]]))
    assert results == [Timing(key, SAMPLES, ANSWER) for key in "abc"]


def test_a_candidate_that_takes_the_machine_with_it_twice_has_failed(machine: Path, here: Path, job: MakeJob) -> None:
    jobs = [job("a"), job("killer", "kill -9 $(cat ../netlathe.pid)"), job("c")]
    results = list(runner(machine).run([jobs, jobs]))
    assert [result.key for result in results] == ["a", "killer", "c", "a", "c"]
    failure = results[1]
    assert isinstance(failure, Failure)
    assert failure.reason.startswith("the machine was lost 2 times while it ran")


def test_a_machine_that_is_lost_again_and_again_is_given_up(machine: Path, here: Path, job: MakeJob) -> None:
    never = 'case $1 in *"measure.sh "*) echo "connection reset" >&2; exit 255;; esac; sh -c "$1"'
    jobs = [job(key) for key in "abcdef"]
    found: list[Timing | Failure] = []
    with pytest.raises(RunnerError, match=f"lost {LOSSES_IN_A_ROW} times without a result between: connection reset"):
        found.extend(runner(machine, link(here, never)).run([jobs]))
    assert found == []


def test_a_machine_that_never_answers_is_told_within_the_deadline(machine: Path, here: Path, job: MakeJob) -> None:
    start = time.monotonic()
    with pytest.raises(RunnerError, match=r"did not answer within 5 s: it cannot be reached \(no route\)"):
        list(runner(machine, link(here, "echo 'no route' >&2; exit 255")).run([[job("a")]]))
    assert time.monotonic() - start < 30


def test_a_machine_that_is_silent_is_lost(here: Path) -> None:
    silent = RemoteShell(link(here, "sleep 60"))
    start = time.monotonic()
    with pytest.raises(LostError, match="nothing came from the machine for 1 s"):
        silent.run("true", deadline_s=1.0)
    assert time.monotonic() - start < 20
    with pytest.raises(LostError, match="nowhere could not be started"):
        RemoteShell(("nowhere",)).run("true")


def test_a_line_that_fails_says_its_last_word() -> None:
    with pytest.raises(ShellError, match=r"^second$"):
        RemoteShell(("sh", "-c")).run("echo first >&2; echo second >&2; exit 3")
    with pytest.raises(ShellError, match="exit code 3"):
        RemoteShell(("sh", "-c")).run("exit 3")


def test_lines_of_something_else_are_no_results(machine: Path, here: Path, job: MakeJob) -> None:
    greeting = 'case $1 in *"measure.sh "*) echo "Welcome to the machine";; esac; sh -c "$1"'
    with pytest.raises(RunnerError, match="Line 1 of what was measured is none of this batch: 'Welcome"):
        list(runner(machine, link(here, greeting)).run([[job("a")]]))


def test_stopping_early_ends_what_runs_here_and_removes_what_is_there(machine: Path, here: Path, job: MakeJob) -> None:
    results = runner(machine).run([[job("a"), job("slow", "sleep 30")]])
    assert next(iter(results)) == Timing("a", SAMPLES, ANSWER)
    results.close()  # type: ignore[attr-defined]
    assert {file.name for file in machine.iterdir()} <= {"netlathe.pid"}


def test_nothing_to_run(machine: Path) -> None:
    assert list(runner(machine, ("false",)).run([[]])) == []


@pytest.fixture
def sys_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /sys: the first CPU that this process may use is the fastest; a warm battery, a cool CPU."""
    folder = tmp_path / "sys"
    allowed = sorted(os.sched_getaffinity(0))
    for cpu in allowed:
        place = folder / f"devices/system/cpu/cpu{cpu}"
        (place / "cpufreq").mkdir(parents=True)
        (place / "cpu_capacity").write_text("1024\n" if cpu == allowed[0] else "400\n")
        (place / "cpufreq/scaling_max_freq").write_text("2000000\n")
    for number, (kind, temperature) in enumerate([("battery", 90000), ("cpu-0-0-usr", 40000)]):
        zone = folder / f"class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(f"{temperature}\n")
    monkeypatch.setenv("NETLATHE_SYS", str(folder))
    return folder


def test_the_fastest_cpu_is_measured_on(machine: Path, here: Path, sys_folder: Path, job: MakeJob) -> None:
    list(runner(machine).run([[job("a", f'echo "$@" > {here}/options')]]))
    mask = 1 << min(os.sched_getaffinity(0))
    assert f"--cpu_mask={mask:x}" in (here / "options").read_text().split()


@pytest.mark.parametrize(
    ("file", "warm", "cool"),
    [
        ("class/thermal/thermal_zone1/temp", "71000", "69000"),
        ("devices/system/cpu/cpu{}/cpufreq/scaling_max_freq", "1200000", "2000000"),
    ],
)
def test_a_machine_that_is_warm_or_throttled_is_waited_for(
    machine: Path, here: Path, sys_folder: Path, job: MakeJob, file: str, warm: str, cool: str
) -> None:
    told = sys_folder / file.format(min(os.sched_getaffinity(0)))
    jobs = [job("warms", f"echo {warm} > {told}"), job("next", f"cat {told} > {here}/seen")]
    cooling = threading.Timer(1.5, lambda: told.write_text(f"{cool}\n"))
    cooling.start()
    results = list(runner(machine).run([jobs]))
    cooling.join()
    assert len(results) == 2
    assert (here / "seen").read_text().strip() == cool


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_the_script_goes_on_where_it_was_killed(machine: Path, here: Path, killed_after: int, job: MakeJob) -> None:
    """As on a machine that was carried a bundle: killed with SIGKILL and started again, each turn counts once."""
    jobs = [job(key, f"echo {key} >> {here}/ran") for key in "abcd"]
    jobs[killed_after] = job(
        "killer", f"[ -e {here}/once ] || {{ touch {here}/once; kill -9 $(cat ../netlathe.pid); }}"
    )
    batch = Batch(tuple(jobs), 1, 5.0)
    machine = machine / "bundle"
    machine.mkdir()
    lay_out(batch, machine)
    first = subprocess.run(["sh", machine / "measure.sh"], capture_output=True, text=True, check=False)
    assert first.returncode == -9
    # As if the power had failed within a line.
    with (machine / "results").open("a") as results:
        results.write("4 torn")
    assert not (machine / "sealed").exists()
    second = subprocess.run(["sh", machine / "measure.sh"], capture_output=True, text=True, check=True)
    found = list(batch.results(second.stdout.splitlines()))
    assert [result.key for result in found if isinstance(result, Timing)] == [planned.key for planned in jobs]
    assert (machine / "results").read_text() == second.stdout
    assert (machine / "sealed").exists()


def test_the_script_measures_nothing_with_a_damaged_list(machine: Path, here: Path, job: MakeJob) -> None:
    machine = machine / "bundle"
    machine.mkdir()
    lay_out(Batch((job("a"),), 1, 5.0), machine)
    (machine / "jobs").write_text("")
    done = subprocess.run(["sh", machine / "measure.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "jobs is damaged; is the disk full? Copy the folder again" in done.stderr


def test_a_launcher_runs_the_programs(machine: Path, here: Path, job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = job("a", "exit 1")
    emulator = here / "emulator"
    emulator.write_text(f'#!/bin/sh\necho "$1" > {here}/program; tail -n 1 "$1" | sh\n')
    emulator.chmod(0o755)
    monkeypatch.setenv("NETLATHE_LAUNCHER", str(emulator))
    results = list(runner(machine).run([[launched]]))
    assert results == [Timing("a", SAMPLES, ANSWER)]
    assert (here / "program").read_text().startswith("./programs/")


def test_lines_that_nobody_read_are_printed_by_their_numbers(machine: Path, here: Path, job: MakeJob) -> None:
    """A candidate was given up, so that a number is missing, and the line after it was written but not read."""
    folder = machine / "bundle"
    folder.mkdir()
    jobs = [job("a"), job("given up"), job("c"), job("d")]
    batch = Batch(tuple(jobs), 1, 5.0)
    lay_out(batch, folder)
    names = [batch.programs[one.module] for one in jobs]
    lost = f"{names[1]}"
    subprocess.run(["sh", folder / "measure.sh", "2", lost], check=True, capture_output=True)
    again = subprocess.run(["sh", folder / "measure.sh", "2", lost], check=True, capture_output=True, text=True)
    assert [line.split()[0] for line in again.stdout.splitlines()] == ["3", "4"]
    assert [found.key for found in batch.results(again.stdout.splitlines(), 2) if found] == ["c", "d"]
    third = subprocess.run(["sh", folder / "measure.sh", "3", lost], check=True, capture_output=True, text=True)
    assert [line.split()[0] for line in third.stdout.splitlines()] == ["4"]


def test_what_an_earlier_script_runs_is_ended(machine: Path, here: Path, job: MakeJob) -> None:
    """Its user has gone, and it waits for a program that takes long."""
    for name, script in (("first", f"echo $$ > {here}/program; sleep 60"), ("second", "")):
        (machine / name).mkdir()
        lay_out(Batch((job(name, script),), 1, 90.0), machine / name)
    with subprocess.Popen(["sh", machine / "first" / "measure.sh"], stdout=subprocess.DEVNULL) as first:
        while not (here / "program").exists() or not (here / "program").read_text():
            time.sleep(0.05)
        subprocess.run(["sh", machine / "second" / "measure.sh"], check=True, capture_output=True)
        assert first.wait(10) == -9
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(int((here / "program").read_text())).status() == psutil.STATUS_ZOMBIE


def test_clocks_that_rise_are_not_waited_for(machine: Path, here: Path, sys_folder: Path, job: MakeJob) -> None:
    clocks = sys_folder / f"devices/system/cpu/cpu{min(os.sched_getaffinity(0))}/cpufreq/scaling_max_freq"
    begin = time.monotonic()
    results = list(runner(machine).run([[job("raises", f"echo 3000000 > {clocks}"), job("b"), job("c")]]))
    assert len(results) == 3
    assert time.monotonic() - begin < 10


def test_cores_are_counted_once_and_only_if_they_are_on(
    machine: Path, here: Path, sys_folder: Path, job: MakeJob
) -> None:
    """The fastest is off; the others are two threads of one core."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("this process may use one CPU")
    cpus = sys_folder / "devices/system/cpu"
    for cpu in allowed[:2]:
        (cpus / f"cpu{cpu}" / "topology").mkdir()
        (cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(f"{allowed[0]},{allowed[1]}\n")
    told = job("a", f'echo "$@" > {here}/options')
    list(runner(machine).run([[told]]))
    assert f"--cpu_mask={1 << allowed[0]:x}" in (here / "options").read_text().split()
    two = RemoteRunner(RemoteShell(("sh", "-c")), str(machine), threads=len(allowed), deadline_s=5.0)
    with pytest.raises(RunnerError, match=rf"cores to measure on, and {len(allowed)} threads were asked for"):
        list(two.run([[told]]))
    for cpu in allowed:
        (cpus / f"cpu{cpu}" / "online").write_text("0\n")
    with pytest.raises(RunnerError, match="there are 0 cores to measure on, and 1 threads were asked for"):
        list(runner(machine).run([[told]]))


def test_a_disk_where_nothing_can_be_executed_is_told(machine: Path, here: Path, job: MakeJob) -> None:
    """As a stick is often mounted."""
    (here / "bin").mkdir()
    (here / "bin" / "chmod").write_text("#!/bin/sh\n")
    (here / "bin" / "chmod").chmod(0o755)
    words = link(
        here,
        f"""find {machine} -path '*/programs/*' -exec /bin/chmod -x {{}} + 2>/dev/null
PATH={here}/bin:$PATH sh -c "$1" """,
    )
    with pytest.raises(
        RunnerError, match=r"cannot measure: .*nothing in .* can be executed; copy the folder to a disk"
    ):
        list(runner(machine, words).run([[job("a")]]))
