# Targets that people and CI share. Each one does its own set-up.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
READY  := $(VENV)/.ready
NATIVE := CMakeLists.txt $(wildcard resq_core/backends/native/*)
PEERS  := $(VENV)/.peers
CLIP   ?=
ARGS   ?=
SOAK_SECONDS ?= 1800
WORKERS ?= 2
RAY_TESTS ?= streams resume clips admission protocol serving lifecycle client faults access poses requests server sinks pulls openapi \
	prometheus hostile_media durable_jobs remote_commands dashboard javascript load \
	console console_clips console_live console_marking

# threads that spin for long while they wait starve everything else on a small machine
export GOMP_SPINCOUNT ?= 1000

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-ray fuzz chaos soak load sanitize bench docs image lint format clean

help:            ## show this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

# what the demo and the server need is a third of what development needs
$(READY): pyproject.toml constraints.txt scripts/setup.sh $(NATIVE)
	PYTHON="$(PYTHON)" VENV="$(VENV)" scripts/setup.sh bench
	@touch $@

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh $(NATIVE)
	PYTHON="$(PYTHON)" VENV="$(VENV)" scripts/setup.sh dev
	@touch $(READY) $@

demo: $(READY)   ## stream a drawn street (or CLIP=path) through a real server, write out/demo/
	$(BIN)/resq demo $(if $(CLIP),--clip "$(CLIP)") --out out/demo $(ARGS)

serve: $(READY)  ## start the server and its web page on http://127.0.0.1:8000
	$(BIN)/resq serve $(ARGS)

test: $(STAMP)   ## run the test suite, in WORKERS processes (2)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-ray: $(STAMP) ## the service's tests with workers of Ray for the engine, twenty minutes
	TEST_ENGINE=ray $(BIN)/python -m pytest $(addprefix tests/service/test_,$(addsuffix .py,$(RAY_TESTS))) $(ARGS)
	$(BIN)/python -m pytest tests/service/test_ray.py $(ARGS)

chaos: $(STAMP)  ## faults against real servers, twenty minutes: kills, full disks, cut networks
	$(BIN)/python -m pytest -m chaos --timeout 1200 tests/chaos $(ARGS)

soak: $(STAMP)   ## streams and jobs come and go for SOAK_SECONDS (1800); nothing may stay of them
	$(BIN)/python -m benchmarks.soak --seconds $(SOAK_SECONDS) $(ARGS)

load: $(STAMP)   ## how many live streams at 10 fps this machine sustains, and what happens beyond
	$(BIN)/python -m benchmarks.load $(ARGS)

fuzz: $(STAMP)   ## 1,000,000 mutated messages, 10,000 damaged media files, the REST interface at length
	FUZZ_MESSAGES=$${FUZZ_MESSAGES:-1000000} FUZZ_FILES=$${FUZZ_FILES:-10000} FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-100} \
		$(BIN)/python -m pytest -s --timeout 3600 tests/fuzz tests/service/test_openapi.py $(ARGS)

sanitize: $(STAMP) ## run the native backend's tests under address and undefined-behaviour sanitizers
	VENV="$(VENV)" scripts/sanitize.sh $(ARGS)

$(PEERS): $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[peers]"
	@touch $@

bench: $(PEERS)  ## beside other runtimes on this CPU (ARGS="--only WORD")
	$(BIN)/python -m benchmarks.table $(ARGS)
	$(BIN)/python -m benchmarks.linear
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/resq bench
	$(BIN)/python benchmarks/contention.py

docs: $(STAMP)   ## the documents as a site, in out/site
	$(BIN)/python -m mkdocs build $(ARGS)

image:           ## build docker/Dockerfile on a bare Debian and run it (as root, without a registry)
	scripts/image.sh

lint: $(STAMP)   ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## format the code in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:           ## remove the virtual environment and everything written by the targets
	rm -rf $(VENV) build out resq_core/backends/_native*.so .pytest_cache .mypy_cache .ruff_cache
