"""A kernel that ends while the worker speaks: every message that leaves it is whole."""

from __future__ import annotations

from queue import Empty

from jupyter_client.manager import start_new_kernel

SECONDS = 60
SPOKEN = 20
# What is larger than 64 kB zmq does not copy. The first such message starts the thread that frees them; the others
# still wait for a slow network when the program ends, and that thread with it.
TALK = f"""
import time
from IPython.display import display
from shrinkwidget.errors import Cancelled
from shrinkwidget.widgets.explorer import _WORKER

text = {{"text/plain": "large " * 20_000}}
display(text, raw=True)
network = get_ipython().kernel.iopub_thread

def talk(cancelled):
    while not cancelled():
        pass
    for _ in range({SPOKEN}):
        network.schedule(lambda: time.sleep(0.1))
        display(text, raw=True)
    raise Cancelled

_WORKER.latest("talk", talk)
"""


def test_what_was_said_before_the_end_arrives_whole() -> None:
    manager, client = start_new_kernel()
    try:
        reply = client.execute(TALK, reply=True, timeout=SECONDS)
        assert reply["content"]["status"] == "ok"
        client.shutdown()
        told: list[str] = []
        while told.count("display_data") < 1 + SPOKEN:
            try:
                told.append(client.get_iopub_msg(timeout=10)["msg_type"])  # raises for a message that is cut off
            except Empty:
                break
        assert told.count("display_data") == 1 + SPOKEN
        assert "stream" not in told
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
