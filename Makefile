# Every target uses the active environment; see CONTRIBUTING.md for making one.
PYTHON ?= python
ARGS ?=

.PHONY: check test lint types bench wheel-test

check: lint types test

test:
	$(PYTHON) -m pytest -q -n auto --dist loadgroup $(ARGS)

lint:
	ruff check .
	ruff format --check .
	typos

types:
	mypy
	pyright --pythonpath "$$($(PYTHON) -c 'import sys; print(sys.executable)')"

bench:
	@set -e; for file in benchmarks/[!_]*.py; do \
		[ -e "$$file" ] || continue; \
		name=$${file#benchmarks/}; name=$${name%.py}; \
		echo "== python -m benchmarks.$$name --tiny"; $(PYTHON) -m benchmarks.$$name --tiny; \
	done

wheel-test:
	PYTHON="$(PYTHON)" .ci/wheel-test
