"""Runs a script with every way to a network closed: python -I offline.py SCRIPT REQUEST ANSWERS."""

import runpy
import sys

MISSING = 3
CLOSED = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}


def refuse(event: str, _: object) -> None:
    if event in CLOSED:
        raise OSError(f"{event}: an export is proven without a network")


if __name__ == "__main__":
    sys.addaudithook(refuse)
    sys.argv = sys.argv[1:]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(MISSING)
