"""Which known class does this image show, or is it unknown? Image files against a finished run.

python experiments/predict.py runs/NAME photo.png folder/of/images
"""

import sys

from osrjax.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
