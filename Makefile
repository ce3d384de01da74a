# make demo · make test · make build · make bench · make soak: each does its own set-up, in .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check --editable

.PHONY: demo test build check bench soak clean

$(VENV)/ready: $(VENV)/installed
	$(INSTALL) '.[dev]'
	touch $@

# What it takes to run pg_durable with a server of its own.
$(VENV)/installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[dev-server]'
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

demo: $(VENV)/installed
	$(RUN) examples/demo/demo.py

# Everything takes an hour; `make bench BENCH=--quick` takes two minutes.
BENCH ?= --all
bench: $(VENV)/ready
	$(INSTALL) '.[bench]'
	$(RUN) -m benchmarks $(BENCH)

soak: $(VENV)/ready
	$(RUN) -m tests.crash.soak

clean:
	rm -rf $(VENV) .dev .bench
