#!/bin/sh
# Builds qemu's user mode for 64-bit ARM, with plugins, from Debian 13's source: what Debian 12 packages (7.2) crashes in other
# runtimes' wheels, and what Debian 13 packages has no plugins. Needs apt, gcc, ninja and libglib2.0-dev, and three minutes
# on two cores; nothing is installed, and apt keeps its lists in the folder.
#
# usage: sh arm_qemu.sh FOLDER, which makes FOLDER/qemu-aarch64
set -e
mkdir -p "$1/lists/partial"
cd "$1"
root=$PWD
echo 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main' >sources.list
apt() {
  apt-get -qq -o Dir::State::status=/dev/null -o Dir::State::lists="$root/lists" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::Etc::sourcelist="$root/sources.list" "$@"
}
apt update
python3 -m venv python
python/bin/pip install -q 'meson>=1.5' pycotap
rm -rf source
mkdir source
cd source
apt source --download-only qemu
tar --strip-components=1 -xf qemu_*.orig.tar.xz
mkdir -p build
cd build
../configure --python="$root/python/bin/python" --target-list=aarch64-linux-user --without-default-features \
  --enable-plugins --disable-system --disable-tools --disable-docs --disable-install-blobs
ninja qemu-aarch64
ln -sf "$PWD/qemu-aarch64" "$root/qemu-aarch64"
