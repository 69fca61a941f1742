# Everything a newcomer needs: `make demo` trains, `make test` tests. Both set themselves up.
PYTHON ?= python3
BIN := .venv/bin

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "duckweed needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Choose another with: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Three at a time on two cores: many tests wait for processes. Who has nothing left takes tests of the others.
.PHONY: setup demo fast test long lab lint clean
setup: .venv/.ready
demo: .venv/.ready  ## four peers on this machine train a small model for about two minutes
	$(BIN)/duckweed train
fast: .venv/.ready  ## the fast tests
	$(BIN)/python -m pytest -m "not slow and not long" -n 3 --dist worksteal
test: .venv/.ready  ## all tests but the longest
	$(BIN)/python -m pytest -m "not long" -n 3 --dist worksteal
long: .venv/.ready  ## the longest tests: runs interrupted again and again, networks cut in two
	$(BIN)/python -m pytest -m long -n 2 --dist worksteal
lab: .venv/.ready  ## runs between emulated hosts, about 15 minutes; needs root
	$(BIN)/python -m bench.wan
lint: .venv/.ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@found=$$($(BIN)/lint-imports --no-logo --no-cache 2>&1) || { echo "$$found"; exit 1; }
clean:
	rm -rf .venv build *.egg-info src/*.egg-info
