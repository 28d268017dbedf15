# Everything runs in .venv, which is created on first use. NUTPROXY_DEBUG=1 works with every target.

PYTHON ?= python3
VENV ?= .venv
DEMO ?=
PYTEST ?= -n 2
SECONDS ?= 120
SOAK ?=
FUZZ ?=
COUNT ?= 100000
SEED ?= 1
ASAN ?=
BENCH ?=

BIN := $(VENV)/bin
# What `make applications` needs of Debian: the languages, and the libraries of PHP and Ruby.
APPLICATIONS := npm php php-redis php-predis php-memcached ruby ruby-redis ruby-dalli sidekiq
COMPILED := $(patsubst %.pxd,%.py,$(shell find nutproxy -name '*.pxd'))
UNCOMPILED := $(filter-out $(COMPILED),$(shell find nutproxy -name '*.py'))
SOURCES := setup.py $(shell find nutproxy -name '*.py' -o -name '*.pxd')
FLAVOUR := $(if $(filter-out 0,$(NUTPROXY_DEBUG)),debug,release)

# Debian's own servers are in sbin, which is not on every user's path.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test differential applications clients isolation soak fuzz asan lint format bench debug build clean

help:
	@echo "make demo    start three Redis servers and nutproxy, give a short tour, serve until Ctrl-C"
	@echo "             (make demo DEMO=--once ends after the tour)"
	@echo "make test    all tests; installs redis-server, memcached, nutcracker and memccapable if missing"
	@echo "             (make test PYTEST='-x tests/unit' passes options to pytest)"
	@echo "             (make test PYTEST='-m \"not slow\" -n 2' skips the soak test of two minutes)"
	@echo "make differential"
	@echo "             random conversations of several clients, with one Redis and with nutproxy:"
	@echo "             20 minutes (make differential COUNT=1000 SEED=7)"
	@echo "make applications"
	@echo "             Celery, Django, BullMQ, Sidekiq and others with one Redis and with nutproxy,"
	@echo "             PHP's sessions and others with memcached;"
	@echo "             installs each in an environment of its own in .applications: 5 minutes"
	@echo "make clients the newest clients in Go, Java and Rust, as far as Go, Maven and Cargo are there"
	@echo "make isolation"
	@echo "             sends every command with a million arguments and with one of 64 MB, while a"
	@echo "             client of another pool must not be delayed: 10 minutes"
	@echo "make soak    64 clients while servers die; no client may get another's reply: 2 minutes"
	@echo "             (make soak SECONDS=600 SOAK='-m 512 --protocol redis')"
	@echo "make fuzz    mutated input for parsers, merges and the configuration: 2 minutes"
	@echo "             (make fuzz SECONDS=600 FUZZ='--target config')"
	@echo "make asan    tests, fuzz and soak with AddressSanitizer, UndefinedBehaviorSanitizer and"
	@echo "             LeakSanitizer (make asan ASAN=tests/unit runs only these tests)"
	@echo "make lint    ruff, and mypy for the modules that are not compiled"
	@echo "make format  formats the sources with ruff"
	@echo "make bench   nutproxy, nutcracker, haproxy and an echo server side by side, 15 minutes;"
	@echo "             installs redis-server, memcached, nutcracker, haproxy, strace and valgrind"
	@echo "             (make bench BENCH='--only redis-get-p16' passes options: --all, --list,"
	@echo "             --placement own, --memory)"
	@echo "make build   compiles the modules that have changed"
	@echo "make debug   the same with bounds checks, assertions and line tracing"
	@echo "make clean   removes all generated files and .venv"

demo: build $(VENV)/.demo
	@$(BIN)/nutproxy demo $(DEMO)

test: build $(VENV)/.test
	@.ci/packages redis-server redis-cli memcached nutcracker memccapable
	$(BIN)/python -m pytest $(PYTEST)

differential: build $(VENV)/.test
	@.ci/packages redis-server redis-cli
	$(BIN)/python -m tests.stateful --count $(COUNT) --seed $(SEED)

applications: build $(VENV)/.test
	@.ci/packages redis-server memcached $(APPLICATIONS)
	NUTPROXY_APPLICATIONS=1 $(BIN)/python -m pytest -n 2 tests/applications

clients: build $(VENV)/.test
	@.ci/packages redis-server memcached
	$(BIN)/python -m pytest -rs tests/applications/clients.py

isolation: build $(VENV)/.test
	@.ci/packages redis-server redis-cli memcached
	NUTPROXY_ALL_ROWS=1 $(BIN)/python -m pytest tests/isolation/test_large_requests.py

soak: build $(VENV)/.test
	@.ci/packages redis-server redis-cli memcached
	$(BIN)/python -m tests.soak --seconds $(SECONDS) $(SOAK)

fuzz: build $(VENV)/.test
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(FUZZ)

asan: $(VENV)/.test
	@.ci/packages redis-server redis-cli memcached nutcracker
	$(BIN)/python -m tests.sanitize $(ASAN)

lint: build $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(UNCOMPILED) bench

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: build $(VENV)/.bench
	@.ci/packages redis-server redis-benchmark memcached nutcracker haproxy strace valgrind
	$(BIN)/python -m bench $(BENCH)

debug:
	@$(MAKE) NUTPROXY_DEBUG=1 build

build: $(VENV)/.$(FLAVOUR)

# An editable install: a change to an uncompiled module needs no build, and a change to a compiled
# module recompiles only that one.
$(VENV)/.installed: pyproject.toml setup.cfg setup.py | $(BIN)/python
	@echo "installing nutproxy into $(VENV) (this compiles it)"
	@$(BIN)/python -m pip install -q 'setuptools>=68' 'Cython>=3.3'
	@$(BIN)/python -c 'import setup; setup.require_toolchain()'
	@$(BIN)/python -m pip install -q --no-build-isolation -e .
	@touch $@

$(VENV)/.$(FLAVOUR): $(VENV)/.installed $(SOURCES)
	@$(BIN)/python setup.py -q build_ext --inplace
	@rm -f $(VENV)/.debug $(VENV)/.release
	@touch $@

# The package is installed already: this adds the dependencies of the extra.
$(VENV)/.demo $(VENV)/.test $(VENV)/.lint $(VENV)/.bench: $(VENV)/.%: $(VENV)/.installed
	@$(BIN)/python -m pip install -q 'nutproxy[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "nutproxy needs Python 3.10 or later; $(PYTHON) is not."; \
		echo "On Debian:  sudo apt-get install python3 python3-venv python3-dev gcc"; \
		echo "Another one:  make PYTHON=/path/to/python3"; exit 1; } >&2
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment."; \
		echo "On Debian:  sudo apt-get install python3-venv python3-dev gcc"; exit 1; } >&2

clean:
	rm -rf $(VENV) .applications build dist *.egg-info __pycache__ .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find nutproxy bench tests -name '*.so' -delete
	find nutproxy bench tests -name __pycache__ -prune -exec rm -rf {} +
