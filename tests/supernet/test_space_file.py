from __future__ import annotations

import re
from math import prod
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supernet.architecture import SKIP, Choice
from supernet.named import mobilenet_v2
from supernet.presets import CIFAR
from supernet.space import SearchSpace, SpaceError, Stage
from supernet.space_file import find_space, load_space

DOCUMENT = Path(__file__).parents[2] / "docs" / "spaces.md"

# Lines of a small space; a test changes the one it is about.
LINES = {
    "resolution": "16",
    "classes": "3",
    "kernels": "[3, 5]",
    "expands": "[2]",
    "baseline": '"mobilenet_v2@0.5"',
    "stem": "{channels = 8, stride = 1}",
    "first": "{channels = 8}",
    "head": "{channels = 16}",
    "stages": "[{channels = 8, blocks = 1, stride = 1}, {channels = 16, blocks = 2, stride = 2}]",
}


def toml(**changes: str | None) -> str:
    lines = {**LINES, **changes}
    return "\n".join(f"{key} = {value}" for key, value in lines.items() if value is not None)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str, name: str = "mine.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_documents_examples_print_what_it_says(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = DOCUMENT.read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    write(example, "leaves.toml")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
        assert capsys.readouterr().out == "".join(re.findall(r"^# (.*\n)", code, re.MULTILINE))
    assert names["small"].max_activation_bytes == 120_000


def test_a_space_from_a_file(write: Any) -> None:
    space = load_space(write(toml()))
    assert space == SearchSpace(
        name="mine",
        resolution=16,
        classes=3,
        stem_channels=8,
        stem_stride=1,
        first_channels=8,
        stages=(Stage(8, 1, 1), Stage(16, 2, 2)),
        head_channels=16,
        kernels=(3, 5),
        expands=(2,),
        baseline=mobilenet_v2(0.5, resolution=16, classes=3, stem_stride=1, strides=(1, 1, 1, 1, 1, 2, 1)),
    )
    assert space.blocks[0].candidates == (Choice(3, 2), Choice(5, 2), SKIP)


def test_the_paper_s_space_on_small_images_as_a_file(write: Any) -> None:
    """The preset has the strides of its baseline by hand; a file gets the same ones."""
    stages = ", ".join(
        f"{{channels = {s.out_channels}, blocks = {s.blocks}, stride = {s.stride}}}" for s in CIFAR.stages
    )
    path = write(
        toml(
            resolution="32",
            classes="10",
            kernels="[3, 5, 7]",
            expands="[3, 6]",
            baseline='"mobilenet_v2"',
            stem="{channels = 32, stride = 1}",
            first="{channels = 16}",
            head="{channels = 1280}",
            stages=f"[{stages}]",
        )
    )
    assert load_space(path) == SearchSpace(**{**vars(CIFAR), "name": "mine"})


def test_everything_that_may_be_left_out(write: Any) -> None:
    baseline = "r16 c8s2 8k3e1 16k3e2s2 h16 n3"
    first = "{channels = 8, blocks = 2, stride = 2, kernels = [7], expands = [1, 4]}"
    stages = f"[{first}, {{channels = 8, blocks = 1, stride = 1}}]"
    space = load_space(write(toml(name='"own_1.x"', skip="false", baseline=f'"{baseline}"', stages=stages)))
    assert space.name == "own_1.x"
    assert space.baseline.text == baseline
    own = (Choice(7, 1), Choice(7, 4))
    assert [block.candidates for block in space.blocks] == [own, own, (Choice(3, 2), Choice(5, 2))]


COUNTS = st.integers(1, 40)
KERNELS = st.lists(st.sampled_from([1, 3, 5, 7, 9]), min_size=1, max_size=4, unique=True)
EXPANDS = st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True)


@st.composite
def descriptions(draw: st.DrawFn) -> dict[str, Any]:
    stage = st.fixed_dictionaries(
        {"channels": st.sampled_from([8, 12, 16]), "blocks": st.integers(1, 3), "stride": st.integers(1, 3)},
        optional={"kernels": KERNELS, "expands": EXPANDS},
    )
    stages, stem = (
        draw(st.lists(stage, min_size=1, max_size=4)),
        {"channels": draw(COUNTS), "stride": draw(st.integers(1, 2))},
    )
    least = stem["stride"] * prod(stage["stride"] for stage in stages)
    return {
        "resolution": draw(st.integers(least, least + 64)),
        "classes": draw(st.integers(2, 1000)),
        "kernels": draw(KERNELS),
        "expands": draw(EXPANDS),
        "skip": draw(st.booleans()),
        "baseline": draw(st.sampled_from(["mobilenet_v2", "mobilenet_v2@0.35", "proxyless_gpu"])),
        "stem": stem,
        "first": {"channels": draw(st.sampled_from([8, 12]))},
        "head": {"channels": draw(COUNTS)},
        "stages": stages,
    }


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(described=descriptions(), seed=st.integers(0, 2**32))
def test_any_valid_file_is_a_space(write: Any, described: dict[str, Any], seed: int) -> None:
    space = load_space(write("\n".join(f"{key} = {as_toml(value)}" for key, value in described.items())))
    sizes, channels = [], described["first"]["channels"]
    for stage in described["stages"]:
        choices = len(stage.get("kernels", described["kernels"])) * len(stage.get("expands", described["expands"]))
        for i in range(stage["blocks"]):
            keeps = channels == stage["channels"] and (i > 0 or stage["stride"] == 1)
            sizes.append(choices + (keeps and described["skip"]))
            channels = stage["channels"]
    assert space.size == prod(sizes)
    arch = space.random_architecture(Random(seed))
    assert set(arch.op_specs()) <= set(space.op_specs())
    assert (arch.resolution, arch.classes) == (described["resolution"], described["classes"])
    assert (space.baseline.resolution, space.baseline.classes) == (arch.resolution, arch.classes)
    assert space.baseline.total_stride <= space.total_stride <= space.resolution


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": "[3]"}, r"unknown key `kernel`. Did you mean kernels\? Known there: name, resolution, classes"),
        ({"zzz": "1"}, r"unknown key `zzz`. Known there: name, resolution"),
        (
            {"stem": "{channels = 8, strid = 1}"},
            r"unknown key `stem.strid`. Did you mean stride\? Known .*: channels, stride.",
        ),
        (
            {"stages": "[{channels = 8, blocks = 1, stride = 1, expand = [3]}]"},
            r"unknown key `stages\[0\].expand`. Did you mean expands\? Known there: channels, blocks, stride, kernels",
        ),
        ({"head": None}, "the key `head` is missing. Add it; docs/spaces.md has a complete example"),
        ({"stem": "{channels = 8}"}, "the key `stem.stride` is missing"),
        ({"resolution": '"16"'}, "`resolution` cannot be '16': input should be a valid integer"),
        ({"resolution": "16.0"}, "`resolution` cannot be 16.0: input should be a valid integer"),
        ({"classes": "true"}, "`classes` cannot be True: input should be a valid integer"),
        ({"classes": "1"}, "`classes` cannot be 1: input should be greater than or equal to 2"),
        ({"skip": "1"}, "`skip` cannot be 1: input should be a valid boolean"),
        ({"kernels": "3"}, "`kernels` cannot be 3: input should be a valid list"),
        ({"kernels": "[]"}, r"`kernels` cannot be \[\]: list should have at least 1 item"),
        ({"head": "16"}, "`head` must be a table with channels, got 16"),
        ({"stages": "[7]"}, r"`stages\[0\]` must be a table with channels, blocks, stride, kernels, expands, got 7"),
        ({"kernels": "[3, 4]"}, r"`kernels\[1\]`: a kernel must be odd, as 3, 5 and 7 are, got 4."),
        ({"kernels": "[-3]"}, r"`kernels\[0\]` cannot be -3: input should be greater than or equal to 1"),
        (
            {"kernels": "[3, 5, 3]"},
            "`kernels`: 3 stands there twice, and every candidate may be there once; remove one",
        ),
        ({"expands": "[6, 6]"}, "`expands`: 6 stands there twice"),
        (
            {"stages": "[{channels = 8, blocks = 1, stride = 1, kernels = [5, 5]}]"},
            r"`stages\[0\].kernels`: 5 stands there twice",
        ),
        ({"expands": "[0]"}, r"`expands\[0\]` cannot be 0"),
        (
            {"stages": "[{channels = 8, blocks = 1, stride = 32}]"},
            "The strides of the space mine multiply to 32, more than its resolution of 16 pixels: nothing would be "
            "left of an image. Take 32 pixels or more, or smaller strides in stem and stages",
        ),
        ({"baseline": '"mobilnet_v2"'}, "`baseline`: Unknown network 'mobilnet_v2'. Did you mean mobilenet_v2"),
        ({"baseline": '"mobilenet_v2@9"'}, "`baseline`: In 'mobilenet_v2@9', '9' is not a width multiplier"),
        ({"baseline": '"r16 c8 n3"'}, "`baseline`: 'r16 c8 n3' is not an architecture. The form is"),
        (
            {"baseline": '"r32 c8s1 8k3e1 h8 n3"'},
            "`baseline` is for 32 pixels and 3 classes, the space for 16 and 3. Begin it with `r16` and end it with "
            "`n3`, or give a name such as",
        ),
        (
            {"baseline": '"r16 c8s1 8k3e1 h8 n10"'},
            "`baseline` is for 16 pixels and 10 classes, the space for 16 and 3.",
        ),
        ({"baseline": '"r16 c8s4 8k3e1s8 h8 n3"'}, "The strides of the baseline of space mine multiply to 32"),
        ({"name": '"cifar"'}, "`name`: 'cifar' is a preset, whose calibrations would be .*; choose another."),
        ({"name": '"cifar@0.5"'}, "`name`: 'cifar@0.5' cannot name a calibration; use letters, digits"),
        (
            {"name": '"mine-r48"'},
            "`name`: 'mine-r48' cannot name a calibration; .* without `-r` and a number at the end.",
        ),
        ({"name": '"../mine"'}, r"`name`: '../mine' cannot name a calibration"),
        ({"name": '""'}, "`name`: '' cannot name a calibration"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(write: Any, changes: dict[str, str | None], message: str) -> None:
    path = write(toml(**changes))
    with pytest.raises(SpaceError, match=f"{re.escape(str(path))}: {message}"):
        load_space(path)


def test_every_mistake_is_named_at_once(write: Any) -> None:
    with pytest.raises(SpaceError, match=r"`resolution` cannot be 0.*`classes` cannot be 0.*unknown key `zzz`"):
        load_space(write(toml(resolution="0", classes="0", zzz="1")))


def test_a_file_named_as_a_preset(write: Any) -> None:
    with pytest.raises(SpaceError, match=r"digits.toml: `name`: 'digits' is a preset"):
        load_space(write(toml(), "digits.toml"))
    assert load_space(write(toml(name='"mine"'), "digits.toml")).name == "mine"


def test_text_that_is_no_toml(write: Any) -> None:
    with pytest.raises(SpaceError, match=r"mine.toml is not TOML: .* docs/spaces.md has a complete example"):
        load_space(write("name = "))
    path = write("")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SpaceError, match=r"mine.toml is not TOML: .*can't decode"):
        load_space(path)


def test_files_that_cannot_be_read(write: Any, tmp_path: Path) -> None:
    path = write(toml())
    with pytest.raises(SpaceError, match=rf"There is no file .*mien.toml. Did you mean {re.escape(str(path))}\? docs/"):
        load_space(tmp_path / "mien.toml")
    with pytest.raises(
        SpaceError, match=r"There is no file .*zzzzzzzz.toml. docs/spaces.md shows how to write a space."
    ):
        load_space(tmp_path / "zzzzzzzz.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(SpaceError, match=r"folder.toml cannot be read \(Is a directory\). Name a file that ends with"):
        load_space(tmp_path / "folder.toml")


def test_find_space(write: Any) -> None:
    path = write(toml())
    assert find_space("cifar") is CIFAR
    assert find_space(str(path)) == load_space(path)
    with pytest.raises(
        SpaceError, match=r"Unknown space 'cifr'. Did you mean cifar\? Known: .* is a .toml file \(docs/"
    ):
        find_space("cifr")
    with pytest.raises(SpaceError, match=rf"Unknown space .*Did you mean {re.escape(str(path))}\?"):
        find_space(str(path.with_suffix("")))
