"""`python -m service` is the command `lgm-pose`."""

from service.cli import main

if __name__ == "__main__":
    main()
