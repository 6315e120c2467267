"""`marketd`: one command, one file a verb (`ops/verbs/`).

A verb's module has a docstring (its help), `add_arguments(parser)` and `run(args) -> int`, the exit code:

    0  done                     3  the daemon does not run
    1  it could not be done     4  done, but something is not as it should be (health, doctor, check)
    2  wrong usage or config    130  interrupted
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from marketd import __version__
from marketd.market.errors import ConfigError, InvalidArgument, MarketdError, NotRunning

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_RUNNING, EXIT_NOT_WELL, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

VERBS = (
    "init",
    "run",
    "demo",
    "reload",
    "stop",
    "actor",
    "status",
    "top",
    "query",
    "coverage",
    "tail",
    "psql",
    "emulate",
    "import",
    "backfill",
    "journal",
    "quarantine",
    "schema",
    "storage",
    "config",
    "doctor",
)


def verb_module(name: str) -> ModuleType:
    """The module of a verb; `import` is a keyword, so that its file has a final underscore."""
    return importlib.import_module(f"marketd.ops.verbs.{name}{'_' if name == 'import' else ''}")


def build_parser(verbs: Sequence[str] = VERBS) -> argparse.ArgumentParser:
    """The parser of the command line; `verbs` limits which modules are loaded (`marketd --help` needs all)."""
    parser = argparse.ArgumentParser(prog="marketd", description="The market-data memory of a trading host.")
    parser.add_argument("--version", action="version", version=f"marketd {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in verbs:
        module = verb_module(name)
        text = (module.__doc__ or "").strip()
        verb = subparsers.add_parser(
            name,
            help=text.splitlines()[0].rstrip("."),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    # an actor is started often and should not load what other verbs need
    wanted = arguments[:1] if arguments[:1] and arguments[0] in VERBS else VERBS
    args = build_parser(wanted).parse_args(arguments)
    try:
        return int(args.run(args))
    except NotRunning as error:
        return _complain(error, EXIT_NOT_RUNNING)
    except (ConfigError, InvalidArgument) as error:
        return _complain(error, EXIT_USAGE)
    except MarketdError as error:
        return _complain(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has seen enough (`marketd tail | head`); Python must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complain(error: MarketdError, code: int) -> int:
    print(f"marketd: {error}", file=sys.stderr)
    return code
