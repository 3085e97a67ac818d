"""`python -m ciyuan` is `ciyuan`."""

from ciyuan.cli.main import run

if __name__ == "__main__":
    run()
