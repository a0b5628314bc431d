"""NET, as commands take it: a name, an architecture.json, a run folder or an .onnx file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from pipeline.files import read_json
from supernet.architecture import Architecture
from supernet.named import named_architecture
from supernet.presets import PRESETS
from supernet.space import SpaceError
from tvm_latency.lower import LoweringError
from tvm_latency.onnx_graph import with_batch


class NetError(ValueError):
    """What was given as a network is none, or lacks what the command needs."""


@dataclass(frozen=True)
class Net:
    """A network to predict, compile or time.

    name: what to call it in tables.
    architecture: None for an .onnx file that Netlathe did not write.
    weights: PyTorch's state of the trained network; None where the weights are random or inside `onnx_file`.
    onnx_file: the exported model; None where one is made with random weights.
    batch: images at once; an .onnx file that Netlathe did not write has its own number.
    """

    name: str
    architecture: Architecture | None
    weights: Path | None = None
    onnx_file: Path | None = None
    batch: int = 1

    def require_architecture(self, purpose: str) -> Architecture:
        """The architecture.

        Raises:
            NetError: the network is an .onnx file; the message says what it was needed for.
        """
        if self.architecture is None:
            raise NetError(
                f"{self.name} is an .onnx file, and {purpose} needs the architecture: "
                "give a name, an architecture.json or a run folder."
            )
        return self.architecture

    def for_task(self, resolution: int | None = None, classes: int | None = None) -> Net:
        """The network for images of so many pixels a side, and with so many outputs; None leaves its own.

        Raises:
            NetError: it has weights, which are for what they were trained on.
        """
        if resolution is None and classes is None:
            return self
        if self.architecture is None or self.weights is not None:
            raise NetError(
                f"{self.name} has weights, for the images and the classes that it was trained on. Give --resolution "
                "and --classes with a name or an architecture.json."
            )
        own = self.architecture
        changed = replace(own, resolution=resolution or own.resolution, classes=classes or own.classes)
        return replace(self, architecture=changed)

    def of_batch(self, batch: int) -> Net:
        """The network for so many images at once.

        Raises:
            NetError: an .onnx file that was exported for another number.
        """
        if self.architecture is None and batch != 1 and (own := input_shape_of(self.model)[0]) != batch:
            raise NetError(
                f"{self.name} was exported for {own} image{'s' if own > 1 else ''} at once, and the target is to take "
                f"{batch}. Export it for {batch}, or name the target without /{batch}."
            )
        return replace(self, batch=batch)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The ONNX model; a network without one is exported by PyTorch with random weights from a fixed seed.

        Raises:
            NetError: the file is not an ONNX model.
        """
        if self.onnx_file is not None:
            model = _load_onnx(self.onnx_file)
            return model if self.architecture is None else with_batch(model, self.batch)
        from pipeline.verify import random_network  # torch takes a second to load, and many commands need none of it
        from supernet.export import to_onnx

        architecture = self.require_architecture("an export")
        return to_onnx(random_network(architecture), architecture, self.batch)


def resolve_net(text: str) -> Net:
    """The network that `text` names.

    Raises:
        NetError: a file or folder that is no network.
        ArchitectureError: an unknown name (with close matches), or a broken architecture.json.
    """
    path = Path(text)
    if path.is_dir():
        return _from_run(path)
    if path.suffix in (".onnx", ".json") and not path.is_file():
        raise NetError(f"There is no file {path}.")
    if path.suffix == ".onnx":
        net = Net(path.stem, None, onnx_file=path)
        _load_onnx(path)
        return net
    if path.suffix == ".json":
        architecture = Architecture.from_file(path)
        return Net(architecture.name or path.stem, architecture)
    return Net(text, named_architecture(text))


def space_of(resolution: int, hint: str = "") -> str:
    """The preset for images of so many pixels.

    Raises:
        SpaceError: none has that size; the message ends with `hint`.
    """
    for name, space in PRESETS.items():
        if space.resolution == resolution:
            return name
    sizes = ", ".join(f"{name} {space.resolution}" for name, space in PRESETS.items())
    raise SpaceError(f"No space is for images of {resolution} pixels ({sizes}).{hint}")


def _from_run(folder: Path) -> Net:
    """The derived network of a run: with its weights if they are trained, else as an architecture."""
    derived = read_json(folder / "derive" / "result.json") if (folder / "derive" / "result.json").exists() else None
    if derived is None:
        raise NetError(
            f"{folder} holds no derived network. It is not a run folder, or the run has not come that far: "
            f"`netlathe run --resume --out {folder}` goes on with it."
        )
    architecture = Architecture.from_text(derived["architecture"], name=folder.resolve().name)
    weights, exported = folder / "train" / "winner.weights.pt", folder / "export" / "winner.onnx"
    trained = weights.exists() and exported.exists()
    return Net(architecture.name, architecture, weights if trained else None, exported if trained else None)


def _load_onnx(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise NetError(f"{path} is not a valid ONNX model ({reason}). Export it again.") from error
    return model


def input_shape_of(model: onnx.ModelProto) -> tuple[int, ...]:
    """The static shape of a model's one input.

    Raises:
        LoweringError: not one float32 image in and one tensor out, or a dimension is not a number.
    """
    # Old models list their weights among the inputs.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    single = len(inputs) == len(model.graph.output) == 1
    if not single or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise LoweringError(
            f"The model has {_listed(inputs)} in and {_listed(model.graph.output)} out. Netlathe compiles one float32 "
            "image in, one tensor out: export it again so."
        )
    dims = inputs[0].type.tensor_type.shape.dim
    if not dims or any(dim.dim_value < 1 for dim in dims):
        raise LoweringError("The model's input has no fixed shape. Export it again for one image of one size.")
    return tuple(dim.dim_value for dim in dims)


def _listed(values: Sequence[onnx.ValueInfoProto]) -> str:
    """`image (float), mask (bool)`; `nothing` for none."""
    names = onnx.TensorProto.DataType.Name
    return ", ".join(f"{v.name} ({names(v.type.tensor_type.elem_type).lower()})" for v in values) or "nothing"
