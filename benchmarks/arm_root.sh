#!/bin/sh
# Makes a folder with Debian's Python for 64-bit ARM and the aarch64 wheels of TVM and of other runtimes, for arm_peers.py
# and tests/targets/test_rpc.py. Needs apt, dpkg and pip; nothing is installed, and apt keeps its lists in the folder.
#
# usage: sh arm_root.sh FOLDER, which makes FOLDER/python; that needs qemu-aarch64, or QEMU=PATH in the environment
set -e
mkdir -p "$1/debs/partial" "$1/lists/partial" "$1/root" "$1/site"
cd "$1"
apt() {
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::status=/dev/null \
    -o Dir::State::lists="$PWD/lists" -o Dir::Cache::archives="$PWD/debs" "$@"
}
apt update
apt install -y --download-only python3.11-minimal libpython3.11-stdlib libgomp1 libstdc++6
for package in debs/*.deb; do dpkg -x "$package" root; done
python3 -m pip download -q --dest wheels --only-binary=:all: --python-version 3.11 --implementation cp \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
  "apache-tvm[rpc]" onnxruntime ncnn ai-edge-litert numpy
for wheel in wheels/*.whl; do python3 -m zipfile -e "$wheel" site; done
# Its own path is its argument 0, so that what it starts by sys.executable is emulated too.
cat >python <<END
#!/bin/sh
export PYTHONHOME="$PWD/root/usr" PYTHONPATH="$PWD/site"
exec "\${QEMU:-qemu-aarch64}" -cpu cortex-a76 -0 "\$0" -L "$PWD/root" "$PWD/root/usr/bin/python3.11" "\$@"
END
chmod +x python
