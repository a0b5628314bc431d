import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_latency.latency_table import (
    NOISE,
    Entry,
    LatencyTable,
    LatencyTableError,
    MissingLatencyError,
    NetworkCorrection,
    Prediction,
)
from tvm_latency.opspec import OpSpec

POOL = OpSpec(kind="pool", height=7, width=7, in_channels=64, out_channels=64)
BLOCK = OpSpec(kind="mbconv", height=7, width=7, in_channels=64, out_channels=64, kernel=3, expand=6)
LINEAR = OpSpec(kind="linear", height=1, width=1, in_channels=64, out_channels=10)

seconds = st.floats(min_value=1e-9, max_value=10.0)
entries = st.builds(Entry, seconds, st.floats(min_value=0.0, max_value=1.0), st.sampled_from(["measured", "predicted"]))
tables = st.builds(
    LatencyTable,
    target_name=st.text(max_size=5),
    fingerprint=st.text(max_size=5),
    entries=st.dictionaries(st.text(max_size=9), entries, max_size=4),
    correction=st.builds(NetworkCorrection, seconds, seconds, seconds),
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


def test_a_block_is_counted_without_what_it_pays_alone() -> None:
    alone = replace(table(), correction=NetworkCorrection(offset_s=1e-5, scale=0.5, alone_s=4e-6))
    # Roundings of three sums.
    assert alone.block_seconds(POOL) == pytest.approx(1.6e-5, rel=4 * 2**-52)
    assert alone.network_seconds([POOL, POOL]) == pytest.approx(1e-5 + 0.5 * 3.2e-5, rel=4 * 2**-52)


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


def net(unit_s: float, *scales: float) -> list[tuple[OpSpec, float]]:
    """A network of pools and blocks; one unit of seconds for each scale."""
    return [(BLOCK if i % 2 else POOL, unit_s * scale) for i, scale in enumerate(scales)]


NETS = [
    (1, 3, 2, 4),
    (1, 5, 2, 6, 1, 3),
    (2, 3),
    (1, 4, 1, 4, 1, 4, 1, 4),
    (1, 2, 3, 8),
    (2, 9, 1, 5),
    (1, 3, 1, 3, 1, 3),
]


def test_a_correction_needs_two_networks() -> None:
    with pytest.raises(LatencyTableError, match="at least two measured networks, got 1"):
        NetworkCorrection.fit([net(1.0, 1.0)], [1.0])


def test_networks_that_are_the_sum_of_their_blocks_need_no_correction() -> None:
    nets = [net(1e-5, *scales) for scales in NETS]
    correction = NetworkCorrection.fit(nets, [sum(s for _, s in blocks) for blocks in nets])
    # least_squares stops when a step changes the cost by less than 1e-8 of it; the bounds keep it inside, not on them.
    assert correction.scale == pytest.approx(1.0, abs=0.01)
    assert correction.alone_s == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("unit_s", [1.0, 1e-6])
@pytest.mark.parametrize(
    "truth", [NetworkCorrection(0.0, 0.8), NetworkCorrection(0.5, 0.9), NetworkCorrection(0.0, 1.0, 0.3)], ids=str
)
def test_the_correction_predicts_networks_that_follow_it(truth: NetworkCorrection, unit_s: float) -> None:
    truth = NetworkCorrection(truth.offset_s * unit_s, truth.scale, truth.alone_s * unit_s)
    nets = [net(unit_s, *scales) for scales in NETS]
    correction = NetworkCorrection.fit(nets[:-1], [truth.network(blocks) for blocks in nets[:-1]])
    # The weak priors hold it back by less than twice the noise that they assume.
    for blocks in nets:
        assert correction.network(blocks) == pytest.approx(truth.network(blocks), rel=2 * NOISE)


def test_one_outlier_among_many_moves_the_correction_little() -> None:
    nets = [net(1e-5, *scales) for scales in NETS * 2]
    measured_s = [0.8 * sum(s for _, s in blocks) for blocks in nets]
    honest = NetworkCorrection.fit(nets, measured_s)
    measured_s[5] *= 10
    correction = NetworkCorrection.fit(nets, measured_s)
    for blocks in nets:
        assert correction.network(blocks) == pytest.approx(honest.network(blocks), rel=2 * NOISE)


def test_running_alone_costs_each_kernel_but_never_more_than_half() -> None:
    correction = NetworkCorrection(alone_s=1.0)
    assert correction.block(BLOCK, 10.0) == 7.0
    assert correction.block(POOL, 10.0) == 9.0
    assert correction.block(BLOCK, 4.0) == 2.0


@given(
    pairs=st.lists(st.tuples(st.floats(1e-6, 1.0), st.floats(0.2, 3.0)), min_size=2, max_size=6),
    blocks_s=st.floats(1e-7, 2.0),
)
def test_a_corrected_latency_is_positive_and_grows_with_its_blocks(
    pairs: list[tuple[float, float]], blocks_s: float
) -> None:
    correction = NetworkCorrection.fit([[(BLOCK, x)] for x, _ in pairs], [x * ratio for x, ratio in pairs])
    assert 0 < correction.network([(BLOCK, blocks_s)]) <= correction.network([(BLOCK, 2 * blocks_s)])
