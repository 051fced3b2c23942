"""The code of the README, run as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path


def test_the_code_runs_from_top_to_bottom_on_two_devices():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 5
    code = "\n".join([*blocks, "assert mesh.size == 2 and np.isfinite(metrics['loss'])"])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
