"""What is run on the machine: text for its shell and its Python.

Decides: how each step is done there, and how the machine is asked about itself.
Does not know: ssh, and which step comes when (``steps``).
Invariants: each text can be killed anywhere and run again. No secret is in a command line: a token
comes on standard input. What is ready has a mark that was written last. Nothing is fetched there.
Source: docs/internals/bootstrap.md#on-the-machine.
"""

from __future__ import annotations

import shlex
from typing import Final

from pollen.sdk.bootstrap.facts import BEGIN, END
from pollen.sdk.bootstrap.steps import Step

# The shell reads its program from standard input, byte by byte, and leaves the rest to it.
_READS: Final = "sh -c 'eval \"$(dd bs=1 count={size} 2>/dev/null)\"'"

_HEAD: Final = r"""
LC_ALL=C; export LC_ALL; umask 022
tab=$(printf '\t')
flat() { tr '\t' ' ' | sed -e ':a' -e 'N' -e '$!ba' -e 's/\n/\\n/g'; }
say() { printf '%s\t%s\n' "$1" "$(printf '%s\n' "$2" | flat)"; }
s=; root=none
if [ "$(id -u)" = 0 ]; then root=self
elif [ $own = no ] && sudo -n true </dev/null >/dev/null 2>&1; then root=sudo; s='sudo -n'; fi
systemd=no; [ -d /run/systemd/system ] && systemd=yes
if [ $own = yes ]; then base=$HOME/.local/share/pollen; link=$HOME/.local/bin/pln
else base=/opt/pollen; link=/usr/local/bin/pln; fi
folder=$HOME/.pln; as=; up='up -d'
if [ $own = no ] && [ $systemd = yes ] && [ $place = auto ]; then
  folder=/var/lib/pln; as="$s runuser -u pln --"; up=up
fi
look() {
  running=; pid=$($s sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$folder/pollen.pid" 2>/dev/null)
  if [ -n "$pid" ] && line=$($s tr '\0' '\t' <"/proc/$pid/cmdline" 2>/dev/null); then
    case $line in *"${tab}pollen.runtime${tab}"*) running=${line%%"$tab"*};; esac
  fi
  unit=$(sed -n 's/^ExecStart="*\([^ "]*\).*/\1/p' /etc/systemd/system/pln.service 2>/dev/null)
  # A unit of ours whose software is gone starts nothing.
  case $unit in "$base"/*) $s test -x "$unit" || unit=;; esac
  pln=
  for one in ${running:+"${running%/*}/pln"} "$base/current/venv/bin/pln" \
      ${unit:+"${unit%/*}/pln"} "$(command -v pln)"; do
    if [ -n "$one" ] && $s test -x "$one"; then pln=$one; break; fi
  done
  PLN_HOST=local; export PLN_HOST
}
python=; python_version=; other=
for one in /usr/bin/python3 /usr/local/bin/python3 /usr/bin/python3.14 /usr/bin/python3.13 \
    /usr/bin/python3.12 /usr/bin/python3.11 python3 python3.14 python3.13 python3.12 python3.11; do
  found=$("$one" -I -c 'import sys
print("%d.%d %s" % (sys.version_info[0], sys.version_info[1], sys.executable))' 2>/dev/null) \
    || continue
  version=${found%% *}; path=${found#* }
  case $own$path in no/home/*|no/root/*) continue;; esac
  if [ "${version%%.*}" = 3 ] && [ "${version#*.}" -ge LEAST ]; then
    python=$path; python_version=$version; break
  fi
  [ -n "$other" ] || other=$version
done
failed() { say failed "$1"; say remedy "${2-}"; }
echo 'BEGIN'
"""

_LOOK: Final = r"""
look
say system "$(uname -s)"; say name "$(uname -n)"; say root "$root"; say systemd "$systemd"
say machine "$(uname -m)"; say base "$base"; say folder "$folder"
say other_python "$other"
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || {
  libc=; for one in /lib/ld-musl-*; do [ -e "$one" ] && libc='musl 1.2'; done; }
say libc "$libc"
if [ -n "$python" ]; then
  say python "$python_version"; say python_path "$python"
  "$python" -I -c 'from venv import EnvBuilder' 2>/dev/null && say has_venv yes
  say machine "$("$python" -I -c 'import sysconfig
print(sysconfig.get_platform().split("-")[-1])')"
fi
at=$base; while [ ! -d "$at" ]; do at=$(dirname "$at"); done
say free_kib "$(df -Pk "$at" | { read -r _; read -r _ _ _ free _; echo "$free"; })"
[ -f "$base/current/ready" ] && say software "$(basename "$(readlink "$base/current")")"
say home_member "$(cat "$HOME/.pln/member" 2>/dev/null)"
[ $root = none ] || say system_member "$($s cat /var/lib/pln/member 2>/dev/null)"
say unit "$unit"; say running "$running"
$s test -e "$folder/pollen.log" && say has_run yes
cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep -q "^$base/[0-9a-f]\{16\}/" \
  && say used yes
case $unit in "$base"/*) $s test -e /var/lib/pln/pollen.log && say used yes;; esac
if [ -n "$pln" ]; then
  in_use=$(readlink -f "$pln"); at=${in_use%/bin/pln}; command=$pln
  for one in "$at"/lib/python3*/site-packages/pollen_mesh-*.dist-info; do
    one=${one##*/pollen_mesh-}; [ "$one" = '*.dist-info' ] || say version "${one%.dist-info}"
  done
  [ "$(readlink -f "$link")" = "$in_use" ] && command=$link
  say command "$command"
fi
if [ -n "$pln" ] && $s test -s "$folder/node.key"; then
  say node "$($as "$pln" --dir "$folder" id 2>/dev/null)"
fi
echo 'END'
"""

# sudo's own words, and those of pln, are the reason when a step fails.
_STEPS: Final[dict[Step, str]] = {
    Step.INSTALL: r"""
said=$($s "$python" -I -c "$install" "$base" "$digest" "$sum" "$link" 2>&1) \
  || failed "$said" "run the same line again"
""",
    Step.SERVICE: r"""
look
said=$($s "$pln" --dir "$folder" service install </dev/null 2>&1) || failed "$said"
""",
    Step.KEY: r"""
look
said=$($as "$pln" --dir "$folder" id </dev/null 2>&1) || failed "$said"
""",
    Step.JOIN: r"""
look
said=$($as "$pln" --dir "$folder" join --no-up --name "$name" - 2>&1) || failed "$said"
""",
    Step.START: r"""
look
[ $up = up ] || s=
said=$($s "$pln" --dir "$folder" $up </dev/null 2>&1) || failed "$said"
""",
}

_INSTALL: Final = r"""
import fcntl, glob, hashlib, os, re, select, shutil, subprocess, sys, tarfile, tempfile, time
base, digest, wanted, link = sys.argv[1:]
home = os.path.join(base, digest)
venv = os.path.join(home, "venv")
target = os.path.join(base, "current", "venv", "bin", "pln")
def run(*line):
    done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, cwd=home)
    if done.returncode:
        sys.exit(done.stdout.decode("utf-8", "replace")[-2000:] or "%s failed" % line[0])
    return done.stdout.decode("utf-8", "replace").strip()
def sync(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
def point(path, target):
    new = "%s.%d" % (path, os.getpid())
    os.symlink(target, new)
    os.replace(new, path)
    sync(os.path.dirname(path))
def receive(bundle):
    seen = hashlib.sha256()
    while True:
        if not select.select([0], [], [], PIECE_WITHIN)[0]:
            sys.exit("nothing came for PIECE_WITHIN s")
        piece = os.read(0, 1 << 20)
        if not piece:
            break
        seen.update(piece)
        bundle.write(piece)
    if seen.hexdigest() != wanted:
        sys.exit("the archive did not come whole")
    bundle.seek(0)
def install(bundle):
    shutil.rmtree(home, ignore_errors=True)
    wheels = os.path.join(home, "wheels")
    os.makedirs(wheels)
    with tarfile.open(fileobj=bundle) as held:
        for member in held:
            if not member.isfile() or os.path.basename(member.name) != member.name:
                sys.exit("the archive holds %r" % member.name)
            with open(os.path.join(wheels, member.name), "wb") as file:
                shutil.copyfileobj(held.extractfile(member), file)
    bundle.close()
    run(sys.executable, "-I", "-m", "venv", "--without-pip", venv)
    names = sorted(os.listdir(wheels))
    pip = [name for name in names if name.startswith("pip-")][0]
    rest = [os.path.join(wheels, name) for name in names if name != pip]
    python = os.path.join(venv, "bin", "python")
    run(python, os.path.join(wheels, pip, "pip"), "install", "--no-index", "--no-deps",
        "--no-input", "--no-cache-dir", "--disable-pip-version-check", "--quiet", *rest)
    version = run(python, "-I", "-c", "import pollen._native, pollen.runtime.daemon, "
        "pollen.runtime.doctor, pollen.cli.app; from importlib import metadata; "
        "print(metadata.version('pollen-mesh'))")
    shutil.rmtree(wheels)
    # All of it is on the disk before the mark is.
    os.sync()
    with open(os.path.join(home, "ready.new"), "w") as file:
        file.write(version + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, os.path.join(home, "ready"))
    sync(home)
    sync(base)
def in_use():
    # Digests that a process or a unit names: its node runs from them, or will.
    places = glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/etc/systemd/system/*.service")
    places += glob.glob(os.path.expanduser("~/.config/systemd/user/*.service"))
    for place in places:
        try:
            with open(place, "rb") as file:
                text = os.fsdecode(file.read())
        except OSError:
            continue
        for found in re.findall(re.escape(base) + "/([0-9a-f]{16})/", text):
            yield found
def clean(keep):
    for name in os.listdir(base):
        path = os.path.join(base, name)
        if re.match(r"current\.\d+$", name):
            os.unlink(path)
        elif re.match(r"[0-9a-f]{16}$", name) and name not in keep:
            shutil.rmtree(path, ignore_errors=True)
    for path in glob.glob(link + ".*"):
        is_made = re.match(r"\.\d+$", path[len(link):]) and os.path.islink(path)
        if is_made and os.readlink(path) == target:
            os.unlink(path)
try:
    os.makedirs(base, exist_ok=True)
    # It has no name, so nothing of it stays; and no lock is held while it comes.
    bundle = tempfile.TemporaryFile(dir=base)
    receive(bundle)
    lock = os.open(os.path.join(base, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + 300
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                sys.exit("another installation runs there for five minutes")
            time.sleep(0.2)
    if not os.path.exists(os.path.join(home, "ready")):
        install(bundle)
    current = os.path.join(base, "current")
    former = [os.readlink(current)] if os.path.islink(current) else []
    clean({digest, *former, *in_use()})
    point(current, digest)
    os.makedirs(os.path.dirname(link), exist_ok=True)
    if not os.path.lexists(link) or os.path.islink(link) and os.readlink(link) == target:
        point(link, target)
except OSError as error:
    sys.exit("%s: %s" % (error.filename or base, error.strerror))
"""
# Seconds without a byte of the archive until an installation gives up. Guess: a line that is slow
# brings some in that time.
_PIECE_WITHIN: Final = 60


def program(
    step: Step | None,
    *,
    is_own: bool,
    is_home: bool,
    digest: str = "",
    checksum: str = "",
    name: str = "",
) -> str:
    """The shell's program for a step (None: only look); it ends with an answer for ``facts``.

    ``digest`` names the archive, and ``checksum`` is the SHA-256 of the bytes that come.
    """
    from pollen.sdk.bootstrap.steps import PYTHON_LEAST

    install = _INSTALL.replace("PIECE_WITHIN", str(_PIECE_WITHIN))
    given = {
        "own": "yes" if is_own else "no",
        "place": "home" if is_home else "auto",
        "digest": digest,
        "sum": checksum,
        "name": name,
        "install": install if step is Step.INSTALL else "",
    }
    head = "".join(f"{key}={shlex.quote(value)}\n" for key, value in given.items())
    body = _HEAD + (_STEPS[step] if step is not None else "") + _LOOK
    for word, text in (("LEAST", str(PYTHON_LEAST[1])), ("BEGIN", BEGIN), ("END", END)):
        body = body.replace(word, text)
    # A function runs when it came whole: of a program that was cut off nothing happens.
    return f"main() {{\n{head}{body}}}\nmain\n"


def command(text: str) -> str:
    """What ssh runs there so that ``text`` is run, and the rest of its standard input is left."""
    return _READS.format(size=len(text.encode()))
