"""Several images at once, as the name of a target says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import api
from pipeline.nets import NetError, resolve_net
from pipeline.places import calibration_folder
from targets.registry import get_target
from targets.target import TargetError

pytestmark = pytest.mark.compiles
SMALL = {"resolution": 32, "classes": 10}


def test_a_name_says_how_many_images() -> None:
    several = get_target("cuda-sm90/8@ssh:user@host")
    assert (several.name, several.batch) == ("cuda-sm90/8@ssh:user@host", 8)
    assert several.fingerprint.endswith("threads 1 of 8 images via ssh:user@host")
    assert get_target("x86/1") == get_target("x86")
    assert calibration_folder(Path("m"), get_target("x86/4"), "digits").parent.name == "x86_4-t1"
    with pytest.raises(TargetError, match=r"'many' is no number of images: write x86/8\."):
        get_target("x86/many")
    with pytest.raises(TargetError, match="1 to 1024 images, not 0"):
        get_target("x86/0")


@pytest.mark.parametrize("data", [None, "digits"])
def test_an_artefact_takes_and_answers_them_all(data: str | None, tmp_path: Path) -> None:
    net = "mobilenet_v2@0.1"
    task = {"resolution": 16, "classes": 10} if data else SMALL
    made = api.compile(net, "x86/3", tmp_path / "three", data=data, say=lambda text: None, **task)
    assert made["verification"]["top1_agreement"] == 1.0
    reference = np.load(tmp_path / "three" / "reference.npz")
    assert reference["image"].shape[0] == reference["output"].shape[0] == 3
    assert not np.allclose(reference["output"][0], reference["output"][1])


def test_a_model_from_elsewhere_has_its_own_number(tmp_path: Path) -> None:
    api.compile("mobilenet_v2@0.1", "x86", tmp_path / "one", say=lambda text: None, **SMALL)
    model = tmp_path / "one" / "model.onnx"
    with pytest.raises(NetError, match=r"exported for 1 image at once, and the target is to take 2\. Export it for 2"):
        resolve_net(str(model)).of_batch(2)
    # What is not said of a target is not asked of a model.
    assert resolve_net(str(model)).of_batch(1).model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
