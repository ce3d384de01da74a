# make demo · make test · make build · make bench: each does its own set-up, in .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test build check bench clean

$(VENV)/ready: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

build: $(VENV)/ready
	$(RUN) -m generator

test: $(VENV)/ready
	$(RUN) -m pytest -n 2

check: $(VENV)/ready
	$(RUN) -m generator --check
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

demo: $(VENV)/ready
	$(RUN) examples/demo/demo.py

bench: $(VENV)/ready
	$(RUN) -m benchmarks

clean:
	rm -rf $(VENV) .dev .bench
