# make demo · make test · make build · make bench · make soak · make mutants · make picture: each does its own set-up,
# in .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check --editable

.PHONY: demo picture test build check bench soak mutants clean

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

# docs/demo.svg, filmed anew.
picture: $(VENV)/installed
	$(RUN) examples/demo/picture.py

bench: $(VENV)/ready
	$(RUN) -m benchmarks

mutants: $(VENV)/ready
	$(RUN) -m tests.mutants

soak: $(VENV)/ready
	$(RUN) -m tests.crash.soak

clean:
	rm -rf $(VENV) .dev .bench
