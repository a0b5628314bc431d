"""Unit: what a target's figures are. Time, or what an emulator counts, which is never called time."""

from __future__ import annotations

from dataclasses import dataclass

INSTRUCTION_S = 1e-9
"""What an emulated instruction takes of the emulator's own clock, as under qemu's `-icount shift=0`: so everything that
adds, fits and compares seconds serves counts too. A million of them is a thousandth of a second on it."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """How thousandths of a second on a target's clock are called at the edge.

    name: in sentences and tables; key: at the end of a name in JSON, as in `budget_ms`; measured_key: in JSON, of what
    is no prediction; obtained: how that was; gain, gain_key: of one network over another, in words and in JSON;
    noun: what there is so much of; cost: in the names of what a search says, in seconds of that clock.
    """

    name: str
    key: str
    measured_key: str
    obtained: str
    gain: str
    gain_key: str
    noun: str
    cost: str

    def source(self, source: str) -> str:
        """How a figure of a latency table was obtained, which calls everything `measured` that is not `predicted`."""
        return self.obtained if source == "measured" else source

    def text(self, seconds: float, digits: str = ".4g") -> str:
        """`4.21 ms`."""
        return f"{1e3 * seconds:{digits}} {self.name}"


MILLISECONDS = Unit(
    name="ms",
    key="ms",
    measured_key="measured_ms",
    obtained="measured",
    gain="as fast as",
    gain_key="speedup_over_baseline",
    noun="latency",
    cost="latency",
)
EMULATED_INSTRUCTIONS = Unit(
    name="M emulated instructions",
    key="emulated_minstr",
    measured_key="emulated_minstr",
    obtained="emulated",
    gain="fewer emulated instructions than",
    gain_key="emulated_gain_over_baseline",
    noun="emulated instructions",
    cost="emulated_seconds",
)
UNITS = (MILLISECONDS, EMULATED_INSTRUCTIONS)
