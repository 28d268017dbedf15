"""`python -m nutproxy` and the command `nutproxy`."""

import signal
import sys


def main() -> int:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C ends the command by the signal and not with a traceback. The imports below are most
        # of a short command's life.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from nutproxy.cli import main as run_command_line

    return run_command_line()


if __name__ == "__main__":
    sys.exit(main())
