"""The examples of zoti.engine need the extra 'engine'; without it they are left out, as the tests that need it are."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("onnxruntime") and find_spec("onnxscript") else ["zoti/engine.py"]
