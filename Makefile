# `make help` lists the targets. Everything runs in .venv, which `make install` builds and keeps current.

PYTHON ?= python3
KERNEL := $(wildcard hatch_build.py bgdiff/targets/forcefield/build.py bgdiff/targets/forcefield/src/*)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NOTEBOOKS := $(VENV)/.installed-notebooks
DOCS := $(VENV)/.installed-docs
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
# The packages of an extra, without bgdiff, whose kernel would be compiled once more.
EXTRA = $(BIN)/python -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
  print(*project["optional-dependencies"][sys.argv[1]])'

.DEFAULT_GOAL := help
.PHONY: help install test lint format demo notebook docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv with the versions in constraints.txt (skipped when up to date)

# A complete environment is updated in place; an interrupted one has no stamp and is made anew.
$(INSTALLED): pyproject.toml constraints.txt $(KERNEL)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "bgdiff needs Python 3.11 or newer, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "Name another one, for example: make $(or $(MAKECMDGOALS),install) PYTHON=python3.12" >&2; exit 1; }
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	@echo "installing bgdiff and its dependencies into $(VENV) (one to four minutes)"
	@$(PIP) -e '.[dev]'
	@touch $@

$(NOTEBOOKS): $(INSTALLED)
	@echo "installing JupyterLab and nglview into $(VENV)"
	@$(PIP) $$($(EXTRA) notebooks)
	@touch $@

$(DOCS): $(INSTALLED)
	@echo "installing Sphinx into $(VENV)"
	@$(PIP) $$($(EXTRA) docs)
	@touch $@

# One thread in each of the two test processes: more threads than cores are slower.
# The notebooks' packages are there for the tests of JupyterLab and of the structure views.
test: lint $(NOTEBOOKS) $(DOCS) ## check style and types, run every test, build the documentation (10 to 15 minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
	$(MAKE) --no-print-directory docs

lint: install ## check style and types only
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: install ## rewrite the sources in the project's style
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# A run that is there already is continued, and shown if it is complete.
demo: install ## alanine dipeptide from MD data to a corrected free energy, into runs/demo
	@if test -e runs/demo/run.json; then \
	  echo "continuing runs/demo; to start anew, remove it"; \
	  $(BIN)/bgdiff run --resume runs/demo; \
	else \
	  $(BIN)/bgdiff run alanine_dipeptide_vacuum --preset standard --out runs/demo --seed 0; \
	fi

# Their networks are too small for a second thread to gain, and threads that wait for a busy core lose much.
notebook: $(NOTEBOOKS) ## open the notebooks in JupyterLab
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m jupyterlab notebooks

# What Sphinx remembers of a build with warnings goes: unchanged pages would not warn again.
docs: $(DOCS) ## build the documentation site in build/docs; warnings are errors
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -j auto -W --keep-going -q -c docs -d build/doctrees . build/docs \
	  || { rm -rf build/doctrees; exit 1; }
	@echo "open build/docs/index.html"

clean: ## remove .venv and every cache (runs/ is kept)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist docs/api/generated bgdiff/targets/forcefield/lib
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
