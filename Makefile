# Every target sets up what it needs. Variables: PYTHON (3.11 or newer), FEMNN_ENV (where the
# environment lies), RANKS, PYTEST_ARGS, DEMO, STUDY, STUDY_ARGS, REPRODUCE, GALLERY, FUZZ, FUZZ_RANKS.
PYTHON ?= python3
RANKS ?= 2 3
PYTEST_ARGS ?= -n 2 --dist worksteal
DEMO ?= nonlinear_poisson
STUDY ?= nonlinear_poisson
STUDY_ARGS ?=
REPRODUCE ?=
GALLERY ?=
FUZZ ?=
FUZZ_RANKS ?= 1
OUTPUT ?= output

# Runs may be by root in a container, and with more ranks than cores; the library sets none of these.
export OMP_NUM_THREADS := 1
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export OMPI_MCA_rmaps_base_oversubscribe := 1

INSTALL := $(PYTHON) -m install
ENV = $(shell $(INSTALL) path)
RUN = PYTHONPATH="$(CURDIR)" "$(ENV)/bin/python"
RUN_DOCS = PYTHONPATH="$(CURDIR):$(ENV)/docs-packages" "$(ENV)/bin/python"
SPHINX = PETSC_OPTIONS="-options_left no" $(RUN_DOCS) -m sphinx --quiet

.DEFAULT_GOAL := help
.PHONY: help env env-path demo study reproduce test docs docs-check docs-packages linkcheck gallery bench fuzz lint doctor clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

env: ## Build what is missing of the environment (about 12 min the first time)
	@$(INSTALL) build

env-path: ## Print the environment's folder
	@$(INSTALL) path

demo: env ## Run a demo, figures go to output/ (DEMO=name picks one)
	@$(RUN) demos/$(DEMO).py

study: env ## Run a larger demo into output/studies/ (STUDY=soil STUDY_ARGS=--help)
	@$(RUN) -m demos.studies.$(STUDY) --output $(OUTPUT)/studies/$(STUDY) $(STUDY_ARGS)

reproduce: env ## Solve the published problems, write docs/reproduction.md (REPRODUCE="--only heat" picks)
	@$(RUN) -m benchmarks.published $(REPRODUCE)

test: env ## Run all tests, on 1, 2 and 3 ranks
	@PYTHON="$(ENV)/bin/python" RANKS="$(RANKS)" LOGS="$(OUTPUT)/tests" tests/run.sh $(PYTEST_ARGS)

docs: docs-packages ## Build the documentation's site into output/docs; all its code is run (8 min, then what changed)
	@$(SPHINX) --fail-on-warning --nitpicky --doctree-dir "$(OUTPUT)/docs-work/doctrees" docs "$(OUTPUT)/docs"
	@echo "Open $(OUTPUT)/docs/index.html"

docs-check: docs-packages ## Check pages, references, links inside and spelling, without running code (half a minute)
	@$(SPHINX) --fail-on-warning --nitpicky -E -D run_pages=0 --doctree-dir "$(OUTPUT)/docs-check/doctrees" docs "$(OUTPUT)/docs-check/html"
	@$(RUN_DOCS) -m codespell_lib --ignore-words docs/words.txt README.md CONTRIBUTING.md CHANGELOG.md docs demos femnn
	@echo "Pages, references and spelling are right."

linkcheck: docs-packages ## Follow the links to other sites (needs the network)
	@$(SPHINX) -b linkcheck -D run_pages=0 --doctree-dir "$(OUTPUT)/docs-check/doctrees" docs "$(OUTPUT)/docs-check/links"

docs-packages: env
	@$(INSTALL) docs

gallery: env ## Draw the studies' figures for the documentation anew (GALLERY="tissue" picks; half an hour)
	@$(RUN) -m docs.site.gallery $(GALLERY)

fuzz: env ## Draw problems, compare with the network in UFL (FUZZ="--minutes 60", FUZZ_RANKS=2)
	@PYOP2_CFLAGS=-O0 PYTHONPATH="$(CURDIR)" mpiexec -n $(FUZZ_RANKS) "$(ENV)/bin/python" -m tests.fuzz $(FUZZ)

bench: env ## Run the benchmarks
	@$(RUN) -m benchmarks

lint: env ## Check style and types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

doctor: env ## Print versions and run a ten-second self-check
	@$(RUN) -m femnn doctor

clean: ## Remove outputs and caches of this checkout (not the environment)
	rm -rf $(OUTPUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
