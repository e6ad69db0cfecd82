# Everything works from a bare checkout and stays in .venv; `make test` and `make demo` also install the engines' Debian packages.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MINUTES ?= 1
faults: MINUTES = 10

.PHONY: help install guest demo test check bench faults fuzz image clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED)  ## Install sessiond and its development tools into .venv

$(INSTALLED): pyproject.toml constraints.txt hatch_build.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

guest: $(INSTALLED)  ## Build the guest for x86_64 and aarch64
	$(BIN)/python -m sessiond.guest.build --arch x86_64
	$(BIN)/python -m sessiond.guest.build --arch aarch64

demo: guest  ## Start a daemon, open a session, work in it, show what each step costs
	scripts/install-demo-engines
	$(BIN)/sessiond demo

test: guest  ## Run all tests, against real engines that it installs
	scripts/install-test-engines
	PYTHONASYNCIODEBUG=1 $(BIN)/python -m pytest

check: $(INSTALLED)  ## Lint, formatting, types, import graph
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_imports.py

bench: guest  ## Measure, on Docker with a private engine
	scripts/install-test-engines
	$(BIN)/python -m tests.bench

faults: guest  ## Harm a daemon at random for MINUTES, and check what its clients were told
	scripts/install-test-engines
	$(BIN)/python -m tests.faults.robustness --engine docker --minutes $(MINUTES)

fuzz: guest  ## Fuzz parsers on both sides for MINUTES each
	$(BIN)/python tests/fuzz/protocol/fuzz_codec.py --seconds $$(( $(MINUTES) * 60 ))
	$(BIN)/python -m tests.fuzz.policy.fuzz_reader --texts $$(( $(MINUTES) * 5000 ))
	$(BIN)/python -m tests.fuzz.policy.fuzz_policy --texts $$(( $(MINUTES) * 20000 ))
	tests/fuzz/guest/run.sh $$(( $(MINUTES) * 60 ))

image: $(INSTALLED)  ## Build the default image where no registry answers
	$(BIN)/sessiond image build

clean:  ## Remove what was built
	rm -rf $(VENV) sessiond/guest/bin build dist
