"""The machine that figures were measured on. A figure without it means nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """Names and versions, for the head of a table and for the JSON beside it."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "virtual": _virtual(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def sentence(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores ({machine['virtual']}), {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}; load before: {machine['load_before']}"
    )


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _virtual() -> str:
    try:
        found = subprocess.run(["systemd-detect-virt"], capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        found = "virtual" if "hypervisor" in Path("/proc/cpuinfo").read_text() else "bare metal"
    return found or "unknown"
