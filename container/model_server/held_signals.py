"""Importing this, first of all, holds back the signals that ask to stop until somebody is there to hear them.

PID 1 of a container has no default actions: a signal that came while the program still imports would be lost. Whoever
installs handlers releases them.
"""

import signal

signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT))
