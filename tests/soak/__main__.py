# tests/soak/__main__.py: python -m tests.soak
"""Load with failing servers. The last line of the output is a summary. The exit status is 1 if a
reply did not belong to its request, or if another check has failed."""

import argparse
import sys

from tests import sanitize
from tests.soak.run import PROTOCOLS, Failed, Soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="of load (default 120)")
    parser.add_argument("--protocol", choices=(*PROTOCOLS, "both"), default="both")
    parser.add_argument("-m", "--mbuf-size", metavar="N", help="passed to nutproxy as -m")
    parser.add_argument("--workers", type=int, default=1, help="of nutproxy (default 1)")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices (default 1)")
    args = parser.parse_args()
    soak = Soak(
        seconds=args.seconds,
        protocols=PROTOCOLS if args.protocol == "both" else (args.protocol,),
        arguments=("-m", args.mbuf_size) if args.mbuf_size else (),
        seed=args.seed,
        workers=args.workers,
        measures=not sanitize.ACTIVE,
    )
    try:
        soak.run()
    except Failed as why:
        print(why)
        print(soak.closing_line("FAILED"))
        return 1
    print(soak.closing_line("ok"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
