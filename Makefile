# `make sweep` runs the main job, `make check` the quick loop, `make test` all tests; each sets up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder
# Runs linters and tests at the same time.
BESIDE := @$(MAKE) --no-print-directory --jobs=2

.PHONY: sweep lint check test quick-tests all-tests test-long docs wheel setup lock licences audit clean

sweep: setup
	$(BIN)/python -m orchestrator.sweep $(ARGS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The quick loop: all but the tests that start Ray and the slowest others, and a tenth of the property tests' examples. A test that starts
# Ray and lacks the marker `ray` fails here, since Ray cannot write its files to /dev/null.
check: setup
	$(BESIDE) lint quick-tests

test: setup
	$(BESIDE) lint all-tests

quick-tests: setup
	RAY_TMPDIR=/dev/null QUICK=1 $(PYTEST) -n 2 -m 'not ray and not slow and not long' $(ARGS)

# Three processes on two cores: a test that waits for Ray leaves a core free.
all-tests: setup
	$(PYTEST) -n 3 $(ARGS)

# The tests that are too slow for every change, each kind of harm once, harms to tables, and fuzzing in depth.
test-long: setup
	$(BIN)/python -m pytest -m long
	$(BIN)/python -m tests.faults.harness --each-once --seed 1
	$(BIN)/python -m tests.faults.table_harms --harms 200 --seed 1
	FUZZ_EXAMPLES=20000 $(BIN)/python -m pytest tests/fuzz --timeout 0

# The documentation as a site, into site/.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The wheel, into dist/.
wheel: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	@# uv downloads and unpacks on all cores. It does not read pip's settings (an index of one's own); if it fails, pip installs.
	UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]' || \
		$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@# As pip would, on all cores, without what is hardly ever imported; some files are templates.
	$(BIN)/python -m compileall -q -j 0 -x '/tests?/|/transformers/models/|/ray/rllib/|/(cfnlint|moto|wandb|pip|setuptools|pygments|selenium|trio|virtualenv|sqlalchemy|onnxscript|databricks|coreweave_evaluations|google/cloud|graphql|aws_xray_sdk|pyasn1_modules|tensorboard)/' $(VENV)/lib >/dev/null || true
	touch $@

# Writes the exact versions that are installed now; run it in a fresh .venv after changing a range.
lock:
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

# Writes the licence of every distribution of the lock, as its metadata gives it.
licences: setup
	printf '# Licences of what is installed\n\nWritten by `make licences` (pip-licenses) from the metadata of the distributions in\n`constraints.txt`, development tools included. The project itself is Apache-2.0.\n\n' > docs/licences.md
	$(BIN)/pip-licenses --format=markdown --with-system --packages $$(sed 's/==.*//' constraints.txt) | tr -s ' ' >> docs/licences.md

# Asks PyPI's data base of known vulnerabilities about every locked version; needs the network.
audit: $(VENV)-audit/bin/pip-audit
	$(VENV)-audit/bin/pip-audit --no-deps --disable-pip --strict --requirement constraints.txt $(ARGS)

$(VENV)-audit/bin/pip-audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit

clean:
	rm -rf $(VENV) $(VENV)-audit .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build dist site
