# make demo   sets up and runs the whole pipeline on this machine
# make test   sets up and runs every check and test
# make bench  sets up and measures ours against the former pipeline's way and, after make bench-peers, other servers
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: help setup setup-test demo test cluster-test bench bench-peers lint compile docs lock clean
help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.local  ## make .venv with all that a local run needs
setup-test: $(VENV)/.test  ## and all that the checks need

$(VENV)/.local: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing pinned packages into $(VENV), a few minutes the first time"
	$(PIP) --editable '.[local]'
	@touch $@

$(VENV)/.test: $(VENV)/.local
	$(PIP) --editable '.[local,deploy,vertex,test,lint]'
	@touch $@

demo: setup  ## reviews in, checked predictions out
	$(VENV)/bin/python pipeline_v2.py --local

# A process more than two cores have: some tests wait for servers.
test: setup-test lint  ## every check and test
	$(VENV)/bin/python -m pytest --numprocesses 3 --dist worksteal

cluster-test: setup-test  ## from an empty namespace to an endpoint and back, on the kubeconfig's cluster (CONTRIBUTING.md)
	NLP_PIPELINE_TEST_CLUSTER=1 $(VENV)/bin/python -m pytest tests/cluster -k real -s

bench: setup-test  ## ours against the former pipeline's way and other servers; QUICK=1 for a first look
	$(VENV)/bin/python -m benchmarks $(if $(QUICK),--quick)

bench-peers: setup-test  ## environments of the other servers, in build/peers or PEERS=folder
	$(VENV)/bin/python -m benchmarks.peers.environments

lint: setup-test  ## style, types, and what is generated against its source
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python pipeline_v2.py --compile --check
	$(VENV)/bin/python -m nlp_pipeline.docs --check

compile: setup-test  ## write the files in compiled/
	$(VENV)/bin/python pipeline_v2.py --compile

docs: setup-test  ## write the generated parts of docs/
	$(VENV)/bin/python -m nlp_pipeline.docs

# The newest versions that fit pyproject.toml, from a new environment; run the tests before you commit them.
lock:  ## write constraints.txt anew
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check '.[local,deploy,vertex,test,lint]'
	(echo '# What the project is tested with, on Python 3.11: written by `make lock`.'; \
	 build/lock/bin/python -m pip freeze | grep -v '^nlp-pipeline' | sed 's/+cpu$$//') > constraints.txt

clean:  ## remove .venv and what runs have written
	rm -rf $(VENV) build outputs src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
