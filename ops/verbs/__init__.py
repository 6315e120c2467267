"""The verbs of the command line, one file each; `ops/cli.py` says what a verb's module has."""
