# What people and CI run. Each target stands alone; docs/testing.md says what each layer shows.
SHELL := /bin/sh
BIN := .venv/bin
PYTEST := $(BIN)/pytest
LAB := $(BIN)/python tests/lab/lab.py

.PHONY: help setup demo test lab lab-down bench faults lint unit sanity integration e2e molecule docs build

help:
	@echo "make demo       a lab of throwaway hosts, mail server applied, proved with real mail; left running"
	@echo "make test       everything that CI runs"
	@echo "make lab        the hosts alone;  make lab-down  end them and remove every trace"
	@echo "make bench      benchmarks, as ratios;  make faults  the full fault matrices"
	@echo "make lint unit sanity integration e2e molecule   one layer each;  make docs  the generated reference"

setup:
	@tests/setup

demo: setup
	@$(BIN)/python tests/demo/demo.py

lab: setup
	@$(LAB) up

lab-down: setup
	@$(LAB) down
	@MAILWRIGHT_LAB=.lab-2 $(LAB) down

build: setup
	@$(BIN)/ansible-galaxy collection build --force --output-path build

lint: setup
	@tests/run_lint

sanity: setup
	@tests/run_sanity

unit: setup
	$(PYTEST) tests/unit

integration: setup
	$(PYTEST) tests/integration

e2e: setup
	$(PYTEST) tests/e2e

molecule: setup
	tests/run_molecule

faults: setup
	MAILWRIGHT_FAULTS=all $(PYTEST) tests/integration -m faults

bench: setup
	@$(BIN)/python tests/bench/bench.py

docs: setup
	@$(BIN)/python tests/docs_reference.py

# Cheap layers first; one lab for all that need a mail server; the lab is ended whatever happened.
test: setup
	@tests/run_all
