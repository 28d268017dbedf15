# tests/fuzz/__main__.py: python -m tests.fuzz
"""Runs mutated inputs. Prints a line for each target. The exit status is 1 if an input failed."""

import argparse
import sys
from pathlib import Path

from tests.fuzz.run import ALL, fuzz, replay


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="duration (default 60)")
    parser.add_argument("--target", choices=[*ALL], action="append", help="only this target")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices (default 1)")
    parser.add_argument("--keep", action="store_true", help="add new inputs to the corpus")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run only the input in FILE")
    args = parser.parse_args()
    if args.replay:
        replay(args.replay)
        return 0
    return 0 if fuzz(args.target or [*ALL], args.seconds, args.seed, args.keep) else 1


if __name__ == "__main__":
    sys.exit(main())
