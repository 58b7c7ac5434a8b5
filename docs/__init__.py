"""ragchat's documentation, shipped in the wheel: the default chat answers from it."""
