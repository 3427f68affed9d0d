# The few commands people use. Everything they need they install themselves, again and again without harm.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHANGELOG := CHANGELOG.md
TRIED := $(CURDIR)/build/tried
DEMO := $(BIN)/clusterctl -i .lab/demo/inventory.yaml

.PHONY: demo test lint types docs setup unit image podman lab-test lab-starts show-lab-starts lab-looks house bench faults modes release-notes try-wheel clean help

help: ## Show these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo ## Set up everything, bring a two-node lab up, serve a model, show a completion and the status
	$(BIN)/clusterctl lab setup
	$(BIN)/clusterctl lab up --name demo --nodes 2 --gpus 1 --dir .lab/demo
	$(DEMO) up
	$(BIN)/python docs/tutorial/ask.py .lab/demo/inventory.yaml
	$(DEMO) status
	@echo
	@echo "The cluster goes on serving. To end it:"
	@echo "  $(DEMO) down && $(BIN)/clusterctl lab down --name demo"

# A lab's tests use half of two cores: they wait for nodes, silences and servers that load. So two labs run side by side.
# A failure of one fails this, once the other has ended. What needs no lab runs before them, alone: it has deadlines.
SIDE_BY_SIDE := --no-print-directory --keep-going --output-sync=target

test: lint types docs setup unit lab-test ## Set up everything and pass all checks and tests, the lab's included

lint: $(VENV)/.dev ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Types
	$(BIN)/mypy

docs: $(VENV)/.dev ## Build the documentation, strictly
	$(BIN)/mkdocs build --strict --quiet

setup: $(VENV)/.dev ## Install the Debian packages that the lab, and the tests of SSH, pages and metrics, need (root)
	$(BIN)/clusterctl lab setup --for-tests

unit: $(VENV)/.dev ## Tests that need neither root nor a lab
	$(BIN)/pytest -m "not lab"

# By itself, because the tests have time-outs: whatever lab is made first brings the image. (Its first `down` is for what
# a run that was cut off has left.)
image: setup ## Build the lab's image, unless it is there
	$(BIN)/clusterctl lab down --name test-image
	$(BIN)/clusterctl lab up --name test-image --nodes 1
	$(BIN)/clusterctl lab down --name test-image

lab-test: setup ## Tests on real nodes, in two labs side by side (root)
	$(MAKE) $(SIDE_BY_SIDE) --jobs=2 lab-starts lab-looks

# Shown as it runs, by way of a make of its own: the others show what they have said when they end.
lab-starts: image
	$(MAKE) --no-print-directory --output-sync=none show-lab-starts

show-lab-starts:
	$(BIN)/pytest -m "lab and starts" --durations=20

lab-looks: image
	CLUSTERCTL_TEST_LAB=$${CLUSTERCTL_TEST_LAB:-pytest}-looks $(BIN)/pytest -m "lab and not starts" --durations=20

podman: setup ## Tests on a lab node with Podman (root); the first time its Debian is fetched
	CLUSTERCTL_TEST_PODMAN=1 $(BIN)/pytest tests/lab/test_podman.py --durations=20

house: $(VENV)/.dev ## The shape of the code in figures: rooms, floors, sizes, who names Ray
	$(BIN)/python -m tests.house

bench: setup ## Measure `up` against a hand-written script, and `check` against pssh and ansible, side by side (root)
	$(BIN)/python benchmarks/up_vs_script.py
	$(BIN)/python benchmarks/check_vs_pssh.py

faults: setup ## Break a cluster that serves, and one that starts, in every way; hold what clusterctl says against the truth (root; 2 hours)
	$(BIN)/python benchmarks/faults_while_serving.py
	$(BIN)/python benchmarks/faults_at_random.py --matrix
	$(BIN)/python benchmarks/faults_at_random.py --runs 100 --seed 1

modes: setup ## Serve in every way, and break each; goes on where it was cut off (root; hours)
	$(BIN)/python benchmarks/modes.py --healing
	$(BIN)/python benchmarks/modes.py --table > docs/reference/ways-to-serve.md

release-notes: ## Print what is new: the newest section of CHANGELOG.md
	@awk '/^## /{sections++} sections == 1' $(CHANGELOG)

try-wheel: $(VENV)/.dev ## Build the wheel, and run it as pip, pipx and uvx install it, each in an environment of its own
	rm -rf $(TRIED) && mkdir -p $(TRIED)
	$(BIN)/pip wheel -q --no-deps --wheel-dir $(TRIED) .
	$(PYTHON) -m venv $(TRIED)/pip && $(TRIED)/pip/bin/pip install -q $(TRIED)/*.whl
	$(TRIED)/pip/bin/clusterctl --version && $(TRIED)/pip/bin/python -m clusterctl --version
	$(PYTHON) -m venv $(TRIED)/tools && $(TRIED)/tools/bin/pip install -q pipx uv
	PIPX_HOME=$(TRIED)/pipx PIPX_BIN_DIR=$(TRIED)/bin $(TRIED)/tools/bin/pipx install --quiet $(TRIED)/*.whl
	$(TRIED)/bin/clusterctl --version
	$(TRIED)/tools/bin/uvx --from $(TRIED)/*.whl clusterctl --version

clean: ## Remove what these commands made in this directory (labs: clusterctl lab down)
	rm -rf $(VENV) site dist $(TRIED) .mypy_cache .ruff_cache .pytest_cache .hypothesis

# A bare Debian has python3 without venv; everything else comes from PyPI.
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); apt-get update -q && apt-get install -y -q python3-venv && $(PYTHON) -m venv $(VENV); }

$(VENV)/.demo: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install -q --disable-pip-version-check -e '.[lab]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install -q --disable-pip-version-check -e '.[lab,dev]'
	touch $@
