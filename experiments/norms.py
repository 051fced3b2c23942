"""What are the exact input-Jacobian norms of images under a trained network? For a run, image by image.

python experiments/norms.py runs/NAME
"""

import sys

from osrjax.commands.norms import main

if __name__ == "__main__":
    sys.exit(main())
