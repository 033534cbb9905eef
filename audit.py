"""Was it really forgotten? One adapter and its controls are attacked, relearned, rounded, scaled, and looked into.

  python audit.py --checkpoint_path ADAPTER --judge rules
  python audit.py inside,relearn --checkpoint_path ADAPTER ...       (or attacks, modality, quantize, sampling, scale)
  bash scripts/audit.bash --checkpoint_path ADAPTER ...              (on every GPU, then the report)

Leaves ADAPTER/audit.json, which the report shows, and each point's predictions and verdicts in ADAPTER/audit/. The
controls' points lie in controls/ next to ADAPTER, for all audits with the same settings. After a stop at any moment,
the same command resumes. Several processes that run at once share the points. Exit code 3: some points could not be
measured completely, as listed.
"""

import logging
import signal
import sys

from safeeraser.audit.options import arguments, read_options
from safeeraser.errors import command
from safeeraser.keys import hide_key


@command
def main() -> int:
    """Read the arguments and audit."""
    options = read_options(arguments(__doc__).parse_args())
    from safeeraser.audit.run import audit  # imported late: torch loads slowly

    # On SIGTERM, as on Ctrl-C, the card of all points measured so far is still written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("safeeraser.audit").setLevel(logging.INFO)
    return audit(options)


if __name__ == "__main__":
    hide_key()
    main()
