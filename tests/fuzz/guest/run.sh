#!/bin/sh
# Fuzz the guest's parsers for SECONDS (60) in all: tests/fuzz/guest/run.sh [SECONDS]
# Needs clang with libFuzzer; installs Debian's where it may, and fails where it cannot.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
source=$here/../../../sessiond/guest/src
seconds=${1:-60}

# Prints a clang that can link a fuzzer, if there is one.
find_clang() {
    for name in clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14; do
        if echo 'int LLVMFuzzerTestOneInput(const char *d, long n) { return d[n] & 0; }' |
            "$name" -fsanitize=fuzzer,address -x c - -o /dev/null 2>/dev/null; then
            echo "$name"
            return
        fi
    done
}

clang=$(find_clang)
if [ -z "$clang" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "run.sh: no clang with libFuzzer; installing Debian's" >&2
    apt-get install -y -qq clang libclang-rt-14-dev >/dev/null || true
    clang=$(find_clang)
fi
if [ -z "$clang" ]; then
    echo "run.sh: NOTHING WAS FUZZED: clang with libFuzzer is missing (Debian: clang libclang-rt-14-dev)" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# fuzz NAME: the parser NAME.c by its target fuzz_NAME.c, from the seeds in seeds/NAME.
fuzz() {
    mkdir "$work/$1"
    "$clang" -std=c11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined \
        -fno-sanitize-recover=all -I "$source" -o "$work/fuzz_$1" "$here/fuzz_$1.c" "$source/$1.c"
    "$work/fuzz_$1" -max_total_time=$((seconds / 3 + 1)) -max_len=8192 -use_value_profile=1 -print_final_stats=1 \
        -artifact_prefix="$here/" "$work/$1" "$here/seeds/$1" 2>"$work/log" || {
        cat "$work/log" >&2
        exit 1
    }
    grep -E 'number_of_executed_units|new_units_added' "$work/log" | sed "s/^/$1: /"
}

fuzz frame
fuzz tar
fuzz glob
