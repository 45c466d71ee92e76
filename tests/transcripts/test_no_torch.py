"""Reading transcripts never imports torch."""

from __future__ import annotations

import subprocess
import sys


def test_no_torch() -> None:
    code = (
        "import sys, turnscope.transcripts as t\n"
        "[getattr(t, name) for name in t.__all__]\n"
        "from turnscope.transcripts.readers.registry import readers; readers()\n"
        "bad = {'torch', 'transformers'} & set(sys.modules); sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
