"""OpSpec: shapes, counts and the key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_latency.opspec import OpSpec, stored_as


def mbconv(**changes: object) -> OpSpec:
    return OpSpec(
        **{"kind": "mbconv", "height": 56, "width": 56, "in_channels": 24, "out_channels": 32, "kernel": 5, **changes}
    )


SPECS = st.builds(
    OpSpec,
    kind=st.sampled_from(["conv", "mbconv"]),
    height=st.integers(1, 64),
    width=st.integers(1, 64),
    in_channels=st.integers(1, 64),
    out_channels=st.integers(1, 64),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 2),
    expand=st.sampled_from([1, 3, 6]),
    batch=st.integers(1, 4),
)


def test_the_key_says_everything() -> None:
    assert mbconv(stride=2, expand=6).key == "mbconv-n1-h56w56-i24-o32-k5-s2-e6-float32"


@given(SPECS, SPECS)
def test_equal_keys_are_equal_operators(a: OpSpec, b: OpSpec) -> None:
    assert (a.key == b.key) == (a == b)


def test_counts_of_an_mbconv_by_hand() -> None:
    """28x28 out: expand on 56x56, the rest on the output; two batch-norm parameters for each channel."""
    op = mbconv(stride=2, expand=3)
    assert op.macs == 56 * 56 * 24 * 72 + 28 * 28 * 25 * 72 + 28 * 28 * 72 * 32
    assert op.flops == 2 * op.macs
    assert op.params == (24 * 72 + 2 * 72) + (25 * 72 + 2 * 72) + (72 * 32 + 2 * 32)
    assert op.weight_bytes == 4 * ((24 * 72 + 72) + (25 * 72 + 72) + (72 * 32 + 32))
    assert op.activation_bytes == 4 * (56 * 56 * 24 + 56 * 56 * 72 + 28 * 28 * 72 + 28 * 28 * 32)


def test_an_expansion_of_one_has_no_expand_layer() -> None:
    op = mbconv(expand=1)
    assert op.macs == 56 * 56 * (25 * 24 + 24 * 32)
    assert op.params == (25 * 24 + 2 * 24) + (24 * 32 + 2 * 32)


def test_hidden_channels_that_are_no_multiple() -> None:
    op = mbconv(hidden=100)
    assert op.key == "mbconv-n1-h56w56-i24-o32-k5-s1-h100-float32"
    assert (op.hidden_channels, op.expands) == (100, True)
    assert op.macs == 56 * 56 * (24 * 100 + 25 * 100 + 100 * 32)
    same, by_expansion = mbconv(hidden=72), mbconv(expand=3)
    for count in ("macs", "params", "weight_bytes", "activation_bytes"):
        assert getattr(same, count) == getattr(by_expansion, count)


def test_counts_of_a_depthwise_convolution_alone() -> None:
    op = mbconv(kind="depthwise", out_channels=24, stride=2)
    assert (op.macs, op.params) == (28 * 28 * 25 * 24, 25 * 24 + 48)
    assert op.weight_bytes == 4 * (25 * 24 + 24)
    assert op.activation_bytes == 4 * 24 * (56 * 56 + 28 * 28)


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "depthwise"}, {"hidden": -1}, {"hidden": 8, "expand": 3}, {"kind": "conv", "hidden": 8}],
)
def test_channels_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="channels"):
        mbconv(**wrong)


def test_counts_of_the_fixed_layers() -> None:
    stem = OpSpec(kind="conv", height=224, width=224, in_channels=3, out_channels=32, kernel=3, stride=2)
    pool = OpSpec(kind="pool", height=7, width=7, in_channels=1280, out_channels=1280)
    linear = OpSpec(kind="linear", height=1, width=1, in_channels=1280, out_channels=1000)
    assert (stem.macs, stem.params) == (112 * 112 * 27 * 32, 27 * 32 + 64)
    assert (pool.macs, pool.params, pool.flops, pool.out_height) == (0, 0, 49 * 1280, 1)
    assert (linear.macs, linear.params) == (1_280_000, 1_281_000)
    assert linear.weight_bytes == 4 * 1_281_000
    assert pool.weight_bytes == 0


@given(SPECS)
def test_half_weights_are_half_the_bytes_but_for_biases(op: OpSpec) -> None:
    (half,) = stored_as([op], "float16")
    hidden = op.hidden_channels * (1 + (op.expand > 1)) if op.kind == "mbconv" else 0
    assert half.weight_bytes == op.weight_bytes / 2 + 2 * (op.out_channels + hidden)
    assert (half.activation_bytes, half.macs, half.params) == (op.activation_bytes, op.macs, op.params)
    assert half.key == op.key.replace("float32", "float16")


@given(SPECS)
def test_the_output_is_the_input_divided_by_the_stride_rounded_up(op: OpSpec) -> None:
    assert (op.out_height - 1) * op.stride < op.height <= op.out_height * op.stride
    assert (op.out_width - 1) * op.stride < op.width <= op.out_width * op.stride


@given(SPECS)
def test_the_batch_multiplies_work_and_activations_but_not_weights(op: OpSpec) -> None:
    one = OpSpec(**{**vars(op), "batch": 1})
    assert op.macs == op.batch * one.macs
    assert op.activation_bytes == op.batch * one.activation_bytes
    assert (op.params, op.weight_bytes) == (one.params, one.weight_bytes)


@pytest.mark.parametrize(
    ("changes", "residual"),
    [({"out_channels": 24}, True), ({}, False), ({"out_channels": 24, "stride": 2}, False)],
)
def test_a_residual_needs_equal_shapes(changes: dict[str, object], residual: bool) -> None:
    assert mbconv(**changes).residual is residual


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 0}, "every size must be at least 1"),
        ({"kernel": 4}, "kernel size must be odd"),
        ({"dtype": "int8"}, "dtype must be one of float32, float16"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mbconv(**changes)
