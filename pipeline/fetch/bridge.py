"""The bridge in the container: from 127.0.0.1:3128 to the proxy's socket.

A base needs one of perl and python3 for it; perl-base is essential in Debian, so every base of Debian
packages has it. The bridge listens before it starts the command, and ends with the container.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = "/rvp-fetch"  # where everything of a fetch is mounted, read-only
PORT: Final = 3128
NO_TOOL_STATUS: Final = 97

_START: Final = f"""\
#!/bin/sh
# Usage: start OUT COMMAND...
out=$1
shift
mkdir -p "$out" || exit {NO_TOOL_STATUS}
for tool in perl python3; do
    if command -v "$tool" >/dev/null 2>&1; then
        exec "$tool" "{FOLDER}/bridge.$tool" {PORT} {FOLDER}/proxy.sock "$@"
    fi
done
echo "rvp: a fetch needs perl or python3 in its base" >&2
exit {NO_TOOL_STATUS}
"""

_PERL: Final = r"""
use strict;
use warnings;
use IO::Socket::INET;
use IO::Socket::UNIX;
use IO::Select;
use Socket qw(SHUT_WR);

my ($port, $path, @command) = @ARGV;
my $server = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $port, Proto => 'tcp', Listen => 128, ReuseAddr => 1,
) or die "rvp: cannot listen on port $port: $!\n";
my $bridge = fork() // die "rvp: cannot fork: $!\n";
if ($bridge) {
    close $server;
    exec { $command[0] } @command or do { print STDERR "rvp: $command[0]: $!\n"; exit 127; };
}
$SIG{CHLD} = 'IGNORE';
$SIG{PIPE} = 'IGNORE';
open STDIN, '<', '/dev/null';
open STDOUT, '>', '/dev/null';
open STDERR, '>', '/dev/null';
while (1) {
    my $near = $server->accept() or next;
    my $child = fork();
    if (defined $child && $child == 0) {
        close $server;
        relay($near);
        exit 0;
    }
    close $near;
}

sub relay {
    my ($near) = @_;
    my $far = IO::Socket::UNIX->new(Peer => $path) or return;
    my %other = (fileno($near) => $far, fileno($far) => $near);
    my $ready = IO::Select->new($near, $far);
    while ($ready->count) {
        for my $from ($ready->can_read) {
            my $to = $other{fileno $from};
            my $count = sysread $from, my $data, 65536;
            if (!$count) {
                $ready->remove($from);
                shutdown $to, SHUT_WR;
                next;
            }
            my $done = 0;
            while ($done < $count) {
                my $wrote = syswrite $to, $data, $count - $done, $done;
                return if !defined $wrote;
                $done += $wrote;
            }
        }
    }
}
"""

_PYTHON: Final = """\
import os
import socket
import sys
import threading

port, path, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
server = socket.create_server(("127.0.0.1", port), backlog=128)
if os.fork():
    server.close()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"rvp: {command[0]}: {error}", file=sys.stderr)
        sys.exit(127)
nowhere = os.open(os.devnull, os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(nowhere, descriptor)


def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    try:
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def relay(near):
    far = socket.socket(socket.AF_UNIX)
    try:
        far.connect(path)
    except OSError:
        near.close()
        return
    back = threading.Thread(target=pump, args=(far, near))
    back.start()
    pump(near, far)
    back.join()
    near.close()
    far.close()


while True:
    connection, _ = server.accept()
    threading.Thread(target=relay, args=(connection,), daemon=True).start()
"""


def write_bridge(folder: Path) -> None:
    """Write the bridge's files into the folder that is mounted at `FOLDER`."""
    for name, text in (("start", _START), ("bridge.perl", _PERL), ("bridge.python3", _PYTHON)):
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
