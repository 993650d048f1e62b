# make quickstart   a virtual environment, and FN2EN trained on the bundled sample beside both baselines
# make test         a virtual environment, then lint, types and the default tests
# make test-slow    the tests that take minutes as well
# make campaign     thousands of damaged files, and killed commands: docs/reliability.md

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: quickstart test test-slow campaign format clean

quickstart: $(VENV)/.installed
	$(BIN)/fn2en quickstart $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not gpu and not data"

campaign: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m campaign $(ARGS)

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; give it by PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[facenet]'
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[facenet,test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV)
