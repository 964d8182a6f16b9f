# Sourced by the commands of this folder: a virtual environment of the checkout's own.
#
#   rvp_environment EXTRAS    makes or refreshes .venv and puts it first on PATH
#
# Nothing outside the checkout is changed. RVP_VENV names another place for the environment.

rvp_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
rvp_venv="${RVP_VENV:-$rvp_root/.venv}"

rvp_say() { printf '%s\n' "$*" >&2; }

rvp_fail() { # message, cure
    rvp_say "error: $1"
    [ -n "${2:-}" ] && rvp_say "  hint: $2"
    exit 4
}

rvp_environment() {
    local extras="$1" python="${PYTHON:-python3}" wanted
    command -v "$python" >/dev/null || rvp_fail "python3 is not installed" "apt-get install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        rvp_fail "$("$python" --version) is too old" "rvp needs Python 3.11 or newer (Debian 12 has it)"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        rvp_fail "this Python cannot make virtual environments" "apt-get install python3-venv"
    # With the checkout's environment activated, python3 would be the one that is about to be removed.
    python="$("$python" -c 'import sys; print(sys._base_executable or sys.executable)')"
    # The environment is made again when the extras, the interpreter or pyproject.toml change.
    wanted="$extras $("$python" -c 'import sys; print(sys.version)' | tr '\n' ' ') $(sha256sum <"$rvp_root/pyproject.toml")"
    if [ "$(cat "$rvp_venv/.rvp-environment" 2>/dev/null)" != "$wanted" ]; then
        rvp_say "making the virtual environment (packages: $extras) …"
        rm -rf "$rvp_venv"
        "$python" -m venv "$rvp_venv" || rvp_fail "could not make $rvp_venv" "apt-get install python3-venv"
        "$rvp_venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$rvp_root[$extras]" ||
            rvp_fail "could not install the packages of rvp" "check that PyPI or your index is reachable: pip config list"
        printf '%s' "$wanted" >"$rvp_venv/.rvp-environment"
    fi
    export PATH="$rvp_venv/bin:$PATH"
}

# Debian packages that a command needs: named, and installed when we may.
rvp_debian_packages() {
    local missing=() package
    command -v dpkg-query >/dev/null || rvp_fail "this is not a Debian machine" "install by hand: $*"
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || rvp_fail "these Debian packages are missing: ${missing[*]}" "sudo apt-get install ${missing[*]}"
    rvp_say "installing Debian packages: ${missing[*]} …"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
        >"${TMPDIR:-/tmp}/rvp-apt.$$.log" 2>&1 ||
        { tail -n 20 "${TMPDIR:-/tmp}/rvp-apt.$$.log" >&2; rvp_fail "apt-get could not install: ${missing[*]}" "apt-get update, then try again"; }
    rm -f "${TMPDIR:-/tmp}/rvp-apt.$$.log"
}

# A Docker engine: the one that answers, else a private one that is stopped when the command ends.
rvp_engine() {
    rvp engine status >/dev/null 2>&1 && return
    [ -z "${DOCKER_HOST:-}" ] || rvp_fail "no engine answers at DOCKER_HOST=$DOCKER_HOST" "correct it, or unset it"
    [ "$(id -u)" = 0 ] || rvp_fail "no Docker engine answers, and only root can start a private one" \
        "run as root, or install Docker and join the group docker"
    trap 'rvp engine stop >/dev/null 2>&1 || true' EXIT
    rvp engine start >&2
}
