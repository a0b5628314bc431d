"""ChildRunner: measures through a child process, which may crash or hang without harm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from targets.child import Child, ChildEnded
from targets.runner import Answer, Failure, Form, Job, RunnerError, Timing

# Loading the runtime takes about a second; a cold disk may take far longer.
START_DEADLINE_S = 120.0


class ChildRunner:
    """Hands jobs to a Python module of ours, by lines of JSON, and takes times from it.

    A job that crashes, raises or takes longer than `deadline_s` becomes a Failure; the rest run in a new child.
    """

    form: Form = "library"
    at_once = True
    exact = False
    # Whether each pass has a process of its own.
    afresh = True
    start_deadline_s = START_DEADLINE_S

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str], deadline_s: float) -> None:
        """Children are started by `python ARGUMENTS`."""
        self._arguments, self._environ, self._deadline_s = arguments, environ, deadline_s

    def run(self, passes: Sequence[Sequence[Job]]) -> Iterator[Timing | Failure]:
        """See `Runner.run`.

        Raises:
            RunnerError: the measuring process does not start.
        """
        right, failed = set[str](), set[str]()
        child: Child | None = None
        try:
            for jobs in passes:
                for job in jobs:
                    if job.key in failed:
                        continue
                    child = child or self._start()
                    try:
                        timing = self._measure(child, job, check=job.key not in right)
                    except ChildEnded as end:
                        child.close()
                        child = None
                        failed.add(job.key)
                        yield Failure(job.key, str(end))
                    else:
                        right.add(job.key)
                        yield timing
                if child is not None and self.afresh:
                    child.close()
                    child = None
        finally:
            if child is not None:
                child.close()

    def _start(self) -> Child:
        child = Child(self._arguments, self._environ)
        try:
            child.receive(self.start_deadline_s)
        except ChildEnded as end:
            child.close()
            raise RunnerError(self.not_started(str(end))) from end
        return child

    def not_started(self, why: str) -> str:
        """A sentence for when the child does not start, and what to do."""
        return f"The measuring process did not start: {why}. Run `netlathe doctor` to check the installation."

    def _measure(self, child: Child, job: Job, *, check: bool) -> Timing:
        child.send(
            {
                "module": str(job.module.resolve()),
                "input_shapes": job.input_shapes,
                "repeats": job.repeats,
                "warmup": job.warmup,
                "evict_bytes": job.evict_bytes,
                "answer": str(job.answer.resolve()) if job.answer and check else None,
                "deadline_s": self._deadline_s,
            }
        )
        self.wait_until_loaded(child)
        found = child.receive(self._deadline_s)
        samples_s, answer = found.get("samples_s", []), found.get("answer")
        if len(samples_s) != job.repeats or not all(0 < sample < self._deadline_s for sample in samples_s):
            raise ChildEnded(f"answered what are no {job.repeats} times: {str(samples_s)[:80]}")
        return Timing(job.key, tuple(samples_s), Answer(**answer) if answer else None)

    def wait_until_loaded(self, child: Child) -> None:
        """For children that say so: what takes a while and is no fault of the job does not count against its deadline.

        Raises:
            ChildEnded: it cannot be loaded.
        """
