"""`netlathe` with one more space, `tiny`, that is calibrated, searched and trained in seconds."""

from dataclasses import replace

from pipeline import measure
from pipeline.cli import main
from supernet.settings import SEARCH, TRAIN
from supernet.space import DIGITS, PRESETS, Stage

# 24 distinct candidates and five fixed operators: enough to fit a cost model to.
PRESETS["tiny"] = replace(DIGITS, name="tiny", stages=(Stage(16, 2, 1), Stage(24, 2, 2)))
SEARCH["tiny"] = replace(SEARCH["digits"], warmup_epochs=2, epochs=3)
TRAIN["tiny"] = replace(TRAIN["digits"], epochs=3, warmup_epochs=1)
measure.calibrate_space.__kwdefaults__ |= {"fit_networks": 3, "test_networks": 3}

if __name__ == "__main__":
    main()
