"""The benchmarks of marketd: `make bench`, `make bench ARGS="arena ack --quick"`, `bench/run.py --list`.

Each starts a daemon of its own, measures marketd beside what people would use instead, in one run, prints a table and
writes it to bench/results/. docs/performance.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from options import Options

# A benchmark is a module with `run(Options) -> Report`, and a line here.
BENCHMARKS = {
    "arena": ("bench_arena", "last bar and a window of 300 from shared memory, beside Redis and ZeroMQ"),
    "ack": ("bench_ack", "acknowledgement latency of single trades at 10,000 messages a second"),
    "ingest": ("bench_ingest", "trades on disk and committed a second, beside a bare COPY"),
    "feeds": ("bench_feeds", "messages a second of one core, of each venue's adapter, beside cryptofeed"),
    "live": ("bench_live", "from an exchange's socket to the arena, at real speed and ten times that; memory"),
    "blocks": ("bench_blocks", "bytes a row as rows, packed and as Parquet; a day of bars out of its block"),
    "size": ("bench_size", "bytes a row of a week, as rows and closed, beside Parquet, DuckDB and ArcticDB"),
    "query": ("bench_query", "answers about a week while 10,000 rows a second come in, beside bare SQL"),
    "upkeep": ("bench_upkeep", "acknowledgements and lag while a week is compressed or packed, refreshed and dropped"),
    "batches": ("bench_batches", "answers out of TimescaleDB's columnstore, as rows and as compressed batches"),
    "read": ("bench_read", "a day of one-second bars from PostgreSQL to numpy, beside asyncpg and a bare COPY"),
}


def main() -> int:
    args = _arguments()
    if args.list:
        for name, (_, what) in BENCHMARKS.items():
            print(f"{name:8} {what}")
        return 0
    options = Options(quick=args.quick, seconds=args.seconds, profile=args.profile)
    reports = []
    for name in args.names or BENCHMARKS:
        report = importlib.import_module(BENCHMARKS[name][0]).run(options)
        report.quick = args.quick or args.profile
        report.keep()
        reports.append(report)
        if not args.json:
            report.show()
    if args.json:
        print(json.dumps([report.plain() for report in reports], indent=2))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", choices=[[], *BENCHMARKS], help=f"{', '.join(BENCHMARKS)}; all"
    )
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds each: to see that it works, not for figures"
    )
    parser.add_argument("--seconds", type=float, help="length of a sustained load (ingest: 60, ack: 30)")
    parser.add_argument("--profile", action="store_true", help="py-spy on the actors; results/*.profile")
    parser.add_argument("--json", action="store_true", help="the reports as JSON instead of tables")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
