# make run: the server with its built-in presenter.  make test: everything that is tested by default.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test check fix bench clean

run: $(VENV)/.runtime
	$(BIN)/python app.py $(ARGS)

test: $(VENV)/.development
	$(BIN)/pytest $(ARGS)

check: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.development
	$(BIN)/python -m scripts.bench $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Vivace needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# MediaPipe would bring a second OpenCV with it: requirements-studio.txt.
$(VENV)/.runtime: requirements.txt requirements-studio.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements.txt
	$(INSTALL) --no-deps -r requirements-studio.txt
	touch $@

$(VENV)/.development: requirements-dev.txt requirements.txt requirements-studio.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements-dev.txt
	$(INSTALL) --no-deps -r requirements-studio.txt
	touch $@ $(VENV)/.runtime
