# What a developer types; every target sets up .venv in this checkout by itself.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# Most tests wait rather than compute; a file stays on one worker, because its tests share what they start.
PYTEST_ARGS ?= -n 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help run demo test test-openclaw check fmt bench soak matrix crashes clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(STAMP) ## start a bus and a watcher with two agents, and show their conversation (Ctrl-C ends it)
	@$(PY) examples/run.py

demo: $(STAMP) ## let two agents talk while bus and watcher are killed; count what was lost (ends by itself)
	@$(PY) examples/demo.py

test: check ## check, then every test; a test is skipped only if it needs a program that is not installed
	$(PY) -m pytest $(PYTEST_ARGS)

test-openclaw: $(STAMP) ## install a real OpenClaw from npm (OPENCLAW_CACHE=folder, 770 MB) and wake its agents
	$(PY) -m pytest -m openclaw --timeout 1800 -s -v tests/openclaw

check: $(STAMP) ## lint, format, types and import contracts; quick
	$(PY) -m ruff check --quiet .
	$(PY) -m ruff format --check --quiet .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo

fmt: $(STAMP) ## format, and mend what lint can mend
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: $(STAMP) ## measure beside JetStream, Redis, nchan and others; see benchmarks/README.md (QUICK=1 PEERS=0: two minutes)
	@$(PY) -m benchmarks.run $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(SECONDS),--seconds $(SECONDS)) $(if $(QUICK),--quick) $(if $(filter 0,$(PEERS)),--no-peers) \
	  $(if $(SIZES),--sizes $(SIZES)) $(if $(OUT),--out $(OUT))

soak: $(STAMP) ## ten minutes of a fleet while everything fails at random; SEED=N makes the same faults again (root)
	@$(PY) -m tests.soak.fleet $(if $(SEED),--seed $(SEED))

matrix: $(STAMP) ## run the crash matrix whole, and write its page anew (root)
	EVENTLOG_WRITE_DOCS=1 $(PY) -m pytest tests/fault/test_crash_matrix.py $(PYTEST_ARGS)

crashes: $(STAMP) ## the tests that kill processes, fail disks and cut networks, with many more rounds
	EVENTLOG_SOAK=1 $(PY) -m pytest -m fault --timeout 3600 $(PYTEST_ARGS)

clean: ## remove .venv, caches and builds; the logs in var/ stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed anew whenever what is to be installed changes. The system's Python before others: distributions build theirs
# with profiles, which takes 10 % off what an append costs (docs/explanation/performance.md).
$(STAMP): pyproject.toml constraints.txt
	@for python in $(PYTHON) /usr/bin/python3 python3 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "make: no Python 3.11 or newer found that can make a venv; install one (on Debian: python3-venv)," \
	    "or name it: make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	echo "setting up $(VENV) with $$($$found -V) (it may take a minute) ..."; \
	$(PY) -c '' 2>/dev/null || $$found -m venv --clear $(VENV)
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]' || \
	  { echo "make: installing the dependencies failed; see above" >&2; exit 1; }
	@touch $(STAMP)
