#!/usr/bin/env bash
# Installs what building (`build`) and testing (`test`) need, on Debian and Ubuntu. Does nothing when all is there.
set -euo pipefail

build_tools=(gcc:gcc g++:g++ mold:mold make:make)
# command:package. The tests start these programs themselves, on loopback ports of their own.
test_tools=(
  /usr/sbin/sshd:openssh-server ssh:openssh-client /usr/lib/openssh/sftp-server:openssh-sftp-server sshpass:sshpass
  rsync:rsync plink:putty-tools zsh:zsh dash:dash tmux:tmux vim:vim busybox:busybox-static python3:python3
  /usr/sbin/telnetd:inetutils-telnetd ssh-keygen:openssh-client less:less setsid:util-linux bash:bash
)

have() { [[ $1 == /* ]] && [[ -e $1 ]] || command -v "$1" >/dev/null 2>&1; }

apt() {
  local sudo=()
  [[ $(id -u) == 0 ]] || sudo=(sudo)
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq "$@"
}

missing=()
want() { for pair in "$@"; do have "${pair%%:*}" || missing+=("${pair##*:}"); done; }

for what in "$@"; do
  case $what in
    build) want "${build_tools[@]}" ;;
    test) want "${test_tools[@]}"; python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv) ;;
    *) echo "usage: $0 [build] [test]" >&2; exit 2 ;;
  esac
done

if ((${#missing[@]})); then
  echo "installing: ${missing[*]}"
  apt update
  apt install -y --no-install-recommends "${missing[@]}" >/dev/null
fi

# Rust: what is there if it is new enough, else Debian's.
need=1.95
rust_ok() { command -v cargo >/dev/null 2>&1 && [[ $(printf '%s\n' "$need" "$(rustc --version | cut -d' ' -f2)" | sort -V | head -1) == "$need" ]]; }
if ! rust_ok; then
  apt update
  if apt-cache show rustup >/dev/null 2>&1; then
    apt install -y --no-install-recommends rustup >/dev/null && rustup default stable
  else
    apt install -y --no-install-recommends rustc-web cargo-web >/dev/null
  fi
  rust_ok || { echo "Rust $need or newer is needed; install it from https://rustup.rs and try again" >&2; exit 1; }
fi

for what in "$@"; do
  if [[ $what == test ]] && ! cargo nextest --version >/dev/null 2>&1; then
    echo "installing: cargo-nextest"
    cargo install --locked --quiet cargo-nextest
  fi
done
