"""TensorBoard event files of a search: `tensorboard --logdir RUN/search/events`."""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter

from supernet import parallel
from supernet.settings import Progress


def with_events(progress: Progress, folder: Path) -> Progress:
    """`progress`, with every figure also written as a scalar of that epoch into an event file in `folder`.

    Each call writes and closes a file of its own, so that a process that is killed leaves none half written, and a
    resumed search goes on in the same curves. Names sort by epoch, as TensorBoard reads them.
    """

    if parallel.rank() > 0:
        return progress

    def call(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        with SummaryWriter(str(folder), filename_suffix=f".{stage}-{done:05}") as writer:
            for name, value in figures.items():
                writer.add_scalar(f"{stage}/{name}", value, done)
        progress(stage, done, total, figures)

    return call
