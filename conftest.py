"""What holds for tests and for the docstrings' examples.

The examples of zoti.engine need the extra 'engine'; without it they are left out, as the tests that need it are.
"""

import os
from importlib.util import find_spec

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: before torch is imported, and for their children
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import zoti  # noqa: F401 - before all that greets its users, or greetings would follow pytest's last line

collect_ignore = ["tests/lib/device.py"]  # whoever imports it has that device for good
if not (find_spec("onnxruntime") and find_spec("onnxscript")):
    collect_ignore.append("zoti/engine.py")
