PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: serve test lint proto

serve: $(VENV)/serve.stamp  ## REST on 127.0.0.1:8000 and gRPC on 127.0.0.1:50051
	$(BIN)/python -m service

test: lint  ## every test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/test.stamp  ## types and style
	$(BIN)/mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# the oldest protoc whose stubs run with the protobuf versions that pyproject.toml allows: 6.30 to 7
proto: | $(BIN)/python  ## the stubs of the service and of the client from proto/
	$(BIN)/python -m venv $(VENV)/proto
	$(VENV)/proto/bin/python -m pip install --quiet --disable-pip-version-check grpcio-tools==1.72.2
	$(VENV)/proto/bin/python scripts/stubs.py

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/serve.stamp: pyproject.toml client/pyproject.toml | $(BIN)/python
	$(PIP) --editable './client[video]' --editable .
	touch $@

$(VENV)/test.stamp: pyproject.toml client/pyproject.toml | $(BIN)/python
	$(PIP) --editable './client[video]' --editable '.[test]'
	touch $@ $(VENV)/serve.stamp

.PHONY: test-compose board

test-compose: $(VENV)/test.stamp  ## the stack in a Docker engine, which must run
	$(BIN)/python -m pytest -m compose tests/compose

board: $(VENV)/test.stamp  ## docs/board.png, drawn from a loaded service; needs a prometheus binary
	$(BIN)/python -m tests.deploy.loaded_run docs/board.png

.PHONY: fuzz

fuzz: $(VENV)/test.stamp  ## some 1,400 requests made of the OpenAPI document, against a service of its own
	$(BIN)/python -m tests.api.fuzz_openapi 100

.PHONY: docs

docs: $(VENV)/test.stamp  ## the pages as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: page

page: $(VENV)/test.stamp  ## docs/page.png, the picture of the page; needs chromium
	$(BIN)/python -m tests.page.screenshot docs/page.png
