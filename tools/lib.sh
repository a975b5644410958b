# Shared by the scripts in tools/ and .ci/; sourced, never run. Goes to the root of the checkout and defines:
#
#   say TEXT...        one line of our own, told apart from the tools' output
#   die TEXT...        the same on standard error, then exit 1
#   packages SET       the Debian packages of tools/packages.txt for "build" or "test"
#   cpp_files          the C++ and CUDA sources of the checkout, each ended by a NUL
#   bazel_quiet        bazel without a terminal's tricks when there is no terminal
#
# The scripts need bash and Debian's base system only, until tools/setup has installed the rest.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '== %s\n' "$*"; }

die() {
  printf '== %s\n' "$@" >&2
  exit 1
}

packages() {
  local package set reason
  while read -r package set reason; do
    case $package in '' | '#'*) continue ;; esac
    if [ "$set" = build ] || [ "$1" = test ]; then printf '%s\n' "$package"; fi
  done <tools/packages.txt
}

# bazel COMMAND ARGS... Standard input is closed: nothing here may wait for an answer.
bazel_quiet() {
  local command=$1
  shift
  local flags=()
  [ -t 2 ] || flags=(--color=no --curses=no --show_progress_rate_limit=20)
  bazel "$command" ${flags[@]+"${flags[@]}"} "$@" </dev/null
}

# Not asked from git: a checkout unpacked from an archive has none.
cpp_files() {
  find . \( -name .git -o -name .bz -o -name dist -o -name runs -o -path './bazel-*' \) -prune -o \
    -type f \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) -print0 | sort -z
}
