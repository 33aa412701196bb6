# `make check` runs what CI runs on every change: format, lint, types, tests. `make docs package` needs the extra `docs`.
PYTHON ?= python3

.PHONY: check format lint types test docs package

check: lint types test

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -n 2 --dist loadfile

docs:
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --site-dir build/site

package:
	rm -rf build/package
	$(PYTHON) -m build --outdir build/package
	$(PYTHON) -m twine check --strict build/package/*
