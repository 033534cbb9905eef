"""Several unlearning runs in the processes of one launch, one after another: `accelerate launch series.py RUNS.json`.

What a launch costs, most of all importing the libraries, is so paid once. A run that is launched by itself is the same
to the bit, which the tests of killed runs show. Each of RUNS.json is the words of forget.py's command line.
"""

import json
import logging
import sys
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState
from hydra.core.global_hydra import GlobalHydra

from forget import main
from safeeraser.processes import leave_together
from safeeraser.unlearn import run

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run.leave_together = lambda: None
    for words in json.loads(Path(sys.argv[1]).read_text()):
        # Settings of accelerate's outlive a run; the processes stay together.
        AcceleratorState._reset_state()
        GradientState._reset_state()
        GlobalHydra.instance().clear()
        sys.argv[1:] = words
        main.__wrapped__()
    leave_together()
