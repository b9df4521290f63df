# `make demo` and `make test` need nothing but Python >= 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: demo test bench soak lint types proto check clean

demo: $(STAMP)
	$(BIN)/secure-mcp-grpc demo

test: $(STAMP)
	$(BIN)/python -m tests.tools.browser || $(BIN)/python -m playwright install chromium
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not soak" $(TESTS)

bench: $(STAMP)
	$(BIN)/python -m benchmarks

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak -s

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# Generated code is committed next to its users.
proto: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. --grpc_python_out=. \
	  proto/secure_mcp_grpc/v1/*.proto

check: lint types test

$(STAMP): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .artifacts

# After a change of the dependencies in pyproject.toml.
.PHONY: constraints
constraints:
	uv pip compile pyproject.toml --extra dev --generate-hashes --universal --python-version 3.11 \
	  --no-emit-index-url --no-annotate --no-header --no-emit-package secure-mcp-grpc -o constraints.txt
