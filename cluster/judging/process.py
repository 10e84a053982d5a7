"""A process that simulates what the autopilot asks, beside the controller and behind everybody else's work.

Questions and answers are pickled, each after its length in four bytes, over the process's standard input and output,
which nobody but its parent holds. It ends when its input does, with the controller that started it. A question that
takes too long, or more memory than it may, ends it too, and its parent starts another.
"""

import os
import pickle
import resource
import signal
import struct
import sys
import time
from typing import BinaryIO

from cluster.planner.online.judge import Answer, judge
from cluster.simulator.world import simulate

LENGTH = struct.Struct(">I")
HEAD = struct.Struct(">fI")  # of a question: seconds to the alarm, and its length
NICE = 5  # far behind others where cores are scarce, and yet done within a minute
MAX_MEMORY_BYTES = 4 << 30  # of address space, numpy's threads included


def main() -> None:
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while head := sys.stdin.buffer.read(HEAD.size):
        alarm_s, length = HEAD.unpack(head)
        question = pickle.loads(sys.stdin.buffer.read(length))  # noqa: S301, of our parent
        signal.setitimer(signal.ITIMER_REAL, alarm_s)  # no handler: it ends the process
        began_s = time.process_time()
        answer = judge(question, simulate)
        took_s = time.process_time() - began_s
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        _write(answers, answer, took_s)


def _write(answers: BinaryIO, answer: Answer, took_s: float) -> None:
    body = pickle.dumps((answer, took_s))
    answers.write(LENGTH.pack(len(body)) + body)
    answers.flush()


if __name__ == "__main__":
    main()
