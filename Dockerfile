# The service. The engine that it drives is reached through a mounted socket: see docker-compose.yml.
#   docker build -t flow-manager .            another base: --build-arg BASE=my/python:3.12
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY flow_manager flow_manager
COPY flow_sdk flow_sdk
# The build tools stay in an environment of their own; only the wheel and what it needs go on.
RUN python3 -m venv /build \
 && /build/bin/python -m pip install --no-cache-dir -c constraints.txt hatchling \
 && /build/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation -w /dist . \
 && python3 -m venv /opt/flow-manager \
 && /opt/flow-manager/bin/python -m pip install --no-cache-dir -c constraints.txt "$(ls /dist/*.whl)[fast]"

FROM ${BASE}
COPY --from=build /opt/flow-manager /opt/flow-manager
# What listens in a container is reached only through the ports that are published: see docker-compose.yml for loopback.
ENV PATH=/opt/flow-manager/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FLOW_MANAGER_HOST=0.0.0.0 \
    FLOW_MANAGER_PROXY_HOST=0.0.0.0 \
    FLOW_MANAGER_STATE_DIR=/state \
    FLOW_MANAGER_SOCKETS_DIR=/sockets
VOLUME ["/state", "/sockets"]
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["flow-manager"]
CMD ["serve"]
