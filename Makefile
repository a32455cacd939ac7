# Each target sets up what it needs in .venv (scripts/setup; re-used when up to date).
# The environment may forbid .pyc files; our own processes start faster with them.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME PYTHONWARNINGS
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
BIN := .venv/bin
WORKERS ?= 2
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-heavy coverage coverage-judge lint format docs docs-html docs-run bench reference pin clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the whole life of a model on the NYC flights of 2013; ARGS=--quick for a sample, ARGS=--keep to explore it
	@scripts/setup demo
	$(BIN)/undrift demo $(ARGS)

# Test processes share the cores already: threads of numeric libraries would wait for each other by spinning.
test coverage coverage-judge: export OMP_NUM_THREADS := 1
test coverage coverage-judge: export OPENBLAS_NUM_THREADS := 1
test: ## all tests; ARGS="tests/state -k lease" for some, WORKERS=0 for one process
	@scripts/setup test demo
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-heavy: export HEAVY_TESTS := 1
test-heavy: export OMP_NUM_THREADS := 1
test-heavy: ## tests with PyTorch, TensorFlow, Keras, CatBoost, Spark, MLServer and Transformers, in environments of their own (3 GB)
	@scripts/heavy
	.venv-heavy/bin/python -m pytest -n $(WORKERS) --dist worksteal tests/heavy $(ARGS)
	KERAS_BACKEND=tensorflow .venv-heavy/bin/python -m pytest -n $(WORKERS) tests/heavy/test_keras.py

coverage: ## all tests, with the lines and branches they miss
	@scripts/setup test demo
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

JUDGE := deploy/judge.py deploy/rollout.py stats/betting.py stats/compare.py stats/sequential.py
coverage-judge: ## fails unless the tests of the judge's own files reach every line and branch of them
	@scripts/setup test demo
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q tests/deploy/test_judge.py tests/deploy/test_rollout.py tests/stats/test_betting.py \
		tests/stats/test_compare.py tests/stats/test_sequential.py
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --fail-under=100 --include="$(shell echo $(JUDGE:%=src/undrift/%) | tr ' ' ',')"

lint: ## ruff, mypy --strict, the import contract
	@scripts/setup test lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-logo

format: ## let ruff mend what it can
	@scripts/setup lint
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

docs: docs-html docs-run ## build the documentation (a warning is an error) and run its code blocks

docs-html:
	@scripts/setup docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-run:
	@scripts/setup test demo
	$(BIN)/python -m pytest tests/story/test_documents.py $(ARGS)

bench: ## each benchmark: a ratio to a named rival or a stated limit
	@scripts/setup test demo
	@ls benchmarks/bench_*.py >/dev/null 2>&1 || { echo "make bench: no benchmarks/bench_*.py here" >&2; exit 1; }
	@set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script" $(ARGS); done

reference: ## rewrite docs/reference/cli.md from the help texts
	@scripts/setup test
	$(BIN)/python scripts/reference.py

pin: ## rewrite constraints.txt; ARGS=--upgrade for the newest versions
	scripts/pin $(ARGS)

clean: ## remove what building and testing left (not .venv: delete that folder to start afresh)
	rm -rf build dist docs/_build htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests docs scripts -name __pycache__ -type d -prune -exec rm -rf {} +
