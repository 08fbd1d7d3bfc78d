"""For all tests."""

import os
import signal

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # tests send nothing

# A shell's background job ignores SIGINT, and so would each process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
