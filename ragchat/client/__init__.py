"""The Python client.

    async with Client("http://127.0.0.1:8000", token) as client:
        answer = client.ask("How do I continue an interrupted answer?")
        async for text in answer:
            print(text, end="", flush=True)
        print(answer.reference["chunks"])

It speaks docs/protocol.md and knows nothing else of the service.
"""

from ragchat.client.answer import Answer
from ragchat.client.client import Client
from ragchat.client.errors import ChatError, ClientError, NetworkError

__all__ = ["Answer", "ChatError", "Client", "ClientError", "NetworkError"]
