"""Ask one question over WebSocket with the package `websocket-client`, as RAGFlow's guide does.

    pip install websocket-client
    RAGCHAT_TOKEN=ragchat-… python websocket_client.py "How do I continue an interrupted answer?"

Nothing of ragchat is needed on this side. Where the service is, RAGCHAT_URL says.
"""

import json
import os
import sys

import websocket

URL = os.environ.get("RAGCHAT_URL", "http://127.0.0.1:8000").replace("http", "ws", 1)
TOKEN = os.environ.get("RAGCHAT_TOKEN")


def main(question: str) -> int:
    """Print the answer as it grows, then the documents it cites. The result is the exit code."""
    socket = websocket.create_connection(f"{URL}/v1/ws/chat", header={"Authorization": f"Bearer {TOKEN}"})
    socket.send(json.dumps({"type": "chat", "chat_id": "default", "question": question}))
    reference = {}
    while True:
        frame = json.loads(socket.recv())
        if frame["code"] != 0:
            print(f"Error {frame['code']}: {frame['message']}", file=sys.stderr)
            return 1
        if frame["data"] is True:  # the marker: the answer is complete
            break
        print(frame["data"]["answer"], end="", flush=True)  # a delta; append it to what came before
        reference = frame["data"]["reference"] or reference  # comes with the last delta
    socket.close()
    print()
    for document in reference["doc_aggs"]:
        print(f"{document['count']} × {document['doc_name']}")
    return 0


if __name__ == "__main__":
    if TOKEN is None or len(sys.argv) != 2:
        sys.exit('Usage: RAGCHAT_TOKEN=ragchat-… python websocket_client.py "A question"')
    sys.exit(main(sys.argv[1]))
