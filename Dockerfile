# One image for Airflow's parts, Spark's master and its workers: the same library everywhere.
#
#   docker build --target runtime --tag sightline .

FROM python:3.11-slim-bookworm AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# The lock file alone, so that an edit of our code builds no environment anew.
FROM base AS environment
RUN pip install --no-cache-dir uv==0.13.9
COPY requirements.txt /build/
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv --quiet --python /usr/local/bin/python3.11 /opt/venv \
    && uv pip install --quiet --python /opt/venv/bin/python --no-deps --compile-bytecode \
       -r /build/requirements.txt
COPY pyproject.toml README.md /build/
COPY include/sightline /build/include/sightline
RUN uv pip install --quiet --python /opt/venv/bin/python --no-deps --compile-bytecode /build

# hadoop-aws and OpenLineage's listener for Spark, which PyPI's pyspark has not.
FROM maven:3.9-eclipse-temurin-17 AS jars
COPY deploy/jars/pom.xml /build/
RUN mvn --batch-mode --quiet --file /build/pom.xml dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory=/jars

FROM base AS runtime
# Debian's own pins hold the versions of bookworm; a pin of ours would break with its next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless procps \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /var/lib/sightline sightline \
    && install -d -o sightline -g sightline -m 700 \
       /var/lib/sightline/airflow /var/lib/sightline/airflow/logs \
       /var/lib/sightline/state /var/lib/sightline/spark
COPY --from=environment /opt/venv /opt/venv
COPY --from=jars /jars/ /opt/jars/
WORKDIR /opt/sightline
COPY deploy/entry.sh deploy/prepare.sh deploy/pools.json deploy/
COPY dags dags
COPY plugins plugins
COPY spark_jobs spark_jobs
COPY include include
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYSPARK_PYTHON=/opt/venv/bin/python \
    SIGHTLINE_HOME=/opt/sightline \
    SIGHTLINE_JARS=/opt/jars \
    SIGHTLINE_STATE=/var/lib/sightline/state \
    AIRFLOW_HOME=/var/lib/sightline/airflow
USER 10001
ENTRYPOINT ["deploy/entry.sh"]
CMD ["airflow", "version"]
