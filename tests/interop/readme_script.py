"""Makes a shell script of the commands that README.md shows.

Of its `sh` blocks, the lines that begin with `curl` or assign a variable from one (`TOKEN=$(curl …`)
are run, in their order, in one shell. A comment that begins with a status, `# 401 …`, is what the line
must answer; without one it must be below 400. The script prints `ok` and the line for each, and ends
with 1 at the first that answers otherwise.

    python3 tests/interop/readme_script.py README.md ['COMMAND THAT PRINTS THE NEWEST CODE'] | bash

The command is for a gateway whose admin listener cannot be reached from the shell: it stands for what
reads the outbox at `localhost:9901`.
"""

import re
import shlex
import sys

PRELUDE = """
BODY=$(mktemp) STATUS=$(mktemp) OUT=$(mktemp)
trap 'rm -f "$BODY" "$STATUS" "$OUT"' EXIT
curl() { command curl -m 20 "$@" -o "$BODY" -w '%{http_code}' >"$STATUS"; local code=$?; cat "$BODY"; return $code; }
judge() {
  local code=$1 line=$2 expected=$3 status
  status=$(<"$STATUS")
  # No status: the line asked by other means than curl.
  if [[ $code == 0 && ${expected:-$status} == "$status" && ( -n $expected || $status == [123]?? || -z $status ) ]]; then
    echo "ok $line${status:+  # $status}"
  else
    echo "$line: status $status${expected:+, not $expected}, exit code $code"
    head -c 1000 "$OUT"
    exit 1
  fi
}
"""


def script(readme, outbox=None):
    """The shell script for the text of a README; `outbox` is a command that prints the newest code."""
    commands = list(commands_of(readme))
    shown = "\n".join(command for command, _ in commands)
    for needed in ("/auth/login", "/auth/register", "/auth/confirm", 'Authorization: Bearer $TOKEN'):
        if needed not in shown:
            raise SystemExit(f"README.md shows no command with {needed}")
    if "401" not in [status for _, status in commands]:
        raise SystemExit("README.md shows no command that is refused")
    if outbox is not None:
        commands = [(re.sub(r"=\$\(.*localhost:9901/outbox.*\)$", lambda _: f"=$({outbox})", command), status)
                    for command, status in commands]
    lines = [
        f': >"$STATUS"\n{command} >"$OUT" 2>&1\njudge $? {shlex.quote(command)} "{status}"' for command, status in commands
    ]
    return "\n".join([PRELUDE, *lines, ""])


def commands_of(text):
    """(command, expected status or nothing) of each line of the `sh` blocks that asks the gateway something."""
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"^\$ ", "", line.strip())
            if re.match(r"curl\b|[A-Z_]+=.*\bcurl\b", line):
                comment = re.search(r"\s+#\s*(\d{3})?\b.*$", line)
                command = line[: comment.start()] if comment else line
                yield command.strip(), comment[1] or "" if comment else ""


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(script(file.read(), *sys.argv[2:]))
