# Every target makes the environment it needs: a fresh clone, Python 3.11 or later and make are enough.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install quickstart test lint format clean

install: .venv/installed

# Versions come from constraints.txt: those the tests ran with. The harnesses of the second line come alone: they ask for
# builds that a CPU has not (torchvision, decord), and `dev` holds what they import here.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps lmms-eval clip-benchmark
	touch $@

quickstart: install
	$(BIN)/sensorium quickstart

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis quickstart pretrain-demo runs
