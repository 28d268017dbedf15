# tests/fuzz/__main__.py: python -m tests.fuzz
"""See the package. Ends with a line for each target; the exit status is 1 if an input failed."""

import argparse
import sys
from pathlib import Path

from tests.fuzz.run import ALL, fuzz, replay


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each target (default 60)")
    parser.add_argument("--target", choices=[*ALL], action="append", help="only this one")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default 1)")
    parser.add_argument("--keep", action="store_true", help="some of what is found, in the corpus")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="one input, by its file")
    args = parser.parse_args()
    if args.replay:
        replay(args.replay)
        return 0
    return 0 if fuzz(args.target or [*ALL], args.seconds, args.seed, args.keep) else 1


if __name__ == "__main__":
    sys.exit(main())
