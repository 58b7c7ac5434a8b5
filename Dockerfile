# One process, one folder for data, nobody's privileges. A read-only root works:
#   docker run --read-only -p 8000:8000 -v ragchat:/data ragchat

FROM python:3.13-slim AS build
WORKDIR /source
RUN python -m venv /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY docs docs
COPY migrations migrations
COPY ragchat ragchat
RUN /app/bin/pip install --no-cache-dir -c constraints.txt '.[postgres,redis]'

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home ragchat && install -d -o ragchat /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAGCHAT_DATA_DIR=/data \
    RAGCHAT_HOST=0.0.0.0
USER ragchat
WORKDIR /data
VOLUME /data
EXPOSE 8000
# SIGTERM ends running answers within RAGCHAT_DRAIN_TIMEOUT; `docker stop` waits 10 s unless told otherwise.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('RAGCHAT_PORT', 8000)}/livez\", timeout=2)"]
CMD ["ragchat", "serve"]
