# make demo: a virtual environment with pinned packages, then the whole loop on the starter set.
# make test: the same environment with the test tools, then lint, types, import rules and every quick test.
# make test-all: the same, and the slow tests too: all but the long ones (make test-most), then those (make test-long).
# flywheel_tests/conftest.py says which test belongs where.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Some tests at a time, each on one core: processes that all spread over all cores only wait for each other.
TESTS_AT_ONCE ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TESTS_AT_ONCE) --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all test-most test-long lint check clean

demo: $(VENV)/.installed-demo
	$(BIN)/flywheel demo

test: $(VENV)/.installed-dev lint
	QUICK=1 $(PYTEST) -m 'not slow'

test-all: test-most test-long

test-most: $(VENV)/.installed-dev lint
	$(PYTEST) -m 'not long'

test-long: $(VENV)/.installed-dev
	$(PYTEST) -m long

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "flywheel needs Python 3.11 or newer, and $(PYTHON) is not: run 'make demo PYTHON=/path/to/python3.11'."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) lacks the venv module: install it (Debian and Ubuntu: apt install python3-venv) and run make again."; exit 1; }

$(BIN)/python: | check
	$(PYTHON) -m venv $(VENV)

# torch comes first, by its pinned version: a CPU or CUDA build that is installed in $(VENV) already is kept.
$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes, most of it torch."
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-demo
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[demo,dev]'
	@touch $@

clean:
	rm -rf $(VENV)
