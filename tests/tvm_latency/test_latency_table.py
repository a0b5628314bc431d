import json
from dataclasses import replace
from math import hypot
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_latency.latency_table import (
    Entry,
    LatencyTable,
    LatencyTableError,
    MissingLatencyError,
)
from tvm_latency.opspec import OpSpec
from tvm_latency.overflow import Overflow

POOL = OpSpec(kind="pool", height=7, width=7, in_channels=64, out_channels=64)
LINEAR = OpSpec(kind="linear", height=1, width=1, in_channels=64, out_channels=10)

seconds = st.floats(min_value=1e-9, max_value=10.0)
spreads = st.floats(min_value=0.0, max_value=1.0)
entries = st.builds(Entry, seconds, spreads, st.sampled_from(["measured", "predicted"]), seconds)
tables = st.builds(
    LatencyTable,
    target_name=st.text(max_size=5),
    fingerprint=st.text(max_size=5),
    entries=st.dictionaries(st.text(max_size=9), entries, max_size=4),
    spread=spreads,
    overflow=st.builds(Overflow, spreads, spreads, spreads, spreads),
)


def table(**entries: Entry) -> LatencyTable:
    return LatencyTable(
        target_name="x86",
        fingerprint="a cpu",
        entries={POOL.key: Entry(2e-5, 1e-6, "measured", 1e-5), **entries},
        spread=0.03,
    )


PREDICTED = Entry(7e-5, 3.5e-6, "predicted", 8e-5)


def test_a_network_is_the_sum_of_what_its_operators_add() -> None:
    # Roundings of one sum of three terms.
    assert table().network_seconds([POOL, POOL, POOL]) == pytest.approx(3e-5, rel=4 * 2**-52)


def test_the_spread_of_a_network_joins_that_of_networks_and_of_what_was_predicted() -> None:
    found = table(**{LINEAR.key: PREDICTED}).network([POOL, LINEAR])
    assert found.mean_s == pytest.approx(9e-5)
    assert found.spread_s == pytest.approx(hypot(0.03 * 9e-5, 4e-6))


def test_a_network_of_more_weights_than_the_space_takes_longer_than_its_operators() -> None:
    above = 1.5 * LINEAR.weight_bytes
    heavy = replace(table(**{LINEAR.key: PREDICTED}), overflow=Overflow(above, 4e-9, 3e-9, share=0.02))
    assert heavy.network_seconds([POOL, LINEAR]) == pytest.approx(9e-5)
    found, excess = heavy.network([LINEAR, LINEAR]), 0.5 * LINEAR.weight_bytes
    assert heavy.overflow_seconds([LINEAR, LINEAR]) == pytest.approx(0.02 * 16e-5 + excess * 4e-9)
    assert found.mean_s == heavy.network_seconds([LINEAR, LINEAR]) == pytest.approx(1.02 * 16e-5 + excess * 4e-9)
    assert found.spread_s == pytest.approx(hypot(0.03 * found.mean_s, 4e-6, 4e-6, excess * 3e-9, 0.02 * 16e-5))


def test_an_absent_operator_is_a_sentence_and_no_number() -> None:
    with pytest.raises(MissingLatencyError, match=r"No latency of linear-n1-.* on x86.* calibrate this one"):
        table().entry(LINEAR)
    with pytest.raises(MissingLatencyError, match="No latency of linear"):
        table().network_seconds([POOL, LINEAR])


def test_completing_predicts_what_is_absent_and_keeps_what_was_measured() -> None:
    completed = table().completed([POOL, LINEAR, LINEAR], lambda op: PREDICTED)
    assert completed.entries[LINEAR.key] == PREDICTED
    assert completed.entries[POOL.key] == table().entries[POOL.key]
    assert completed.spread == table().spread


@given(saved=tables)
def test_saved_and_loaded_tables_are_equal(tmp_path_factory: pytest.TempPathFactory, saved: LatencyTable) -> None:
    path = tmp_path_factory.mktemp("table") / "table.json"
    saved.save(path)
    assert LatencyTable.load(path) == saved
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "netlathe-latency-table/0"}, "format: Input should be 'netlathe-latency-table/4'"),
        (
            {"entries": {"a": {"seconds": 0.0, "spread_s": 0.0, "source": "measured", "network_s": 1.0}}},
            "entries.a.seconds: .*greater than 0",
        ),
        (
            {"entries": {"a": {"seconds": 1.0, "spread_s": 0.0, "source": "guessed", "network_s": 1.0}}},
            "entries.a.source: .*'measured'",
        ),
        ({"spread": -1.0}, "spread: .*greater than or equal to 0"),
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
