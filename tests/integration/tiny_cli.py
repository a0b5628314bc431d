"""`netlathe` with one more space, `tiny`."""

from tiny import add_tiny_space

from pipeline.cli import main

if __name__ == "__main__":
    add_tiny_space("tiny")
    main()
