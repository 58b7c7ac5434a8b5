#!/bin/sh
# Ask one question over server-sent events with curl, and watch the frames arrive:
#
#     RAGCHAT_TOKEN=ragchat-… sh curl.sh "How do I continue an interrupted answer?"
#
# The answer is in `data.answer`, piece by piece; the frame before the last one has the sources in
# `data.reference`; the last one is `data: true`. When the connection breaks, repeat the request with the
# header `Last-Event-ID: <the last id that came>` and the answer goes on from there.
set -eu

curl --no-buffer --silent --show-error --fail-with-body --get \
    --header "Authorization: Bearer ${RAGCHAT_TOKEN:?set it to an API token}" \
    --data-urlencode "chat_id=default" \
    --data-urlencode "question=$1" \
    "${RAGCHAT_URL:-http://127.0.0.1:8000}/v1/conversation/completion"
