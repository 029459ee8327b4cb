PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
BENCHMARKS := $(wildcard benchmarks/*.py)
TEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist loadfile

.PHONY: setup demo test test-slow check bench docs

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt 'torch==2.13.0'
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/groundrec run demo --if-exists resume

test: setup
	$(TEST)

test-slow: setup
	$(BIN)/pip install -q -c constraints.txt -e '.[ray,spark]'  # 500 MB: only these tests start a cluster
	$(TEST) -m slow

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright

bench: setup
	for file in $(BENCHMARKS); do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

docs: setup
	$(BIN)/python docs/generate.py
