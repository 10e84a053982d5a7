"""Ends Ray on every host of a local.yaml: `ray down` ends the head's alone, and leaves some of the others' processes.

python stop_hosts.py local.yaml            before `ray down`
python stop_hosts.py local.yaml --clean    removes too what `ray up` put there: ~/baton, ~/ray_bootstrap_*, /tmp/ray
"""

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

STOP = "source ~/.bashrc && ray stop --grace-period 5"
CLEAN = "rm -rf ~/baton ~/ray_bootstrap_config.yaml ~/ray_bootstrap_key.pem /tmp/ray /tmp/ray_ssh_*"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--clean", action="store_true", help="remove what `ray up` put there")
    given = parser.parse_args()
    tree = yaml.safe_load(given.file.read_text())
    if tree["provider"]["type"] != "local":
        parser.error(
            f"{given.file}: provider.type is {tree['provider']['type']}; `ray down` ends a cloud's nodes itself"
        )
    command = f"{STOP} && {CLEAN} /tmp/cluster-{tree['cluster_name']}.*" if given.clean else STOP
    hosts = [*tree["provider"]["worker_ips"], tree["provider"]["head_ip"]]
    running = [(host, subprocess.Popen(ssh(tree["auth"], host, command))) for host in hosts]
    failed = [host for host, process in running if process.wait() != 0]
    if failed:
        print(f"not stopped: {', '.join(failed)}; is the host up, and does the key open it?", file=sys.stderr)
    return 1 if failed else 0


def ssh(auth: dict[str, str], host: str, command: str) -> list[str]:
    key = ["-i", str(Path(auth["ssh_private_key"]).expanduser())] if "ssh_private_key" in auth else []
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    shell = f"bash --login -c -i '{command}' 2>/dev/null"
    return ["ssh", *key, *options, f"{auth['ssh_user']}@{host}", shell]


if __name__ == "__main__":
    sys.exit(main())
