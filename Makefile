# Two commands do everything: `make demo` and `make test`. Nothing has to be installed first but Python >= 3.10 with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The variable silences what the theme prints about its successor (docs/decisions/project.md).
DOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: demo test test-slow lint docs format clean

$(STAMP): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# Draws the embedded dataset, builds its five views on Ray, trains BMRL, evaluates it; a second run reuses what is there.
demo: $(STAMP)
	mkdir -p demo
	$(BIN)/bmrl-prep build --dataset demo --root demo/source --out demo/shards
	$(BIN)/bmrl-train --shards demo/shards --out demo/run --protocol demo-1 --preset demo --semantics sound --resume
	$(BIN)/bmrl-eval demo/run --shards demo/shards --out demo/eval
	cp demo/eval/report.html demo/report.html
	cp demo/eval/result.json demo/result.json
	@echo "report page: demo/report.html"

test: $(STAMP)
	$(BIN)/pytest -n 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/pytest -m "slow and not gpu"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(DOCS)

# The documentation as a site. A link, a name of the reference or a page of the menu that does not exist is an error.
docs: $(STAMP)
	$(DOCS)
	@echo "site: build/site/index.html"

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf demo
