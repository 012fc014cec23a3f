#!/bin/sh
# Builds the example seeds. The C ones are committed beside their sources, because tests and the
# tutorial need them where no compiler is; the Go ones go to build/, which is not committed.
# Needs Debian's clang, lld, wasi-libc and libclang-rt-dev-wasm32; for the last part Go 1.24 or newer.
set -eu
cd "$(dirname "$0")"
CLANG=${CLANG:-clang}

for source in c/*.c pipeline/*.c; do
  "$CLANG" --target=wasm32 -std=c11 -Os -nostdlib -fno-builtin -mbulk-memory \
    -fvisibility=hidden -Wall -Wextra -Werror \
    -Wl,--no-entry -Wl,--strip-all -Wl,-z,stack-size=65536 -o "${source%.c}.wasm" "$source"
done

# An ordinary program for WASI wants a libc: Debian's wasi-libc and libclang-rt-dev-wasm32.
"$CLANG" --target=wasm32-wasi -Os -Wall -Wextra -Werror -Wl,--strip-all -o wasi/lines.wasm wasi/lines.c

# A component that answers HTTP; wasm-tools is what .ci/toolchains installs.
if command -v wasm-tools >/dev/null ; then
  core=$(mktemp)
  "$CLANG" --target=wasm32 -std=c11 -Os -nostdlib -fno-builtin -mbulk-memory \
    -fvisibility=hidden -Wall -Wextra -Werror \
    -Wl,--no-entry -Wl,--strip-all -Wl,-z,stack-size=65536 -o "$core" components/http/answers.c
  wasm-tools component embed components/http/wit --world proxy "$core" -o "$core"
  wasm-tools component new "$core" -o "$core"
  wasm-tools strip -a "$core" -o components/http/answers.wasm
  rm "$core"
fi

if command -v go >/dev/null ; then
  mkdir -p build
  for program in go/ask go/echo go/shout; do
    name=$(basename "$program")
    (cd go && GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o "../build/$name-go.wasm" "./$name")
  done
fi
