"""Spaces of one's own: read from a TOML file, checked at the edge (docs/spaces.md). No torch."""

from __future__ import annotations

import math
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from supernet.architecture import Architecture, ArchitectureError
from supernet.named import named_architecture
from supernet.presets import PRESETS, preset
from supernet.space import SearchSpace, SpaceError, Stage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

SUFFIX = ".toml"
DOCUMENT = "docs/spaces.md"

# A calibration lies in a folder of that name; `@0.5` and `-r48` at the end are what `SearchSpace.for_task` adds.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_FOR_TASK = re.compile(r".*-r\d+")


def load_space(path: Path) -> SearchSpace:
    """The space that a TOML file describes; docs/spaces.md has the format.

    Raises:
        SpaceError: there is no such file, it is not TOML, or it describes no space. The message names file and key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        close = get_close_matches(path.name, [other.name for other in path.parent.glob(f"*{SUFFIX}")], n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(str(path.with_name(name)) for name in close)}?" if close else ""
        raise SpaceError(f"There is no file {path}.{hint} {DOCUMENT} shows how to write a space.") from error
    except OSError as error:
        raise SpaceError(f"{path} cannot be read ({error.strerror}). Name a file that ends with {SUFFIX}.") from error
    except ValueError as error:
        raise SpaceError(
            f"{path} is not TOML: {error}. Correct it there; {DOCUMENT} has a complete example."
        ) from error
    try:
        described = _Space(**{"name": path.name.removesuffix(SUFFIX), **content})
    except ValidationError as error:
        raise SpaceError(" ".join(_explain(path, dict(problem)) for problem in error.errors())) from error
    try:
        return described.space()
    except SpaceError as error:
        raise SpaceError(f"{path}: {error}") from error


def find_space(text: str) -> SearchSpace:
    """A space by the name of a preset, or by the path of a TOML file.

    Raises:
        SpaceError: neither; the message has close matches. Or the file describes no space.
    """
    if text.endswith(SUFFIX):
        return load_space(Path(text))
    try:
        return preset(text)
    except SpaceError as error:
        file = Path(f"{text}{SUFFIX}")
        hint = f"Did you mean {file}?" if file.exists() else f"A space of your own is a {SUFFIX} file ({DOCUMENT})."
        raise SpaceError(f"{error} {hint}") from error


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise SpaceError(f"a kernel must be odd, as 3, 5 and 7 are, got {kernel}")
    return kernel


def _distinct(values: list[int]) -> list[int]:
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise SpaceError(f"{twice[0]} stands there twice, and every candidate may be there once; remove one")
    return values


def _own_name(name: str) -> str:
    if name in PRESETS:
        raise SpaceError(
            f"{name!r} is a preset, whose calibrations would be taken for those of this space; choose another"
        )
    if not _NAME.fullmatch(name) or _FOR_TASK.fullmatch(name):
        raise SpaceError(
            f"{name!r} cannot name a calibration; use letters, digits, `_`, `.` and `-`, without `-r` and a number at "
            "the end"
        )
    return name


_Count = Annotated[int, Field(ge=1, le=2**16)]
_Kernels = Annotated[list[Annotated[_Count, AfterValidator(_odd)]], Field(min_length=1), AfterValidator(_distinct)]
_Expands = Annotated[list[_Count], Field(min_length=1), AfterValidator(_distinct)]


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Channels(_Table):
    channels: _Count


class _Stem(_Table):
    channels: _Count
    stride: _Count


class _Stage(_Table):
    channels: _Count
    blocks: Annotated[int, Field(ge=1, le=256)]
    stride: _Count
    kernels: _Kernels | None = None
    expands: _Expands | None = None

    def stage(self) -> Stage:
        kernels, expands = (None if values is None else tuple(values) for values in (self.kernels, self.expands))
        return Stage(self.channels, self.blocks, self.stride, kernels, expands)


class _Space(_Table):
    """The file; its keys are the fields."""

    name: Annotated[str, AfterValidator(_own_name)]
    resolution: _Count
    classes: Annotated[int, Field(ge=2, le=2**24)]
    kernels: _Kernels
    expands: _Expands
    skip: bool = True
    baseline: str
    stem: _Stem
    first: _Channels
    head: _Channels
    stages: Annotated[list[_Stage], Field(min_length=1, max_length=64)]

    def space(self) -> SearchSpace:
        """What the file describes.

        Raises:
            SpaceError: the baseline is none for these images and classes, or the strides leave nothing of an image.
        """
        return SearchSpace(
            name=self.name,
            resolution=self.resolution,
            classes=self.classes,
            stem_channels=self.stem.channels,
            stem_stride=self.stem.stride,
            first_channels=self.first.channels,
            stages=tuple(stage.stage() for stage in self.stages),
            head_channels=self.head.channels,
            baseline=self._baseline(),
            kernels=tuple(self.kernels),
            expands=tuple(self.expands),
            skip=self.skip,
        )

    def _baseline(self) -> Architecture:
        # The text of an architecture has blanks, a name has none.
        is_text = " " in self.baseline.strip()
        try:
            network = Architecture.from_text(self.baseline) if is_text else named_architecture(self.baseline)
        except ArchitectureError as error:
            raise SpaceError(f"`baseline`: {error}") from error
        if not is_text:
            total_stride = self.stem.stride * math.prod(stage.stride for stage in self.stages)
            return network.with_classes(self.classes).for_images(self.resolution, total_stride)
        if (network.resolution, network.classes) != (self.resolution, self.classes):
            raise SpaceError(
                f"`baseline` is for {network.resolution} pixels and {network.classes} classes, the space for "
                f"{self.resolution} and {self.classes}. Begin it with `r{self.resolution}` and end it with "
                f"`n{self.classes}`, or give a name such as `mobilenet_v2`, which is suited to the space."
            )
        return network


# What a table is, by the first part of a key; the file itself is what is left.
_TABLES: dict[str, type[_Table]] = {"stem": _Stem, "first": _Channels, "head": _Channels, "stages": _Stage}


def _explain(path: Path, problem: dict[str, Any]) -> str:
    """One problem that Pydantic found, as a sentence."""
    *place, last = problem["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    if problem["type"] == "extra_forbidden":
        known = (_TABLES[place[0]] if place else _Space).model_fields
        close = get_close_matches(str(last), known, n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        return f"{path}: unknown key `{key}`.{hint} Known there: {', '.join(known)}."
    if problem["type"] == "missing":
        return f"{path}: the key `{key}` is missing. Add it; {DOCUMENT} has a complete example."
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, SpaceError):
        return f"{path}: `{key}`: {cause}."
    if problem["type"] == "model_type":
        fields = ", ".join(_TABLES[key.partition("[")[0]].model_fields)
        return f"{path}: `{key}` must be a table with {fields}, got {problem['input']!r}."
    return f"{path}: `{key}` cannot be {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}."
