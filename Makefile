# What one does with Sightline; `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help demo run backfill serve up down status connections-check audit test test-slow test-founding test-nightly test-group test-cluster chaos check bench environment development cluster jars peers lock

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: environment ## handwritten digits, end to end: ingest, features, classifier, report
	@.venv/bin/sightline demo

run: environment ## the same for a dataset of yours: DATASET=flowers [PARTITION=2026-11-05]
	@.venv/bin/sightline run '$(or $(DATASET),$(error Say which dataset: make run DATASET=flowers))' $(if $(PARTITION),--partition '$(PARTITION)')

backfill: environment ## many days of a dataset: DATASET=land_transport FROM=2026-10-01 TO=2026-10-31
	@.venv/bin/sightline backfill '$(or $(DATASET),$(error Say which dataset: make backfill DATASET=land_transport FROM=... TO=...))' --from '$(FROM)' --to '$(TO)'

status: environment ## what is there of each dataset
	@.venv/bin/sightline status

serve: environment ## a page to try the champions on, without Airflow: [DATASET=digits] [PORT=8000]
	@.venv/bin/sightline serve $(if $(DATASET),--dataset '$(DATASET)') $(if $(PORT),--port '$(PORT)')

up: environment ## Airflow with its UI, until Ctrl-C
	@.venv/bin/sightline up

down: environment ## stop Airflow with all it runs
	@.venv/bin/sightline down

connections-check: environment ## are all logins and servers there that the datasets need?
	@.venv/bin/sightline connections

test: check ## make check, then the tests; ARGS='-k tables' picks some
	@.venv/bin/pytest $(ARGS)

test-slow: development ## a real Airflow, trainings in several processes, studies, a little chaos (20 minutes)
	@.venv/bin/pytest -m 'slow or end_to_end or chaos' $(ARGS)

test-founding: development ## the five founding datasets whole, with their real networks, within 8 GiB (20 minutes)
	@.venv/bin/pytest -v --durations=0 -m founding $$(grep -l 'mark\.founding' tests/*.py) $(ARGS)

test-nightly: cluster ## a month's backfill, whole; all backbones; docker-compose.yaml's services (50 minutes)
	@.venv/bin/pytest -m nightly $(ARGS)

test-group: cluster ## the nightly tests that CI runs with this commit, or one group of them: [GROUP=soak] (15 minutes at most)
	@.venv/bin/python scripts/rotation.py run $(GROUP) $(ARGS)

test-cluster: cluster ## Postgres, Spark's master with two workers, S3 of this machine: whole runs on them (10 minutes)
	@.venv/bin/pytest -m cluster $(ARGS)

chaos: cluster ## things break: processes killed, disks full, a store that misbehaves; SIZE=10 [SEED=1] (two hours)
	@SIGHTLINE_CHAOS_SIZE='$(or $(SIZE),10)' SIGHTLINE_CHAOS_SEED='$(or $(SEED),1)' .venv/bin/pytest -m 'chaos or chaos_whole' $(ARGS)

check: development ## ruff and mypy
	@.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy

audit: development ## secrets in what git tracks, known vulnerabilities of the locked packages
	@.venv/bin/python scripts/audit.py

bench: environment peers ## all figures of docs/benchmarks.md anew (hours, 30 GB of disk); ARGS='night pca' picks some
	@.venv/bin/python -m benchmarks $(ARGS)

environment:
	@scripts/environment.sh

development:
	@scripts/environment.sh development

cluster:
	@scripts/environment.sh cluster

jars: ## what Spark needs for S3 and lineage beside its own jars, from Maven Central
	@scripts/environment.sh jars

peers:
	@scripts/environment.sh peers

lock: ## requirements*.txt anew from requirements*.in
	@scripts/environment.sh lock
