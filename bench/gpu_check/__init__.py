"""What only a machine with a GPU can show, in one command: `python3 -m bench.gpu_check` (docs/gpu.md).

To add a part: a module here with `run(check: Check) -> None`, and one line in `parts.py`.
"""
