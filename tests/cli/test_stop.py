"""A second stop signal hurries a process, unless its parent may just have passed on the first."""

import subprocess
import sys

PROGRAM = """
import asyncio, os, signal, threading
from offramp.cli.signals import Stop

async def main():
    with Stop(watch_stdin=True) as stop:
        parent = next(thread for thread in threading.enumerate() if thread.name == "offramp-parent")
        hurried = asyncio.create_task(stop.hurried())
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(4):  # it is written to the loop's pipe by now: read, handled, noticed
                await asyncio.sleep(0)
        print(stop.reason, hurried.done(), flush=True)
        await asyncio.to_thread(parent.join)
        os.kill(os.getpid(), signal.SIGTERM)
        await hurried
        print("hurried", flush=True)

asyncio.run(main())
"""


def test_a_process_is_hurried_by_a_second_signal_once_its_parent_is_gone():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "SIGTERM False\n"
        process.stdin.close()
        assert process.stdout.readline() == "hurried\n"
    assert process.returncode == 0
