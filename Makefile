# The README's two commands are `make demo` and `make test`; each sets up .venv by itself, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# torch's own threads and the test workers would fight over the cores.
TEST_ENV := OMP_NUM_THREADS=1

.PHONY: demo test lint format bench clean

demo: $(STAMP)
	$(BIN)/rlif demo

test: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m benchmarks.static
	$(BIN)/python -m pytest benchmarks

# Everything that a command above needs. Runs again only when a file that says what to install has changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"rlif needs Python 3.11 or newer; this is {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
