"""`python -m kd_perception`: the command line of a checkout that is not installed."""

import sys

from kd_perception.cli.console import kd_perception

if __name__ == '__main__':
    sys.exit(kd_perception())
