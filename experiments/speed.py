"""How fast is osrjax, beside the same work in PyTorch on the same machine?

    python experiments/speed.py --what train            training steps of three networks; 4 min on two cores
    python experiments/speed.py --what train --networks wrn16_4 --batch 64 --repeats 21
    python experiments/speed.py --what jacobian         exact norms of input Jacobians, and their memory; 8 min
    python experiments/speed.py --what gradmix          GradMix training steps, views given; 8 min
    python experiments/speed.py --what sweep            16 lanes of one program against 16 runs; 14 to 20 min
    python experiments/speed.py --what train --help     the options of a comparison and the fields of its last line

Each starts a file of experiments/benchmarks/, which has the options. Both sides are processes of their own and take
turns; the best fifth of each is compared (benchmarks/turns.py). The last line is one JSON object with `ratio` (for
sweeps `total_ratio`): the time of the fastest peer over ours, above 1 where ours is faster, or null with `"reliable":
false` where a side was disturbed. The peers are PyTorch's (`pip install '.[speed]'`, or `--torch-python` of another
environment); for sweeps the peer is ourselves.
"""

import argparse
import os
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent / "benchmarks"
WHAT = {name: BENCHMARKS / f"speed_{name}.py" for name in ("train", "jacobian", "gradmix", "sweep")}


def main(arguments: list[str] | None = None) -> int:
    """Finds out what to measure and starts it with all other options; returns the exit code of a refusal."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--what", default="train")
    arguments = sys.argv[1:] if arguments is None else arguments
    given, options = parser.parse_known_args(arguments)
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if given.what not in WHAT:
        print(f"speed.py: what={given.what!r} does not exist: choose from {', '.join(WHAT)}", file=sys.stderr)
        return 2
    # In place of this process, so that a signal reaches what measures.
    os.execv(sys.executable, [sys.executable, str(WHAT[given.what]), *options])


if __name__ == "__main__":
    sys.exit(main())
