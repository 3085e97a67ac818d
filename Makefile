# `make` alone lists what there is. Nothing but Python 3.11 or later and make is needed; everything else goes into .venv.
#
#   PYTHON=/path/to/python3.12   which Python .venv is made with (default: the first that is new enough)
#   TORCH_INDEX=URL              where torch comes from: https://download.pytorch.org/whl/cpu spares Linux the CUDA
#                                libraries, gigabytes that a machine without a GPU has no use for
#   AGAIN=1                      makes `make demo` train anew, keeping the earlier run aside
#   TEST=tests/model             what `make test` runs of the tests (default: all)
#   ID="T1 T4"  SEED=2           what `make torture` runs of the guarantees (default: all), and the seed of their chance

SHELL := /bin/sh
PYTHON ?=
TORCH_INDEX ?=
AGAIN ?=
TEST ?=
ID ?= all
SEED ?= 1
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := requirements/constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint bench torture clean

help: ## this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  %-8s  %s\n", $$1, $$2 }'

setup: .venv/.dev ## make .venv with ciyuan and all that its tests need
	@echo "ciyuan is in .venv: .venv/bin/ciyuan --help"

demo: .venv/.runtime ## train English → Chinese for six minutes on bundled text, and show what came out (AGAIN=1: anew)
	@AGAIN="$(AGAIN)" sh examples/demo.sh

test: lint ## lint, then all tests but the long ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses=4 --dist worksteal $(TEST)

lint: .venv/.dev ## ruff, strict types, and the one-way imports of the design
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: .venv/.dev ## ours against transformers' MarianMT, same minutes, three seeds: about three hours of a quiet machine
	$(BIN)/python benchmarks/translation.py

torture: .venv/.dev ## the guarantees as figures, in full, into benchmarks/RELIABILITY.md: hours (ID=T1: one of them; SEED=2)
	@failed=0; OMP_NUM_THREADS=1 $(BIN)/python -m torture $(ID) --seed $(SEED) --full --record benchmarks/RELIABILITY.md || failed=1; \
	[ "$(ID)" != all ] || OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m torture $(TEST) || failed=1; \
	exit $$failed

clean: ## remove .venv and what the tools leave behind; runs/ stays
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Empty files that say what .venv holds, so that a second `make` costs nothing.

.venv/.python:
	@chosen=""; seen=""; \
	for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14 python); do \
	  command -v "$$python" >/dev/null 2>&1 || continue; \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	  then chosen="$$python"; break; fi; \
	  seen="$$seen; $$python is $$("$$python" --version 2>&1 | head -n 1)"; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "ciyuan needs Python 3.11 or later with venv and pip; there is none here$${seen:-$(if $(PYTHON),: $(PYTHON) is not a program)}" >&2; \
	  echo "install one (Debian, Ubuntu: apt install python3-venv; macOS: brew install python), or name it: make setup PYTHON=/path/to/python3.12" >&2; \
	  exit 2; \
	fi; \
	if $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo "using the .venv that is there, $$($(BIN)/python --version)"; \
	else echo "making .venv with $$("$$chosen" --version)"; "$$chosen" -m venv --clear .venv; fi
	@touch $@

# torch first and by name: left to the others' requirements, pip would take any release of it.
.venv/.runtime: .venv/.python pyproject.toml $(CONSTRAINTS)
	@echo "installing ciyuan and what it needs: some 300 MB the first time"
	@$(PIP) install -qq -c $(CONSTRAINTS) setuptools
	@$(PIP) install -qq -c $(CONSTRAINTS) $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") "$$(grep '^torch==' $(CONSTRAINTS))"
	@$(PIP) install -qq -c $(CONSTRAINTS) --no-build-isolation -e .
	@touch $@

.venv/.dev: .venv/.runtime
	@echo "installing what the tests need"
	@$(PIP) install -qq -c $(CONSTRAINTS) --no-build-isolation -e ".[dev]"
	@touch $@
