# The README's two commands are `make demo` and `make test`; each sets up .venv by itself, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# torch's own threads and the test workers would fight over the cores. A worker that is done takes over half of what the
# other has not begun, so that neighbours in a file, which share what they need, stay together.
TEST_ENV := OMP_NUM_THREADS=1
PYTEST := -m pytest -n 2 --dist worksteal
# What is imported is compiled to bytecode once, whatever this shell has told Python: hundreds of processes import torch
# and transformers. What is never imported, two thirds of the code that is installed, is not compiled at all.
export PYTHONDONTWRITEBYTECODE :=
PIP := -m pip install --quiet --no-compile
# Of more extras, where the first installation has brought what builds the package.
MORE := $(PIP) --no-build-isolation

# verl needs an older transformers, and so an environment of its own.
VERL_VENV := .venv-verl
VERL_STAMP := $(VERL_VENV)/.installed
TRL_STAMP := $(VENV)/.trl-installed
# Other trainers, of which their functions of logits alone are imported: without what they need, beside verl's environment.
OTHERS := .other-trainers
OTHERS_STAMP := $(VERL_VENV)/.others-installed
# Without what it needs, of which benchmarks use nothing, and so apart from what other commands import.
BENCH_PEERS := .bench-peers
BENCH_STAMP := $(VENV)/.bench-installed
DOCS_STAMP := $(VENV)/.docs-installed
TRACKERS_STAMP := $(VENV)/.trackers-installed

.PHONY: demo real test test-slow test-faults test-rest test-all test-exhaustive test-trl test-verl test-integrations test-release dist lint format bench bench-gate bench-compare docs clean

demo: $(STAMP)
	$(BIN)/rlif demo

# A real language model from a package, 98 MB, put through the commands; ARGS="--models smollm2 gemma3" takes both.
real: $(STAMP)
	$(BIN)/python examples/real/run.py $(ARGS)

# What guards every promise once, in seven to nine minutes on two cores.
test: $(STAMP)
	$(TEST_ENV) $(BIN)/python $(PYTEST) -m "not slow and not exhaustive and not faults and not release" $(ARGS)

# The tests marked slow, which try the same promises on more sizes, dtypes and options.
test-slow: $(STAMP)
	$(TEST_ENV) $(BIN)/python $(PYTEST) -m "slow and not exhaustive and not faults and not release" $(ARGS)

# Every command killed, stopped, starved of disk, started twice, its files damaged and its directory taken away; and
# hostile values in every file that is read. ARGS=--full goes on with random hurts: "--full --hurts 2000 --seed 1".
test-faults: $(STAMP)
	$(TEST_ENV) $(BIN)/python $(PYTEST) tests/faults $(ARGS)

# Both at once: what they have in common is imported and made once.
test-rest: $(STAMP)
	$(TEST_ENV) $(BIN)/python $(PYTEST) -m "(slow or faults) and not exhaustive and not release" $(ARGS)

test-all: test test-rest

# Combinations that neither tries, and all kernels compiled for other kinds of GPU: before a release.
test-exhaustive: $(STAMP)
	$(TEST_ENV) $(BIN)/python $(PYTEST) -m exhaustive $(ARGS)

# The real trainers, on a CPU: TRL in the environment of `make test`, which skips what compares with it; verl in its own,
# with the others beside it.
COMPARED_WITH_TRL := tests/rlif/self_feedback/test_preference_loss.py tests/rlif/self_feedback/test_rank.py \
	tests/benchmarks/ops/test_problems.py
test-trl: $(TRL_STAMP)
	$(TEST_ENV) $(BIN)/python $(PYTEST) tests/integrations $(COMPARED_WITH_TRL) $(ARGS)

test-verl: $(VERL_STAMP) $(OTHERS_STAMP)
	$(TEST_ENV) $(VERL_VENV)/bin/python $(PYTEST) tests/integrations/with_verl tests/integrations/test_trainers_page.py $(ARGS)
	$(TEST_ENV) PYTHONPATH=$(OTHERS) $(VERL_VENV)/bin/python -m pytest tests/integrations/with_others tests/integrations/test_trainers_page.py $(ARGS)

test-integrations: test-trl test-verl

# What a release would be, built and then installed away from this tree, in an environment for each Python that there is;
# and the trackers, which are too large for every day.
test-release: $(TRACKERS_STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest tests/release tests/rlif/training/test_trackers.py $(ARGS)

# The two files of a release, in dist/: the source distribution, and the wheel that is built from it.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --no-isolation

# Where the pages are built too, it waits until nothing more is installed beside it.
lint: $(STAMP) $(if $(filter docs,$(MAKECMDGOALS)),$(DOCS_STAMP))
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Everything that is claimed about speed and memory, on this machine: twenty minutes on two cores, or with
# ARGS=--quick five minutes. The report is runs/benchmarks/report.md.
bench: $(BENCH_STAMP)
	PYTHONPATH=$(BENCH_PEERS) $(BIN)/python -m benchmarks $(ARGS)

# Speed and memory of the ops beside the naive form, held to what benchmarks/gates/gate.json has, and the host's time for
# a call beside eager's. Not part of `make test`: a busy machine can fail it. ARGS=--write-gate takes this machine's
# figures, after a change that was meant.
bench-gate: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest benchmarks/gates -k test_gate $(ARGS)

# The ops of this tree and those of another commit, in turns: make bench-compare BASE=HEAD~3 ARGS="-k 64x8000"
bench-compare: $(STAMP)
	@test -n "$(BASE)" || { echo "BASE is not set; expected a revision, such as BASE=HEAD~3"; exit 2; }
	$(BIN)/python -m benchmarks compare $(BASE) $(ARGS)

# The pages of docs/ as a site that needs no network: site/index.html.
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Everything that a command above needs. Runs again only when a file that says what to install has changed. A new pip comes
# first: that of Python 3.11 compares every file of every release with a list of hundreds of tags, one by one.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"rlif needs Python 3.11 or newer; this is {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --constraint constraints.txt pip
	$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(TRL_STAMP): $(STAMP)
	$(BIN)/python $(MORE) --constraint constraints.txt --editable '.[dev,trl]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python $(MORE) --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python $(PIP) --no-deps --upgrade --target $(BENCH_PEERS) --constraint constraints-verl.txt verl
	@touch $@

$(TRACKERS_STAMP): $(STAMP)
	$(BIN)/python $(MORE) --constraint constraints.txt --editable '.[dev,trackers]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python $(MORE) --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

# By the pip that Python 3.11 brings: pip 26.3 resolves these to omegaconf 1.4.1 and hydra 0.11, which are older than verl.
$(VERL_STAMP): pyproject.toml constraints-verl.txt
	test -x $(VERL_VENV)/bin/python || $(PYTHON) -m venv $(VERL_VENV)
	$(VERL_VENV)/bin/python $(PIP) --constraint constraints-verl.txt --editable '.[dev,verl]'
	@touch $@

$(OTHERS_STAMP): $(VERL_STAMP) constraints-others.txt
	$(VERL_VENV)/bin/python $(PIP) --no-deps --upgrade --target $(OTHERS) --requirement constraints-others.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VERL_VENV) $(OTHERS) $(BENCH_PEERS) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
