"""Asks the controller of BATON_HOME's cluster for the roles that come in, a line `WORKER ROLE` each; for `role_flip`.

A process of its own, because Ray is told a cluster's token before it is imported. Answers each line with
`seconds answers-that-moved`.
"""

import sys

from cluster.commands.status import find
from workers.spec import Role


def main() -> None:
    controller = find()[1]
    print("ready", flush=True)
    for line in sys.stdin:
        worker_id, role = line.split()
        changed = controller.set_role(worker_id, Role(role))
        print(changed.took_s, changed.num_moved, flush=True)


if __name__ == "__main__":
    main()
