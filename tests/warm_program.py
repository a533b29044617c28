"""What the processes of test_warm.py do."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Do what the first argument says."""
    word, *rest = sys.argv[1:]
    if word == "tell":
        variables = " ".join(f"{name}={value}" for name, value in sorted(os.environ.items()))
        for line in (os.getcwd(), variables, *rest):
            sys.stdout.buffer.write(os.fsencode(line) + b"\n")
        sys.stderr.buffer.write(sys.stdin.buffer.read())
    elif word == "descriptors":
        sys.stdout.write(" ".join(sorted(os.listdir("/proc/self/fd"))))
    elif word == "raise":
        raise ValueError("said by the child")
    elif word == "stay":
        signal.alarm(60)  # the longest that it may stay
        signal.pause()
    sys.exit(int(rest[0]) if word == "exit" else 0)
