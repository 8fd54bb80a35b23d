# Everything a person runs. `make setup` is enough to work; the rest stand on it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CEPH := ceph-mon ceph-mgr ceph-osd radosgw ceph-common

.PHONY: setup demo demo-model test test-clusters lint format bench browser ceph faults faults-planted

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/condinst demo

demo-model: setup
	$(BIN)/condinst demo-model

# Three processes, where there are two cores: while one waits for what it has started, the others compute.
# They start hundreds more, each of which would compile the project where Python may not write what it compiled.
test: setup
	$(BIN)/python -m compileall -q condinst pipeline jobs
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=25 $(PYTEST_ARGS)

# Clusters of several processes, servers that are killed, whole loops: some minutes each, on a quiet machine.
test-clusters: setup
	$(BIN)/pytest -m cluster $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m tests.bench.$(or $(BENCH),masks) $(BENCH_ARGS)

# Debian's Chromium, for the tests of the viewer and the report; needs root.
browser:
	@dpkg -s chromium chromium-driver >/dev/null 2>&1 || { apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; }

# Debian's packages of Ceph, whose gateway is the S3 service of the fault tests; needs root.
ceph:
	@dpkg -s $(CEPH) >/dev/null 2>&1 || { apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(CEPH) >/dev/null; }

# Seeded faults against running jobs: docs/reliability.md. SEEDS=n FIRST_SEED=k choose them.
faults: setup
	$(BIN)/python -m tests.integration.faults --count $(or $(SEEDS),200) --first $(or $(FIRST_SEED),0)

# The same against a program with bugs: ends well when each is seen.
faults-planted: setup
	$(BIN)/python -m tests.integration.faults --planted
