# Targets that people and CI share. Each one does its own set-up.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
NATIVE := CMakeLists.txt $(wildcard resq_core/backends/native/*)
PEERS  := $(VENV)/.peers
CLIP   ?=
ARGS   ?=

# threads that spin for long while they wait starve everything else on a small machine
export GOMP_SPINCOUNT ?= 1000

.DEFAULT_GOAL := help
.PHONY: help demo serve test sanitize bench lint format clean

help:            ## show this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh $(NATIVE)
	PYTHON="$(PYTHON)" VENV="$(VENV)" scripts/setup.sh
	@touch $@

demo: $(STAMP)   ## stream a drawn street (or CLIP=path) through a real server, write out/demo/
	$(BIN)/resq demo $(if $(CLIP),--clip "$(CLIP)") --out out/demo $(ARGS)

serve: $(STAMP)  ## start the server and its web page on http://127.0.0.1:8000
	$(BIN)/resq serve $(ARGS)

test: $(STAMP)   ## run the test suite
	$(BIN)/python -m pytest $(ARGS)

sanitize: $(STAMP) ## run the native backend's tests under address and undefined-behaviour sanitizers
	VENV="$(VENV)" scripts/sanitize.sh $(ARGS)

$(PEERS): $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[peers]"
	@touch $@

bench: $(PEERS)  ## beside other runtimes on this CPU (ARGS="--only WORD"), then two clients for a minute
	$(BIN)/python -m benchmarks.table $(ARGS)
	$(BIN)/python -m benchmarks.linear
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python benchmarks/frames.py
	$(BIN)/python benchmarks/contention.py
	$(BIN)/python benchmarks/soak.py

lint: $(STAMP)   ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## format the code in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:           ## remove the virtual environment and everything written by the targets
	rm -rf $(VENV) build out resq_core/backends/_native*.so .pytest_cache .mypy_cache .ruff_cache
