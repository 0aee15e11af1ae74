# Gatepost from a clean checkout: `make serve` and `make test`. `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help serve setup demo test check load bench matrix why soak translations lock clean

help: ## print this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

serve: .venv/serve ## start the server (port 8080); the first start prints a link that creates the first operator
	@exec $(BIN)/python serve.py

setup: .venv/develop ## make .venv with everything that serving, testing and measuring need

demo: .venv/serve ## a server, an emulated gateway with a guest's page on port 2060, and a voucher to try
	@exec $(BIN)/python -m portal demo $(ARGS)

test: .venv/develop ## run every test, a real browser included
	@$(BIN)/python tests/browser.py
	@$(BIN)/python -m gevent.monkey --module pytest

check: .venv/develop ## lint and check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

load: .venv/develop ## five minutes of gateways, guests and operators against a server; table and loadtests/out/report.html
	@$(BIN)/python -m loadtests.load $(ARGS)

bench: .venv/develop ## committed polls a second, and what each costs, beside every alternative
	@$(BIN)/python -m loadtests.bench $(ARGS)

matrix: .venv/develop ## one portal under eleven servers and six waits, in less than 40 minutes (WAIT=f SERVERS=gthread,ours for a part)
	@WAIT="$(WAIT)" SERVERS="$(SERVERS)" $(BIN)/python -m loadtests.matrix $(ARGS)

why: .venv/develop ## make threaded portals hang, one mechanism at a time; rewrites the figures in docs/why.md
	@$(BIN)/python -m loadtests.why.run $(ARGS)

soak: .venv/develop ## half an hour of steady polls: fails when tables, indexes, memory or open files grow
	@$(BIN)/python -m loadtests.soak $(ARGS)

translations: .venv/develop ## compile the guest pages' translations
	$(BIN)/python -m portal.web.catalogues $(ARGS)

lock: .venv/develop ## resolve the dependencies of setup.cfg anew into the two lock files
	$(BIN)/python tests/house/lock.py

clean: ## remove everything that make made, but not the state directory
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis loadtests/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, and this is " + sys.version.split()[0])'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "python3 cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }

.venv/serve: requirements.lock | .venv/bin/python
	@echo "Installing what serving needs into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

.venv/develop: requirements-dev.lock | .venv/bin/python
	@echo "Installing what testing and measuring need into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@ .venv/serve
