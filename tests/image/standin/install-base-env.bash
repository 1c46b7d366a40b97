#!/bin/bash
# The place of repo2docker's script of this name, which fetches micromamba and lets it make the environment from conda-forge.
# Made here: the same environment in the same place, a virtual environment of the Python that the base image has, with the packages of Python that the real one begins with, at their versions.
set -euo pipefail
cd "$(dirname "$0")"
unset HOME

mkdir -p "$CONDA_DIR/bin" "$CONDA_DIR/etc/profile.d"
python3 -m venv --copies "$NB_PYTHON_PREFIX"
python3 /tmp/env/standin-base.py < "$NB_ENVIRONMENT_FILE" > /tmp/env/standin-base.txt
/opt/standin/uv pip install --no-cache --no-deps --python "$NB_PYTHON_PREFIX/bin/python" --requirement /tmp/env/standin-base.txt
mkdir -p "$NB_PYTHON_PREFIX/conda-meta"
install -m 755 /tmp/standin-mamba "$CONDA_DIR/bin/mamba"
echo "export PATH=$NB_PYTHON_PREFIX/bin:\$PATH" > "$CONDA_DIR/etc/profile.d/conda.sh"
"$MAMBA_EXE" list -p "$NB_PYTHON_PREFIX"
chown -R "$NB_USER:$NB_USER" "$CONDA_DIR"  # at the end, since a Python that root starts leaves files of root's
