#!/bin/sh
# Runs an engine as on a machine of its own: with the /usr and /etc of a Debian that was unpacked
# aside, and its own /run. Wants to be process 1 of new namespaces (machine.py); all that it mounts
# and starts ends with them.
#   usage: machine.sh TREE USER COMMAND...
# TREE: the unpacked Debian; "" for this machine's own. USER: a user's id; "" for root.
set -eu
tree=$1 user=$2
shift 2
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
if [ -n "$tree" ]; then
    mount --bind "$tree/etc" /etc
    mount --bind "$tree/usr" /usr
fi
if [ -n "$user" ]; then
    # On most machines everybody may open it; a rootless Docker's network needs it.
    mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200
    set -- setpriv "--reuid=$user" "--regid=$user" --clear-groups "$@"
fi
# Not exec: process 1 has to stay, and an engine does not expect to be it.
"$@" &
wait $!
