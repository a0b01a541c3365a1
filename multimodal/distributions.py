"""What pip installed on this machine, and what this program asked it for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

PROJECT = "multimodal-chat"


def installed_version(package: str) -> str:
    """Empty where the package is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def requirements() -> list[str]:
    """What this program asks pip for, as it was installed; empty where it was not."""
    try:
        return requires(PROJECT) or []
    except PackageNotFoundError:
        return []
