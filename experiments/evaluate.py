"""How well do the outputs of ANY network tell unknown images? Every score, every metric, from one npz file or run.

python experiments/evaluate.py outputs.npz
"""

import sys

from osrjax.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
