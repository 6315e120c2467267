# What a person does with this repository. It wants Python 3.11 or newer and a package index; everything
# else goes into .venv. PYTHON=/path/to/python picks another interpreter.

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench clean

VENV := .venv
BIN := $(VENV)/bin
# Tests at a time. Most of them wait for processes, sockets and disks, so two cores take four. Neighbours stay together while they can,
# because they share servers and recorded runs. Their files lie in /dev/shm if it has 8 GiB free, or where TMPDIR says. JOBS=0 runs them one after the other in one process (for a debugger).
JOBS := 4
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

# One stamp per set of extras. A changed pyproject.toml or C source makes them stale; `clean` and a new venv remove them.
SOURCES := pyproject.toml $(wildcard market/c/*.[ch])
RUN_STAMP := $(VENV)/.installed-run
TEST_STAMP := $(VENV)/.installed-test
BENCH_STAMP := $(VENV)/.installed-bench
# There after a run of tests that went to its end and in which some failed: .ci/run asks.
TESTS_FAILED := $(VENV)/.tests-failed
# Of sources that do not compile any more, or on a machine that has lost its compiler, an older one would stay in use.
FORGET_COMPILED := rm -f market/_compiled.*.so

help:
	@echo "make demo    run marketd on a synthetic market (DURATION=60s ends it by itself)"
	@echo "make test    lint, types and all tests (ARGS=... are passed on; JOBS=0: one at a time)"
	@echo "make lint    ruff and mypy alone;  make format lets ruff rewrite the files"
	@echo "make bench   the benchmarks (ARGS=... are passed on)"
	@echo "make setup   only prepare $(VENV)"
	@echo "make clean   remove $(VENV), caches and build products"

setup: $(TEST_STAMP)

demo: $(RUN_STAMP)
	$(BIN)/marketd demo $(if $(DURATION),--duration $(DURATION))

test: lint
	@rm -f $(TESTS_FAILED)
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS) || { status=$$?; [ $$status -ne 1 ] || touch $(TESTS_FAILED); exit $$status; }

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(TEST_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH_STAMP)
	$(BIN)/python bench/run.py $(ARGS)

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	$(FORGET_COMPILED)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_STAMP): $(SOURCES) | $(BIN)/python
	@echo "Installing marketd into $(VENV); the first time this takes a minute or two."
	@$(FORGET_COMPILED)
	@$(PIP) install --editable '.[all]'
	@touch $@

$(TEST_STAMP): $(SOURCES) | $(BIN)/python
	@echo "Installing marketd and its test tools into $(VENV); the first time this takes a minute or two."
	@$(FORGET_COMPILED)
	@$(PIP) install --editable '.[all,test]'
	@touch $@ $(RUN_STAMP)

$(BENCH_STAMP): $(SOURCES) | $(BIN)/python
	@echo "Installing marketd and what its benchmarks need into $(VENV)."
	@$(FORGET_COMPILED)
	@$(PIP) install --editable '.[all,bench]'
	@touch $@ $(RUN_STAMP)

# Looked at before the venv is made: a `python3 -m venv` that fails half-way leaves a .venv without pip behind.
$(BIN)/python:
	@set -e; python=''; \
	for candidate in $${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    python=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "marketd needs Python 3.11 or newer; $${PYTHON:-python3} here is: $$($${PYTHON:-python3} --version 2>&1)" >&2; \
	  echo "Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$python cannot make virtual environments: its venv or ensurepip module is missing." >&2; \
	  echo "On Debian and Ubuntu: apt-get install python3-venv (as root). Then run make again." >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$python" --version)."; \
	"$$python" -m venv --clear $(VENV)
