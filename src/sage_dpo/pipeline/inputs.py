"""What a run's results depend on beside its recipe: machine, policy, files of data, suites."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sage_dpo.config import PolicySettings, RunConfig, Section
from sage_dpo.digests import digest_files
from sage_dpo.inputs import library_versions
from sage_dpo.pipeline.policies import policy_path
from sage_dpo.processes import Processes
from sage_dpo.records import Problem, problems_sha256

SAME_FOR_ALL = "give all machines the same command, files and installed versions"
_POLICY_FILES = {".safetensors", ".json", ".jinja", ".model", ".txt", ".py"}


def run_inputs(config: RunConfig, suites: Mapping[str, Sequence[Problem]], *, processes: int) -> dict[str, Any]:
    """Return the inputs of a run, for `Manifest`: nested mappings of names to hashes and words."""
    sources = {"problems": config.problems, "probe": config.probe, "pairs": config.pairs}
    return {
        **machine_inputs(processes),
        "policy": policy_inputs(config.policy),
        "sources": {name: digests for name, source in sources.items() if (digests := _source_digests(source))},
        "suites": {name: problems_sha256(problems) for name, problems in suites.items()},
    }


def agree_on_work(
    processes: Processes, *, problems: Mapping[str, Sequence[Problem]], policy: Any, seed: int, **settings: Section
) -> None:
    """Compare what a command of several processes works on: problems by name, the policy's hashes, settings, versions.

    Raises:
        ProcessError: another process has others; names what differs.
    """
    values = {
        "versions": library_versions(),
        "problems": {name: problems_sha256(some) for name, some in problems.items()},
        "policy": policy,
        "seed": seed,
        **{name: section.model_dump(mode="json") for name, section in settings.items()},
    }
    processes.agree("what is worked on", values, remedy=SAME_FOR_ALL)


def machine_inputs(processes: int = 1) -> dict[str, Any]:
    """Return the device, where it is the CPU, whose kernels sum by thread, the number of threads, and how many
    processes there are, where more than one: they sum gradients by process.
    """
    is_cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if is_cuda else "cpu"
    several = {"processes": processes} if processes > 1 else {}
    return {"machine": {"device": device, "threads": None if is_cuda else torch.get_num_threads(), **several}}


def policy_inputs(settings: PolicySettings) -> dict[str, Any]:
    """Return the hash of each of the policy's files, or the commit of a hub id."""
    folder = Path(policy_path(settings.path))
    if folder.is_dir():
        files = [path for path in sorted(folder.iterdir()) if path.suffix in _POLICY_FILES]
        return {name: digest["sha256"] for name, digest in digest_files(folder, files).items()}
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(str(folder), revision=settings.revision)
    return {"commit": getattr(found, "_commit_hash", None)}


def _source_digests(source: Any) -> dict[str, str]:
    """Return one hash for each file or folder that a section of the recipe reads; none for the gym and the hub."""
    files = getattr(source, "files", None) or ({"file": source} if hasattr(source, "path") else {})
    return {name: _tree_sha256(Path(file.path)) for name, file in files.items() if Path(file.path).exists()}


def _tree_sha256(path: Path) -> str:
    digests = digest_files(path.parent, [path])
    return hashlib.sha256(repr([(name, digest["sha256"]) for name, digest in digests.items()]).encode()).hexdigest()
