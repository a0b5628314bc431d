#!/usr/bin/env bash
# Debian's arm64 Python and the aarch64 wheels of other runtimes in a folder, for `benchmarks.arm_instructions`.
#
# bash benchmarks/arm_root.sh FOLDER      (as root: it asks apt for another architecture's packages)
set -euo pipefail
folder=$(realpath -m "$1")
python=${PYTHON:-python3}
mkdir -p "$folder/debs" "$folder/root" "$folder/site"

dpkg --add-architecture arm64
apt-get update --quiet
cd "$folder/debs"
# The unpacked packages are never configured, so only what holds files counts.
packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
  python3.11:arm64 libgomp1:arm64 libstdc++6:arm64 | grep -o '^[a-z0-9][^ ]*:arm64$' | sort -u)
# shellcheck disable=SC2086
apt-get download --quiet $packages
for package in ./*.deb; do dpkg -x "$package" "$folder/root"; done
"$python" -m pip install --quiet --target "$folder/site" --only-binary=:all: --python-version 3.11 --implementation cp \
  --platform manylinux2014_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux_2_27_aarch64 \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_34_aarch64 numpy onnxruntime ncnn ai-edge-litert
