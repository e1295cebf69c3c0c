"""``python -m whence``, as torchrun starts it."""

from whence.cli import main

if __name__ == "__main__":
    main()
