import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from supernet.named import NAMED
from supernet.presets import DIGITS, IMAGENET
from targets.target import Target
from tvm_latency.accuracy import Scores
from tvm_latency.correction import NetworkCorrection
from tvm_latency.cost_model import MIN_OPS, CostModel, CostModelError
from tvm_latency.opspec import OpSpec

TARGET = Target(
    name="test",
    kind="x86",
    mtriple="x86_64-linux-gnu",
    mcpu="x86-64-v4",
    vector_bits=512,
    vector_registers=32,
    l1d_bytes=32 * 1024,
    l2_bytes=1024 * 1024,
    l3_bytes=32 * 1024 * 1024,
    cores=2,
    cpu_model="a test",
)


def machine_seconds(op: OpSpec) -> float:
    """A machine that is not the model's: the slower of memory and arithmetic, and vectors that are not filled."""
    if op.kind == "mbconv":
        waste = 1.0 + 0.5 * (op.out_channels % 16 > 0)
        arithmetic = waste * op.macs / 64e9 * (1.3 if op.kernel == 7 else 1.0)
    else:
        arithmetic = op.flops / 100e9
    return 3e-6 + max(arithmetic, (op.weight_bytes + op.activation_bytes) / 20e9)


def fitted(seed: int = 0, ops: tuple[OpSpec, ...] = IMAGENET.op_specs()) -> CostModel:
    return CostModel.fit(ops, [machine_seconds(op) for op in ops], TARGET, seed)


@pytest.fixture(scope="module")
def model() -> CostModel:
    return fitted()


def test_held_out_blocks_are_predicted(model: CostModel) -> None:
    ops = IMAGENET.op_specs()
    scores = Scores.of([model.held_out_s[op.key] for op in ops], [machine_seconds(op) for op in ops])
    assert scores.within_10pct > 0.6
    assert scores.spearman is not None
    assert scores.spearman > 0.97


@pytest.mark.parametrize("name", [*NAMED])
def test_networks_with_channels_outside_the_space_are_predicted(model: CostModel, name: str) -> None:
    ops = NAMED[name](1.0).op_specs()
    assert model.network_seconds(ops) == pytest.approx(sum(map(machine_seconds, ops)), rel=0.15)


def test_most_unseen_operators_are_within_two_spreads(model: CostModel) -> None:
    """Operators of the published networks that the space does not have."""
    seen = {op.key for op in IMAGENET.op_specs()}
    unseen = {op.key: op for name in NAMED for op in NAMED[name](1.0).op_specs() if op.key not in seen}
    predictions = [(model.predict(op), machine_seconds(op)) for op in unseen.values()]
    assert len(predictions) > 30
    assert np.mean([abs(p.seconds - true_s) <= 2 * p.spread_s for p, true_s in predictions]) >= 0.75


def test_the_spread_is_at_least_the_held_out_error(model: CostModel) -> None:
    prediction = model.predict(IMAGENET.op_specs()[3])
    assert prediction.spread_s >= prediction.seconds * model.log_spread > 0


def test_the_same_measurements_in_any_order_give_the_same_model(tmp_path: Path, model: CostModel) -> None:
    model.save(tmp_path / "a.json")
    fitted(ops=IMAGENET.op_specs()[::-1]).save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    fitted(seed=1).save(tmp_path / "c.json")
    assert (tmp_path / "a.json").read_bytes() != (tmp_path / "c.json").read_bytes()


def test_a_saved_model_predicts_the_same(tmp_path: Path, model: CostModel) -> None:
    corrected = replace(model, correction=NetworkCorrection({"weight_bytes": 0.9}, 0.02))
    corrected.save(tmp_path / "model.json")
    loaded = CostModel.load(tmp_path / "model.json", TARGET)
    for op in DIGITS.op_specs():
        assert loaded.predict(op) == corrected.predict(op)
    assert loaded.network_seconds(DIGITS.op_specs()) == corrected.network_seconds(DIGITS.op_specs())
    assert (loaded.correction, loaded.held_out_s) == (corrected.correction, corrected.held_out_s)
    assert (loaded.ranges, loaded.explain(IMAGENET.op_specs()[9])) == (
        model.ranges,
        corrected.explain(IMAGENET.op_specs()[9]),
    )


def test_an_operator_unlike_all_measured_is_told_with_its_features(model: CostModel) -> None:
    assert all(not model.outside(op) for op in IMAGENET.op_specs())
    huge = OpSpec(kind="conv", height=7, width=7, in_channels=20_000, out_channels=8, kernel=9)
    assert {"kernel", "log_in_channels"} <= model.outside(huge).keys()
    assert model.outside(huge)["kernel"] == "9, measured were 1 to 7"


def test_an_explanation_multiplies_up_to_the_prediction(model: CostModel) -> None:
    """Members differ in both parts, so the product of their means is the prediction up to that."""
    corrected = replace(model, correction=NetworkCorrection({"weight_bytes": 0.5, "project_issues": 2.0}))
    for op in IMAGENET.op_specs()[::7]:
        explained = corrected.explain(op)
        assert sum(explained.terms_s.values()) > 0
        product = sum(explained.terms_s.values()) * np.prod(list(explained.factors.values()))
        assert product == pytest.approx(corrected.predict(op).network_s, rel=0.1)


def test_few_measurements_are_refused() -> None:
    ops = IMAGENET.op_specs()[: MIN_OPS - 1]
    with pytest.raises(CostModelError, match=f"at least {MIN_OPS} measured operators, got {len(ops)}"):
        CostModel.fit(ops, [machine_seconds(op) for op in ops], TARGET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "netlathe-cost-model/0"}, r"not a cost model of format .*format: Input should be"),
        ({"features": ["kernels", "colour"]}, r"other features than this version computes \(.*colour"),
        ({"seconds_per_unit": {"all_kernels": [1e-6]}}, r"other features .*weight_bytes"),
        ({"boosters": [{"learner": {}}]}, r"XGBoost cannot read a booster in .*damaged"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, model: CostModel, change: dict, message: str) -> None:
    path = tmp_path / "model.json"
    model.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CostModelError, match=message):
        CostModel.load(path, TARGET)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(CostModelError, match=r"the file: .*netlathe calibrate"):
        CostModel.load(path, TARGET)


def test_a_model_of_another_machine_is_refused(tmp_path: Path, model: CostModel) -> None:
    model.save(tmp_path / "model.json")
    with pytest.raises(CostModelError, match=r"was fitted on 'x86 a test .*not on 'x86 another"):
        CostModel.load(tmp_path / "model.json", replace(TARGET, cpu_model="another"))
