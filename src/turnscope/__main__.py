"""`python -m turnscope`, and `torchrun -m turnscope`, of whose processes only the first one speaks."""

import os
import sys

from turnscope.cli.main import main

if __name__ == "__main__":
    if os.environ.get("RANK", "0") != "0":
        os.environ["TURNSCOPE_QUIET"] = "1"
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (until the process ends)
    main()
