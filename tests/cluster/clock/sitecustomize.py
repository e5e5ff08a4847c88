"""A machine whose clock is five minutes ahead, for Python."""

import time

_time = time.time
time.time = lambda: _time() + 300
