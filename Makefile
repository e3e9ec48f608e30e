# Two commands set everything up: make demo, make test. Nothing is done again without need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test pytest lint clean
.SILENT:

setup: $(READY)

demo: $(READY)
	$(BIN)/smolplan demo

test: $(READY)
	$(MAKE) --no-print-directory --jobs 2 pytest lint

pytest: $(READY)
	$(BIN)/pytest --numprocesses 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	echo "Making the virtual environment $(VENV) and installing smolplan (about 1.5 GB, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[train,dev]'
	touch $@

clean:
	rm -rf $(VENV)
