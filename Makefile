# make demo | test | check | docs | setup. Every target installs .venv first, unless it is up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check docs setup
.DELETE_ON_ERROR:

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "alexnet_dist needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# make demo DATA=/path/to/folder uses your own images: train/ and val/, or one folder per class. The path may contain
# spaces, quotes and dollar signs.
demo: $(READY)
	@$(BIN)/python -m alexnet_dist.demo $(if $(value DATA),--data='$(subst ','\'',$(value DATA))')

# Two tests at a time, of different files: most of them wait for processes that they have started.
test: $(READY)
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The pages as a site, build/docs/site/index.html. Broken links and anchors are errors. They are copied with their folders,
# since they link each other by their places in the repository.
PAGES = $(wildcard *.md docs/*.md docs/*/*.md docs/pictures/* benchmarks/*.md launch/*/*.md shards/*.md)

docs: $(READY)
	rm -rf build/docs
	mkdir -p build/docs/pages
	cp --parents $(PAGES) build/docs/pages
	cp docs/zensical.toml build/docs
	$(BIN)/zensical build --strict --config-file build/docs/zensical.toml
