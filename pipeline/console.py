"""What a person sees: sentences, progress and tables on stderr; results, or JSON, on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

# Without a terminal a line is printed for each such share of a stage.
_SHARE = 4
# A list of more entries than this is only counted for people.
MANY = 6


def _stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(sentence: str) -> None:
    """A remark that the user should see."""
    _stderr().print(sentence, markup=False, style="yellow")


def fail(sentence: str, code: int, *, as_json: bool) -> None:
    """The one line that a command ends with when it cannot go on."""
    if as_json:
        print(json.dumps({"error": sentence, "exit_code": code}))
    else:
        _stderr().print(f"error: {sentence}", markup=False, style="red")


def show(result: Any, *, as_json: bool) -> None:
    """A result: as JSON, or as lines of `name  value`, where a long list is only counted."""
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    for name, value in result.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {_text(inner)}" for key, inner in value.items()) or "none"
        elif isinstance(value, list) and len(value) > MANY:
            value = f"{len(value)} (--json lists them)"
        result_line(f"{name:<24}{_text(value)}")


def result_line(text: str) -> None:
    """One line of a result."""
    Console(highlight=False, soft_wrap=True).print(text, markup=False)


def show_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the same keys, as a table."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    Console(highlight=False).print(table)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        return ", ".join(map(_text, value))
    return str(value)


class ProgressView:
    """Shows the progress that stages report: a bar for each stage, or lines where there is no terminal."""

    def __init__(self) -> None:
        self._console = _stderr()
        self._tasks: dict[str, TaskID] = {}
        self._quarter: dict[str, int] = {}
        columns = (
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Progress(
            *columns, TextColumn("{task.fields[figures]}"), console=self._console, disable=not self._console.is_terminal
        )

    def __call__(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        """As `supernet.settings.Progress`; a stage that has no steps reports 0 of 0 when it begins."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if not self._console.is_terminal:
            self._print(stage, done, total, text)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total or None, figures="")
        self._bars.update(self._tasks[stage], completed=done, total=total or None, figures=text)

    def _print(self, stage: str, done: int, total: int, text: str) -> None:
        quarter = _SHARE * done // total if total else 0
        if self._quarter.get(stage) != quarter:
            self._quarter[stage] = quarter
            self._console.print(f"{stage} {done}/{total}  {text}" if total else stage, markup=False)

    def __enter__(self) -> ProgressView:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
