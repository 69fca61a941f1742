# A coordinator, a relay or a page; `docker compose up` starts all three (compose.yaml).
FROM python:3.12-slim

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# The index of PyTorch without CUDA: a coordinator trains nothing.
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu ".[s3]" \
    && useradd --create-home --uid 1000 duckweed \
    && mkdir /runs && chown duckweed /runs

USER 1000
WORKDIR /runs
VOLUME /runs
ENTRYPOINT ["duckweed"]
CMD ["--help"]
