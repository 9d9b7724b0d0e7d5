# Needs make and a Python (3.11 or newer is found by scripts/bootstrap.py). PYTHON=... chooses the interpreter,
# ARGS=... is passed on: make test ARGS="tests/unit -x", make bench ARGS=--quick, make serve ARGS="--port 9000".

ANY_PYTHON := $(shell for p in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c "" >/dev/null 2>&1 && { echo "$$p"; break; }; done)
BIN := .venv/bin
ARGS ?=

.PHONY: help demo test serve bench check fmt lock reference image clean bootstrap-run bootstrap-dev has-python

help:
	@echo "make demo       the main job before your eyes: create, start, message, stop, delete a flow"
	@echo "make test       every test; as root on Debian it brings its own Docker engine"
	@echo "make serve      keep a service up on 127.0.0.1:8080"
	@echo "make bench      the README's figures (ARGS=--quick, ARGS='--only channel')"
	@echo "make check      format, lint, types, import direction, generated reference"
	@echo "make fmt        format, and mend what the linter can"
	@echo "make lock       pin the newest allowed versions in constraints.txt"
	@echo "make reference  write docs/reference anew"
	@echo "make clean      remove .venv, caches and builds"

has-python:
	@test -n "$(ANY_PYTHON)" || { echo "No Python found. Debian: apt-get install python3 python3-venv" >&2; exit 1; }

bootstrap-run bootstrap-dev: bootstrap-%: has-python
	@$(ANY_PYTHON) scripts/bootstrap.py $*

demo: bootstrap-run
	@$(BIN)/flow-manager demo $(ARGS)

serve: bootstrap-run
	@exec $(BIN)/flow-manager serve $(ARGS)

test: bootstrap-dev
	@$(BIN)/python scripts/run_tests.py $(ARGS)

bench: bootstrap-dev
	@$(BIN)/python -m benchmarks $(ARGS)

check: bootstrap-dev
	@$(BIN)/python scripts/check.py

fmt: bootstrap-dev
	@$(BIN)/python -m ruff format --quiet .
	@$(BIN)/python -m ruff check --quiet --fix .

reference: bootstrap-dev
	@$(BIN)/python scripts/reference.py

lock: has-python
	@$(ANY_PYTHON) scripts/lock.py

clean:
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache tests/js/node_modules
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
