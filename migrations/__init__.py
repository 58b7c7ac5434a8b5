"""The schema, step by step. `ragchat migrate` (and `ragchat serve`) applies what is missing, under a lock."""
