"""What came out? One HTML page for each finished run, sweep, comparison or benchmark, to be opened from disk.

python experiments/report.py runs/NAME
"""

import sys

from osrjax.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
