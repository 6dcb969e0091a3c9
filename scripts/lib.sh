# What the scripts share: saying things, installing packages, building. Sourced, not run.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$top/target}
binaries=(pea containerd-shim-pea-v2 peapod cni-bridge)

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "must run as root: sudo $0"; }

# The build needs a Rust toolchain. `sudo` drops the caller's PATH, so look where rustup puts it.
need_rust() {
    local user_home
    user_home=$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)
    if ! command -v cargo > /dev/null && [ -x "$user_home/.cargo/bin/cargo" ]; then
        export CARGO_HOME=${CARGO_HOME:-$user_home/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$user_home/.rustup}
        PATH=$user_home/.cargo/bin:$PATH
    fi
    command -v cargo > /dev/null || die "Rust is missing: install it with rustup (https://rustup.rs), 1.95 or newer"
}

# install_packages PACKAGE...: installs those that are missing, and says which.
install_packages() {
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get > /dev/null || die "please install: ${missing[*]}"
    say "installing ${missing[*]}"
    apt-get -o DPkg::Lock::Timeout=120 update -qq
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends \
        "${missing[@]}" > /dev/null
}

build_packages=(build-essential libseccomp-dev pkg-config)
run_packages=(busybox-static curl iproute2)

# Release binaries are static: they run on any distribution, and start without a dynamic linker. Build scripts and macros
# cannot be, so the target is named, which keeps the flags from them; that gives it a directory of its own.
binary_dir() { printf '%s/%s/release' "$target" "$(rustc -vV | sed -n 's/^host: //p')"; }
build_release() {
    say "building release binaries"
    # With addresses of their own, and none to correct at start: the stack, the heap and what is mapped are at random places
    # all the same.
    local libseccomp flags="-C target-feature=+crt-static -C relocation-model=static"
    libseccomp=$(cc -print-file-name=libseccomp.a)
    flags+=" -C link-arg=-Wl,-T,scripts/no-unwinding.ld -C link-arg=-Wl,--no-eh-frame-hdr"
    (
        cd "$top"
        export LIBSECCOMP_LINK_TYPE=static LIBSECCOMP_LIB_PATH=${libseccomp%/*} RUSTFLAGS=$flags
        build() { cargo build --release --locked --target "$(rustc -vV | sed -n 's/^host: //p')" "$@"; }
        [ $# = 0 ] || { build "$@"; exit; }
        # The shim by itself: cargo would give its event loop what only peapod's needs, which are 23 KiB in every pod.
        build --workspace --exclude pea-shim
        build -p pea-shim
    )
}
