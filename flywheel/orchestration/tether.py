"""`python -m flywheel.orchestration.tether MODULE ARGUMENT...`: runs a module until standard input, a pipe, ends.

Then the module and all that it started in its process group are told to stop, and killed when they do not. A pipe ends with
the process that holds its other side, however that happens.
"""

import os
import runpy
import signal
import sys
import threading
import time

SECONDS_TO_STOP = 20


def main() -> None:
    """Run the module as `python -m` does. The process has to lead its group."""
    threading.Thread(target=_stop_at_eof, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _stop_at_eof() -> None:
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(SECONDS_TO_STOP)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
