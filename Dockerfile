# The service with the pipelines of this repository.
#
# The versions are those of requirements.lock, checked by hash: requirements-runtime.lock without
# the development tools, requirements-build.lock for what builds the wheel.

FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements-build.lock requirements-runtime.lock ./
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes -r requirements-build.lock \
    && python -m venv /opt/processor \
    && /opt/processor/bin/pip install --require-hashes -r requirements-runtime.lock
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY migrations/processor migrations/processor
COPY processor processor
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/processor/bin/pip install --no-deps /wheels/*.whl \
    && /opt/processor/bin/python -m compileall -q /opt/processor/lib

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin processor
COPY --from=build /opt/processor /opt/processor
ENV PATH=/opt/processor/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY alembic.ini ./
COPY migrations migrations
COPY pipelines pipelines
USER processor
# The supervisor handles SIGTERM and waits for its workers, also as process 1. What workers leave
# behind is for an init to collect: `init: true` in docker-compose.yml, `docker run --init`.
STOPSIGNAL SIGTERM
CMD ["processor", "--help"]
