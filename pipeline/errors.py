"""Exit codes, and which error of which package ends with which of them: the only place where this is said."""

from __future__ import annotations

import sys
from enum import IntEnum


class ExitCode(IntEnum):
    """What a `netlathe` command ends with. 1 is left to what nobody foresaw (a bug, with its traceback)."""

    OK = 0
    USAGE = 2
    TARGET = 3
    DATA = 4
    BUDGET = 5
    LOWERING = 6
    RUN_FOLDER = 7
    STORAGE = 8
    MEASUREMENT = 9
    VERIFICATION = 10
    TRAINING = 11
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """The line of `docs/cli.md`, as a test sees to."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.USAGE: "an option, a network or a space that does not exist or cannot be read",
    ExitCode.TARGET: "the target is unknown, or nothing here can build for it",
    ExitCode.DATA: "the data cannot be found, read or trained on",
    ExitCode.BUDGET: "no network of the space fits the budget, or the trained one is measured over it",
    ExitCode.LOWERING: "the model has an operator, or weights, that cannot be compiled",
    ExitCode.RUN_FOLDER: "the output folder belongs to something else, or another process writes into it",
    ExitCode.STORAGE: "a file cannot be written or read: disk full, no permission, corrupt",
    ExitCode.MEASUREMENT: "a measurement failed, is missing, or a runtime to compare with is not installed",
    ExitCode.VERIFICATION: "the compiled network does not agree with PyTorch",
    ExitCode.TRAINING: "the loss of a search or a training is no longer a number",
    ExitCode.INTERRUPTED: "stopped with Ctrl-C; `--resume` goes on",
}

# Names instead of classes: importing them all would load torch and TVM before `netlathe targets` prints a line.
EXIT_CODES: dict[str, ExitCode] = {
    "pipeline.config:ConfigError": ExitCode.USAGE,
    "pipeline.nets:NetError": ExitCode.USAGE,
    "pipeline.portable:PortableError": ExitCode.USAGE,
    "supernet.architecture:ArchitectureError": ExitCode.USAGE,
    "supernet.settings:SettingsError": ExitCode.USAGE,
    "supernet.space:SpaceError": ExitCode.USAGE,
    "targets.target:TargetError": ExitCode.TARGET,
    "targets.toolchain:ToolchainError": ExitCode.TARGET,
    "supernet.sources:DataError": ExitCode.DATA,
    "supernet.derive:BudgetError": ExitCode.BUDGET,
    "supernet.sampling:SamplingError": ExitCode.BUDGET,
    "tvm_latency.lower:LoweringError": ExitCode.LOWERING,
    "pipeline.run_folder:RunFolderError": ExitCode.RUN_FOLDER,
    "supernet.checkpoint:CheckpointError": ExitCode.RUN_FOLDER,
    "pipeline.disk:DiskSpaceError": ExitCode.STORAGE,
    "tvm_latency.database:DatabaseError": ExitCode.STORAGE,
    "tvm_latency.latency_table:LatencyTableError": ExitCode.STORAGE,
    "tvm_latency.proxyless_yaml:ProxylessYamlError": ExitCode.STORAGE,
    "tvm_latency.cost_model:CostModelError": ExitCode.STORAGE,
    "pipeline.measure:MeasureError": ExitCode.MEASUREMENT,
    "pipeline.bench:BenchError": ExitCode.MEASUREMENT,
    "pipeline.peers.interface:RuntimeUnavailableError": ExitCode.MEASUREMENT,
    "targets.runner:RunnerError": ExitCode.MEASUREMENT,
    "tvm_latency.calibrate:CalibrationError": ExitCode.MEASUREMENT,
    "tvm_latency.correction:CorrectionError": ExitCode.MEASUREMENT,
    "tvm_latency.latency_table:MissingLatencyError": ExitCode.MEASUREMENT,
    "supernet.costs:CostError": ExitCode.MEASUREMENT,
    "supernet.weights:SearchError": ExitCode.TRAINING,
    "supernet.train:TrainError": ExitCode.TRAINING,
    "pipeline.agreement:VerifyError": ExitCode.VERIFICATION,
    "builtins:OSError": ExitCode.STORAGE,
}


def expected_errors() -> tuple[type[Exception], ...]:
    """The error types of the table whose modules are loaded; no other can have been raised.

    For `except expected_errors() as error`: Python evaluates it only when something was raised.
    """
    names = (name.split(":") for name in EXIT_CODES)
    return tuple(getattr(sys.modules[module], cls) for module, cls in names if module in sys.modules)


def exit_code(error: BaseException) -> ExitCode:
    """The code for an expected error, by its most specific class in the table.

    Raises:
        LookupError: the error is not in the table.
    """
    for cls in type(error).__mro__:
        if (name := f"{cls.__module__}:{cls.__qualname__}") in EXIT_CODES:
            return EXIT_CODES[name]
    raise LookupError(f"{type(error).__qualname__} has no exit code.")


def sentence(error: BaseException) -> str:
    """What to print for an expected error: its own message, or for the operating system's errors one made readable."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    return str(error)
