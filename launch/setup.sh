#!/usr/bin/env bash
# Sets up deeph-mpi in .venv of this repository: bash launch/setup.sh [--dev] [--dry-run]
#
#   --dev      also the tools of launch/test.sh (pytest, ruff, mypy)
#   --dry-run  say what would be installed, change nothing
#
# PETSc comes from PETSC_DIR (with PETSC_ARCH, SLEPC_DIR) if that is set, else from what an earlier call found, else from
# a petsc4py that python3 can import, else from Debian's packages, which apt-get installs where they are missing (as root,
# or with sudo). PETSc is never compiled. What was found is written into the environment, so that .venv/bin/deeph-mpi
# needs no variables. The package itself is installed editable: the sources of this clone are what runs, changed ones at
# once. Safe to interrupt and to repeat; quick when there is nothing to do.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
record=$venv/deeph-mpi-setup
torch="torch==2.13.0"   # a range would take several GB of CUDA packages
debian_packages=(
    python3-petsc4py-real python3-slepc4py-real python3-petsc4py-complex python3-slepc4py-complex
    python3-mpi4py openmpi-bin libopenblas0 python3-venv
)

dev=0 dry=0
for option in "$@"; do
    case $option in
        --dev) dev=1 ;;
        --dry-run) dry=1 ;;
        *) echo "setup.sh: unknown option $option (known: --dev, --dry-run)" >&2; exit 2 ;;
    esac
done

say() { echo "setup: $*"; }
fail() { echo "setup: error: $*" >&2; exit 1; }

hash_of() { sha256sum | cut -d' ' -f1; }

# What the environment depends on.
environment_hash() { { echo "$root"; cat "$root"/launch/setup.sh "$root"/pyproject.toml; } | hash_of; }

recorded() { [[ -f $record.$1 && $(<"$record.$1") == "$2" ]]; }
note() { echo "$2" >"$record.$1.tmp" && mv "$record.$1.tmp" "$record.$1"; }

# Directory that holds module $2 for interpreter $1, or nothing. The environment's own packages are not asked.
home_of() {
    "$1" -c "import importlib.util as u, os; s = u.find_spec('$2'); print(os.path.dirname(s.submodule_search_locations[0]) if s else '')" \
        2>/dev/null || true
}

debian_home() { compgen -G "/usr/lib/$1dir/$1*/*-real/lib/python3/dist-packages" | sort -V | tail -n 1 || true; }

# Sets: python (interpreter), petsc and slepc (directories of petsc4py and slepc4py), site (where they come from).
find_petsc() {
    python=/usr/bin/python3 petsc="" slepc="" site=""
    local own candidate
    own=$(command -v python3 || true)
    if [[ -z ${PETSC_DIR:-} && -f $record.petsc ]]; then
        { read -r _; read -r python; read -r petsc; read -r slepc; read -r site; } <"$record.petsc"
        [[ -d $petsc/petsc4py && -d $slepc/slepc4py ]] && return
        python=/usr/bin/python3
    fi
    if [[ -n ${PETSC_DIR:-} ]]; then
        python=${own:-$python}
        for candidate in "$PETSC_DIR/${PETSC_ARCH:-}/lib" "$PETSC_DIR/lib" "$PETSC_DIR/lib/python3/dist-packages"; do
            [[ -z $petsc && -d $candidate/petsc4py ]] && petsc=$candidate
        done
        for candidate in "${SLEPC_DIR:-$PETSC_DIR}/${PETSC_ARCH:-}/lib" "${SLEPC_DIR:-$PETSC_DIR}/lib" \
            "${SLEPC_DIR:-$PETSC_DIR}/lib/python3/dist-packages"; do
            [[ -z $slepc && -d $candidate/slepc4py ]] && slepc=$candidate
        done
        [[ -n $petsc ]] || petsc=$(home_of "$python" petsc4py)
        [[ -n $slepc ]] || slepc=$(home_of "$python" slepc4py)
        site="PETSC_DIR=$PETSC_DIR"
        [[ -n $petsc && -n $slepc ]] || fail "$site, but no petsc4py and slepc4py belong to it. Install both for that" \
            "PETSc (configure --with-petsc4py, --with-slepc4py), or unset PETSC_DIR to use Debian's PETSc."
        petsc=$(realpath "$petsc") slepc=$(realpath "$slepc")
        [[ $petsc == /usr/lib/* ]] && python=/usr/bin/python3
        return 0
    fi
    petsc=$(debian_home petsc) slepc=$(debian_home slepc)
    if [[ -n $own ]]; then
        candidate=$(home_of "$own" petsc4py)
        if [[ -n $candidate && $candidate != /usr/lib/* ]]; then
            python=$own petsc=$candidate slepc=$(home_of "$own" slepc4py) site="petsc4py of $own"
            [[ -n $slepc ]] || fail "$own has petsc4py ($petsc) but no slepc4py: install it, or take petsc4py off the path."
            return
        fi
    fi
    site="Debian's packages"
}

# MUMPS with Scotch, which orders better than what the plain one has: used where it is (solvers/petsc.py), not required.
# Its name ends with the version of Debian's MUMPS.
scotch_package() {
    compgen -G "/usr/lib/*/libdmumps_ptscotch-*.so" >/dev/null && return
    apt-cache search --names-only '^libmumps-ptscotch-[0-9.]+$' 2>/dev/null | cut -d' ' -f1 | sort -V | tail -n 1
}

missing_packages() {
    local package
    for package in "${debian_packages[@]}"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
    done
    scotch_package
}

install_debian_packages() {
    local missing=() elevate=()
    mapfile -t missing < <(missing_packages)
    ((${#missing[@]})) || return 0
    if [[ ${missing[*]} == libmumps-ptscotch-* ]] && { ((EUID != 0)) && ! command -v sudo >/dev/null; }; then
        say "not installed, as this needs root: ${missing[*]} (factors would be a tenth smaller)"
        return 0
    fi
    command -v apt-get >/dev/null || fail "PETSc was found neither through python3 nor through PETSC_DIR, and this is not Debian." \
        "Load a module with petsc4py and slepc4py, or set PETSC_DIR."
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "missing Debian packages: ${missing[*]}. Install them as root and run this again."
        elevate=(sudo)
    fi
    say "Debian packages to install: ${missing[*]}"
    if ((dry == 0)); then
        "${elevate[@]}" apt-get update -qq || say "apt-get update failed; trying with the package lists that are there"
        local known=${missing[*]}
        mapfile -t missing < <(missing_packages)  # the lists may name more now
        [[ ${missing[*]} == "$known" ]] || say "Debian packages to install: ${missing[*]}"
    fi
    # --print-uris neither asks nor installs (--assume-no does install when there is nothing to ask).
    say "apt-get:" "$(apt-get install --print-uris -qq "${missing[@]}" 2>/dev/null |
        awk '/^\047/ { n++; bytes += $3 } END { printf "%d archives, %d bytes to download", n, bytes }')"
    ((dry == 0)) || return 0
    "${elevate[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
}

make_environment() {
    if [[ -d $venv && ! -f $record.begun ]]; then
        fail "$venv exists and was not made by this script: move it away."
    fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
        [[ $("$venv/bin/python" -c 'import sys; print(sys.base_prefix)') != $("$python" -c 'import sys; print(sys.base_prefix)') ]]; then
        rm -rf "$venv"
        mkdir "$venv"
        touch "$record.begun"
        "$python" -m venv --system-site-packages "$venv"
    fi
    local packages mpi
    packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    mpi=$(home_of "$python" mpi4py)
    # Before the system's own packages on the path: petsc4py there may be the complex one.
    printf '%s\n' "$petsc" "$slepc" ${mpi:+"$([[ $mpi == /usr/lib/* ]] || echo "$mpi")"} | awk 'NF && !seen[$0]++' \
        >"$packages/deeph_mpi_petsc.pth"
}

# pip install with one line per download, its size included.
pip_install() {
    "$venv/bin/python" -m pip --disable-pip-version-check install --progress-bar off "$@" |
        sed -un 's/^ *Downloading \(.*\)/setup:   pip: \1/p'
}

install_python_packages() {
    local requirements=("$torch" "setuptools>=77" "packaging>=24.2" wheel) extra=""  # packaging: setuptools reads the
    # licence with it, and what Debian brings along may be older
    # Debian's petsc4py 3.18 was compiled against numpy 1.
    [[ $petsc == /usr/lib/petscdir/petsc3.18/* ]] && requirements+=("numpy<2")
    ((dev == 0)) || extra="[dev]"
    announce_python_packages "${requirements[@]}"
    ((dry == 0)) || return 0
    pip_install "${requirements[@]}"
    # Without the extra [solvers]: petsc4py is on the path already, and pip must not start compiling it. Editable: a
    # copy in the environment would be hidden, in part, by the sources wherever Python starts in this folder.
    pip_install --no-build-isolation "${requirements[@]}" --editable "$root$extra"
}

# Says what pip would install. pip knows no sizes before it downloads: the figures were measured with Python 3.11.
announce_python_packages() {
    local asked=() pip=$venv/bin/python found megabytes=$(measured_megabytes)
    mapfile -t asked < <(listed_in_pyproject)
    [[ -x $pip ]] || pip=$python
    found=$("$pip" -m pip --disable-pip-version-check install --dry-run --quiet --report - "$@" "${asked[@]}" \
        2>/dev/null | "$python" -c '
import json, sys
total = int(sys.argv[1])
names = {i["metadata"]["name"]: i["metadata"]["version"] for i in json.load(sys.stdin)["install"]}
cuda = any(name.startswith(("nvidia", "cuda")) for name in names)
size = "several GB: this is the CUDA build of torch," if cuda else f"about {total} MB" if "torch" in names else (
    f"less than {total - 190} MB")
print(f"{len(names)} ({size} to download): " + " ".join(f"{n}-{v}" for n, v in names.items()) if names else "none")
' "$megabytes" 2>/dev/null) || found="$* ${asked[*]} and what they need (about $megabytes MB to download with the CPU \
build of torch, several GB with the CUDA build)"
    say "Python packages to install into $venv: $found"
}

measured_megabytes() { echo $((dev ? 325 : 300)); }  # of which torch 192

listed_in_pyproject() {
    "$python" - "$root/pyproject.toml" "$dev" <<'END'
import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
packages = project["dependencies"] + (project["optional-dependencies"]["dev"] if sys.argv[2] == "1" else [])
print(*packages, sep="\n")
END
}

# Whether PETSC_DIR, where it is set, is what the environment was made with.
same_petsc() { [[ -z ${PETSC_DIR:-} ]] || [[ $(head -n 1 "$record.petsc" 2>/dev/null) == "$PETSC_DIR ${PETSC_ARCH:-}" ]]; }

main() {
    local environment kind=run
    environment=$(environment_hash)
    ((dev == 0)) || kind=dev
    # Tools are on top of what a run needs: either record will do for a run.
    if same_petsc && { recorded dev "$environment" || { ((dev == 0)) && recorded run "$environment"; }; }; then
        say "$venv is up to date"
        return
    fi
    find_petsc
    if [[ $site == "Debian's packages" ]]; then
        install_debian_packages
        petsc=$(debian_home petsc) slepc=$(debian_home slepc)
    fi
    say "PETSc: $site${petsc:+ ($petsc)}"
    if ! command -v "$python" >/dev/null; then
        [[ $site == "Debian's packages" ]] && ((dry)) || fail "there is no $python: install Python 3.11 or newer first."
        say "Python packages to install into $venv: those of pyproject.toml and what they need, about $(measured_megabytes) MB" \
            "to download with the CPU build of torch. There is no python3 yet to list them; it comes with the Debian packages."
        return 0
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than Python 3.11"
    ((dry)) || make_environment
    install_python_packages
    ((dry == 0)) || return 0
    (cd "$root" && "$venv/bin/python" -c 'from petsc4py import PETSc; from slepc4py import SLEPc; import torch
import deeph_mpi.cli.main, deeph_mpi.solvers') ||
        fail "the environment was made, but PETSc, SLEPc or torch cannot be loaded in it (see above)"
    note petsc "$(printf '%s\n' "${PETSC_DIR:-} ${PETSC_ARCH:-}" "$python" "$petsc" "$slepc" "$site")"
    note "$kind" "$environment"
    say "done: $(du -sb "$venv" | cut -f1) bytes in $venv"
}

main
