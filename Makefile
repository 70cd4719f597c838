# `make sweep` runs the main job, `make test` the tests; each sets up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: sweep test test-long setup lock licences audit clean

sweep: setup
	$(BIN)/python -m orchestrator.sweep $(ARGS)

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# The tests that are too slow for every change, a hundred random kills, and fuzzing in depth.
test-long: setup
	$(BIN)/python -m pytest -m long
	$(BIN)/python -m tests.faults.harness --kills 100 --seed 1
	FUZZ_EXAMPLES=20000 $(BIN)/python -m pytest tests/fuzz --timeout 0

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true  # as pip would, on all cores; some files are templates
	touch $@

# Writes the exact versions that are installed now; run it in a fresh .venv after changing a range.
lock:
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

# Writes what licences everything that is installed here is under.
licences: setup
	$(BIN)/python deploy/licences.py > docs/licences.md

# Asks PyPI's data base of known vulnerabilities about every locked version; needs the network.
audit: $(VENV)-audit/bin/pip-audit
	$(VENV)-audit/bin/pip-audit --no-deps --disable-pip --strict --requirement constraints.txt $(ARGS)

$(VENV)-audit/bin/pip-audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit

clean:
	rm -rf $(VENV) $(VENV)-audit .pytest_cache .mypy_cache .ruff_cache
