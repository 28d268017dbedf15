# tests/stateful/__main__.py: python -m tests.stateful
"""Random conversations with one Redis and with nutproxy. The exit status is 1 if one of them
differs; it is printed, shortened."""

import argparse
import multiprocessing
import sys
import time

from tests.stateful.run import portion


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stateful", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="of conversations (default 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of the first one (default 1)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--most", type=int, default=5, help="differences of a process that end it")
    parser.add_argument("-m", "--mbuf-size", metavar="N", help="passed to nutproxy as -m")
    args = parser.parse_args()
    arguments = ("-m", args.mbuf_size) if args.mbuf_size else ()
    end = args.seed + args.count
    portions = [
        (range(start, min(start + 1000, end)), arguments, args.most)
        for start in range(args.seed, end, 1000)
    ]
    began = time.monotonic()
    held = turns = 0
    reports: list[str] = []
    with multiprocessing.get_context("spawn").Pool(args.jobs) as processes:
        for some, their_turns, found in processes.imap_unordered(portion, portions):
            held += some
            turns += their_turns
            reports += found
            if len(reports) >= args.most:
                break
    seconds = time.monotonic() - began
    print(
        f"{held} conversations with {turns} turns, seeds {args.seed} to {end - 1}, {seconds:.0f} s:"
        f" {len(reports)} differ"
    )
    return 1 if reports else 0


if __name__ == "__main__":
    sys.exit(main())
