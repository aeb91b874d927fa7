"""`python -m kd_perception.demo`: the same as `kd_perception demo`."""

import sys

from kd_perception.cli import main

sys.exit(main(['demo', *sys.argv[1:]]))
