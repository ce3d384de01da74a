# make demo · make test · make build · make bench · make soak · make mutants · make release · make picture: each does
# its own set-up, in .venv. make test-versions runs a sample of the tests on PostgreSQL 14 to 17, make test-matrix all of them on 14 to 18.
# make lock writes requirements-dev.lock; PG_DURABLE_LOCKED=1 make ... installs what stands there.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL = @$(PYTHON) generator/environment.py $(VENV)

.PHONY: release demo picture test test-versions test-matrix build check lock docs coverage bench soak mutants clean

$(VENV)/ready: $(VENV)/installed
	$(INSTALL) dev
	@touch $@

# What it takes to run pg_durable with a server of its own.
$(VENV)/installed: pyproject.toml setup.py
	$(INSTALL) dev-server
	@touch $@

build: $(VENV)/ready
	$(RUN) -m generator
	$(RUN) -m tests.index

test: $(VENV)/ready
	$(RUN) -m pytest -n 2

test-versions: $(VENV)/ready
	$(RUN) -m tests.matrix --sample 14 15 16 17

test-matrix: $(VENV)/ready
	$(RUN) -m tests.matrix

check: $(VENV)/ready
	$(RUN) -m generator --check
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell

# The versions of everything that development needs, with their hashes; PG_DURABLE_LOCKED=1 make ... installs these.
lock: $(VENV)/ready
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-emit-index-url --custom-compile-command "make lock" --extra dev --extra docs \
	  --output-file requirements-dev.lock pyproject.toml

# The documentation as a site, in site/: .venv/bin/python -m http.server -d site
docs: $(VENV)/docs
	$(RUN) -m generator.site

$(VENV)/docs: $(VENV)/ready
	$(INSTALL) docs
	@touch $@

# Everything that is published, in packages/: built, checked, listed with its checksums.
release: $(VENV)/ready
	$(RUN) -m generator.packages

demo: $(VENV)/installed
	$(RUN) examples/demo/demo.py

# docs/demo.svg, filmed anew.
picture: $(VENV)/installed
	$(RUN) examples/demo/picture.py

# Everything takes long; `make bench BENCH=--quick` takes two minutes.
BENCH ?= --all
bench: $(VENV)/ready
	$(INSTALL) bench
	$(RUN) -m benchmarks $(BENCH)

# What no test reaches: lines of the package, functions of the database. TESTS chooses tests, by default all.
TESTS ?= -n 2
coverage: $(VENV)/ready
	$(RUN) -m tests.coverage $(TESTS)

mutants: $(VENV)/ready
	$(RUN) -m tests.mutants

soak: $(VENV)/ready
	$(RUN) -m tests.crash.soak

clean:
	rm -rf $(VENV) .dev .bench .matrix
