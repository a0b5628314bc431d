import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_latency.latency_table import (
    Entry,
    LatencyTable,
    LatencyTableError,
    MissingLatencyError,
    NetworkCorrection,
    Prediction,
)
from tvm_latency.opspec import OpSpec

POOL = OpSpec(kind="pool", height=7, width=7, in_channels=64, out_channels=64)
LINEAR = OpSpec(kind="linear", height=1, width=1, in_channels=64, out_channels=10)

seconds = st.floats(min_value=1e-9, max_value=10.0)
entries = st.builds(Entry, seconds, st.floats(min_value=0.0, max_value=1.0), st.sampled_from(["measured", "predicted"]))
tables = st.builds(
    LatencyTable,
    target_name=st.text(max_size=5),
    fingerprint=st.text(max_size=5),
    entries=st.dictionaries(st.text(max_size=9), entries, max_size=4),
    correction=st.builds(NetworkCorrection, seconds, seconds),
)


def table(**entries: Entry) -> LatencyTable:
    return LatencyTable(
        target_name="x86",
        fingerprint="a cpu",
        entries={POOL.key: Entry(2e-5, 1e-6, "measured"), **entries},
        correction=NetworkCorrection(offset_s=1e-5, scale=0.5),
    )


def test_a_network_is_the_offset_and_the_scaled_sum_of_its_blocks() -> None:
    # Powers and halves: exact up to the rounding of one sum of three terms.
    assert table().network_seconds([POOL, POOL, POOL]) == pytest.approx(1e-5 + 0.5 * 6e-5, rel=4 * 2**-52)


def test_an_absent_operator_is_a_sentence_and_no_number() -> None:
    with pytest.raises(MissingLatencyError, match=r"No latency of linear-n1-.* on x86.* calibrate this one"):
        table().block_seconds(LINEAR)
    with pytest.raises(MissingLatencyError, match="No latency of linear"):
        table().network_seconds([POOL, LINEAR])


def test_completing_predicts_what_is_absent_and_keeps_what_was_measured() -> None:
    completed = table().completed([POOL, LINEAR, LINEAR], lambda op: Prediction(7e-5, 3e-6))
    assert completed.entries[LINEAR.key] == Entry(7e-5, 3e-6, "predicted")
    assert completed.entries[POOL.key] == table().entries[POOL.key]
    assert completed.correction == table().correction


@given(saved=tables)
def test_saved_and_loaded_tables_are_equal(tmp_path_factory: pytest.TempPathFactory, saved: LatencyTable) -> None:
    path = tmp_path_factory.mktemp("table") / "table.json"
    saved.save(path)
    assert LatencyTable.load(path) == saved
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "netlathe-latency-table/0"}, "format: Input should be 'netlathe-latency-table/1'"),
        (
            {"entries": {"a": {"seconds": 0.0, "spread_s": 0.0, "source": "measured"}}},
            "entries.a.seconds: .*greater than 0",
        ),
        ({"entries": {"a": {"seconds": 1.0, "spread_s": 0.0, "source": "guessed"}}}, "entries.a.source: .*'measured'"),
        ({"correction": {"offset_s": 0.0, "scale": -1.0}}, "correction.scale: .*greater than or equal to 0"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "table.json"
    table().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(LatencyTableError, match=f"not a latency table of format .*{message}.*Calibrate again"):
        LatencyTable.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(LatencyTableError, match="the file: "):
        LatencyTable.load(path)


def test_a_correction_needs_two_networks() -> None:
    with pytest.raises(LatencyTableError, match="at least two measured networks, got 1"):
        NetworkCorrection.fit([1.0], [1.0])


@pytest.mark.parametrize("unit_s", [1.0, 1e-4])
def test_the_correction_finds_the_scale_between_blocks_and_networks(unit_s: float) -> None:
    blocks_s = [unit_s * x for x in (1.0, 1.1, 1.3, 2.0)]
    correction = NetworkCorrection.fit(blocks_s, [0.8 * x for x in blocks_s])
    # least_squares stops when a step changes the cost by less than 1e-8; the cost is quadratic in the parameters.
    assert correction.scale == pytest.approx(0.8, rel=1e-4)
    assert correction.offset_s == pytest.approx(0.0, abs=1e-4 * unit_s)


def test_the_correction_finds_an_offset_that_the_data_insist_on() -> None:
    blocks_s = [1.0, 2.0, 4.0, 8.0, 16.0]
    correction = NetworkCorrection.fit(blocks_s, [0.5 + 0.9 * x for x in blocks_s])
    # The weak prior on the offset holds it back a little: less than the noise that it assumes.
    for x in blocks_s:
        assert correction(x) == pytest.approx(0.5 + 0.9 * x, rel=0.02)


def test_one_outlier_among_many_moves_the_correction_little() -> None:
    blocks_s = [1.0 + 0.1 * i for i in range(12)]
    networks_s = [0.8 * x for x in blocks_s]
    networks_s[5] *= 10
    correction = NetworkCorrection.fit(blocks_s, networks_s)
    for x in blocks_s:
        assert correction(x) == pytest.approx(0.8 * x, rel=0.02)


@given(
    pairs=st.lists(st.tuples(st.floats(1e-6, 1.0), st.floats(0.2, 3.0)), min_size=2, max_size=6),
    blocks_s=st.floats(1e-7, 2.0),
)
def test_a_corrected_latency_is_positive_and_grows_with_its_blocks(
    pairs: list[tuple[float, float]], blocks_s: float
) -> None:
    correction = NetworkCorrection.fit([x for x, _ in pairs], [x * ratio for x, ratio in pairs])
    assert 0 < correction(blocks_s) <= correction(2 * blocks_s)
