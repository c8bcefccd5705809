# Two commands on a fresh machine: 'make quickstart' and 'make test'. Both install first; a second run does not reinstall.
#
#   make install PYTHON=python3.11      another Python (3.10, 3.11 or 3.12)
#   make install EXTRAS=notebook        fewer tools (default: dev; see setup.cfg)
#   make test PYTEST_ARGS='-m "not slow and not long" tests/ops'
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make install      the small torch without CUDA

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
PYTEST_ARGS ?=
QUICKSTART_ARGS ?=

PY := $(VENV)/bin/python
comma := ,
STAMP := $(VENV)/installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: help install quickstart test test-long lint clean check-python
.DEFAULT_GOAL := help

help:
	@echo 'make quickstart   install, make a small data set, train a detector on it, show what it finds'
	@echo 'make test         install, run the tests'
	@echo 'make test-long    install, run the tests that train to convergence (35 minutes), with their figures'
	@echo 'make lint         install, run ruff and the import contract'
	@echo 'make install      make $(VENV) and install detkit there, editable'
	@echo 'make clean        remove caches and build leftovers ($(VENV), data and work_dirs stay)'

install: $(STAMP)

$(STAMP): setup.cfg setup.py pyproject.toml | check-python
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --upgrade pip
	$(PY) -m pip install --editable '.[$(EXTRAS)]'
	$(PY) -m detkit.opencv
	@touch $@

check-python:
	@test -e $(STAMP) || $(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || \
		{ echo "detkit needs Python 3.10, 3.11 or 3.12, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1). Name another: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }

quickstart: $(STAMP)
	$(PY) tools/quickstart.py $(QUICKSTART_ARGS)

test: $(STAMP)
	$(PY) -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

test-long: $(STAMP)
	$(PY) -m pytest -m long -rA $(PYTEST_ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(VENV)/bin/lint-imports

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
