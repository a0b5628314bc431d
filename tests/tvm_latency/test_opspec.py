"""OpSpec: shapes, counts and the key."""

from dataclasses import replace

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
    for count in ("macs", "params", "weight_bytes", "activation_bytes", "peak_bytes"):
        assert getattr(same, count) == getattr(by_expansion, count)


def test_counts_of_a_depthwise_convolution_alone() -> None:
    op = mbconv(kind="depthwise", out_channels=24, stride=2)
    assert (op.macs, op.params) == (28 * 28 * 25 * 24, 25 * 24 + 48)
    assert op.weight_bytes == 4 * (25 * 24 + 24)
    assert op.activation_bytes == 4 * 24 * (56 * 56 + 28 * 28)


@pytest.mark.parametrize(
    ("op", "elements"),
    [
        # Depthwise is the widest step: 144 channels at 56x56 in, at 28x28 out; the input is gone by then.
        (mbconv(stride=2, expand=6), 56 * 56 * 144 + 28 * 28 * 144),
        # The same without stride and with the input, which is added at the end.
        (mbconv(out_channels=24, expand=3), 56 * 56 * (24 + 72 + 72)),
        # 24 channels become 24, then 32: project reads and writes most, and has no residual.
        (mbconv(), 56 * 56 * (24 + 32)),
        # Input, filtered, output: the residual keeps the input over both steps.
        (mbconv(out_channels=24), 56 * 56 * (24 + 24 + 24)),
        # Expand reads 24 channels, more than the 72 that depthwise writes at a quarter of the pixels.
        (mbconv(stride=2, expand=3), 56 * 56 * (24 + 72)),
        # Hardly anything between, much at the end.
        (mbconv(hidden=2, out_channels=500), 56 * 56 * (2 + 500)),
        (mbconv(kind="depthwise", out_channels=24, stride=2), 24 * (56 * 56 + 28 * 28)),
        (mbconv(kind="conv", stride=2), 56 * 56 * 24 + 28 * 28 * 32),
        (mbconv(kind="pool", out_channels=24, kernel=1), 56 * 56 * 24 + 24),
        (OpSpec(kind="linear", height=1, width=1, in_channels=64, out_channels=10), 64 + 10),
    ],
    ids=lambda value: value.key if isinstance(value, OpSpec) else "",
)
def test_peak_bytes_by_hand(op: OpSpec, elements: int) -> None:
    assert op.peak_bytes == 4 * elements
    assert replace(op, batch=3).peak_bytes == 3 * op.peak_bytes


def simulated_peak(op: OpSpec) -> int:
    """Elements alive at once: each tensor from the step that writes it to the last that reads it."""
    image = op.height * op.width * op.in_channels
    expanded = op.height * op.width * op.hidden_channels
    filtered = op.out_height * op.out_width * op.hidden_channels
    output = op.out_height * op.out_width * op.out_channels
    if op.kind == "conv":
        return image + output
    first = 0 if op.expands else 1
    lives = [(image, 0, 2 if op.residual else first), (filtered, 1, 2), (output, 2, 2)]
    lives += [(expanded, 0, 1)] if op.expands else []
    return max(sum(size for size, start, stop in lives if start <= step <= stop) for step in range(first, 3))


@given(SPECS)
def test_the_peak_is_that_of_the_tensors_lives(op: OpSpec) -> None:
    assert op.peak_bytes == 4 * op.batch * simulated_peak(op)
    assert op.peak_bytes <= op.activation_bytes
    (half,) = stored_as([op], "float16")
    assert half.peak_bytes == op.peak_bytes


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
    assert (op.activation_bytes, op.peak_bytes) == (op.batch * one.activation_bytes, op.batch * one.peak_bytes)
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
