"""The dispatcher beside a source that never answers, as a storage behind a silent network."""

from __future__ import annotations

import subprocess
import sys

SILENT = """
import threading
from sweep.execution import dispatcher
from tests.support.trial_lists import Trials

class Silent(Trials):
    def ask(self):
        threading.Event().wait()
    def is_finished(self):
        return False
    def on_message(self, message):
        print(message)

dispatcher.LAST_ASK = 0.5
stop = threading.Event()
threading.Timer(0.5, stop.set).start()
with dispatcher.Dispatcher(Silent([]), limit=lambda _: 1, stop=stop) as given:
    print(given.next_trial())
"""


def test_a_source_that_never_answers_keeps_no_process_alive() -> None:
    done = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines()[0] == "FINISHED"
    assert "left to the next run" in done.stdout
