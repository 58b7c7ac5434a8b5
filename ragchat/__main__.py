"""``python -m ragchat``."""

from ragchat.cli import main

if __name__ == "__main__":
    main()
