"""`python -m retriever.cli`."""

from retriever.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
