# The media server as an image; deploy/compose.yaml runs it together with what watches it.
#
#   docker build --target cpu --tag mediaserver .
#   docker run --network host --read-only --tmpfs /tmp --volume mediaserver:/var/lib/mediaserver \
#       --ulimit rtprio=20 --ulimit nofile=20000 --stop-timeout 40 mediaserver
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Debian's archive keeps the newest version of a package alone, so that a pinned one cannot be built next month.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The dependencies come before the code, so that a change of the code does not fetch them anew.
COPY constraints.txt pyproject.toml ./
RUN python -m venv /build \
    && python -m venv --without-pip /opt/mediaserver \
    && /build/bin/pip install --no-cache-dir -c constraints.txt setuptools cython \
    && /build/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && /build/bin/pip --python /opt/mediaserver/bin/python install --no-cache-dir -c constraints.txt -r requirements.txt
COPY LICENSE README.md setup.py ./
COPY engines ./engines
COPY http_api ./http_api
COPY mediaserver ./mediaserver
COPY rtp ./rtp
COPY sip ./sip
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/pip --python /opt/mediaserver/bin/python install --no-cache-dir --no-deps /wheels/*.whl

FROM ${BASE} AS cpu
# tini reaps what a worker that dies leaves behind, and passes SIGTERM on, upon which calls drain for sip.drain_s.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 mediaserver \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /var/lib/mediaserver \
        --shell /usr/sbin/nologin mediaserver \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/mediaserver
COPY --from=build /opt/mediaserver /opt/mediaserver
ENV PATH=/opt/mediaserver/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MEDIASERVER_STORE__PATH=/var/lib/mediaserver \
    MEDIASERVER_LOG__FORMAT=json \
    HEALTH_URL=http://127.0.0.1:8080/health
USER 10001:10001
WORKDIR /var/lib/mediaserver
VOLUME /var/lib/mediaserver
# And the RTP ports, 20000-29999/udp: ten thousand forwarded ports are why the network is the host's.
EXPOSE 5060/udp 5060/tcp 8080/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['HEALTH_URL'], timeout=4)"]
ENTRYPOINT ["tini", "--", "mediaserver"]
CMD ["serve"]

# For machines with an NVIDIA GPU. The extra `chatterbox` is not in it yet, so no engine uses one. The driver comes from
# NVIDIA's container toolkit, and CUDA will come with PyTorch's wheels, so that the base is no other.
FROM cpu AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
