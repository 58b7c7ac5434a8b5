"""ragchat: streaming chat over your documents, as a Quart blueprint with a WebSocket and an SSE fallback."""
