"""The comparison and the facts; `run` has prepared everything."""

import argparse
import sys

import comparison
import facts
from machine import Machine


def main():
    parser = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the comparison, interleaved (default 5)")
    parser.add_argument("--seconds", type=int, default=5, help="of load for each proxy in each round (default 5)")
    parser.add_argument("--tls", action="store_true", help="clients that speak TLS, with HTTP/1.1 and with HTTP/2")
    parser.add_argument("--facts", action="store_true", help="memory, start-up time, sizes instead")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        parser.error("rounds and seconds are at least 1")
    with Machine() as machine:
        if options.facts:
            facts.report(machine)
        elif options.tls:
            comparison.report_tls(machine, options.rounds, options.seconds)
        else:
            comparison.report(machine, options.rounds, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
