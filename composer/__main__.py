"""`python -m composer`."""

import signal
import sys

try:
    from composer.cli.main import main

    code = main()
except KeyboardInterrupt:  # before or after main could see to it
    code = 130
# Whoever presses Ctrl+C once more while Python ends is obeyed without a word.
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.exit(code)
