#!/bin/sh
# Runs a Clonezilla program unattended on loop disks: batch.sh REPOSITORY PROGRAM [ARGUMENT...], in a mount namespace of
# its own. The directory of this script holds `shims`, which come first in PATH. REPOSITORY is seen as /mnt.
#
# Clonezilla looks at every disk of the host and keeps caches and logs under fixed names. Here it sees no disk but loop
# devices, and its /tmp and /var/log are its own.
set -eu
shims=$(dirname "$0")/shims
mount --bind "$1" /mnt
shift
mount -t tmpfs mc-log /var/log
mount -t tmpfs mc-run /run/lock
for node in /dev/*; do
    case $node in
    /dev/loop*) ;;
    *) if [ -b "$node" ]; then mount --bind /dev/null "$node"; fi ;;
    esac
done
if [ -d /dev/mapper ]; then mount -t tmpfs mc-none /dev/mapper; fi
# Last, because this script may itself lie under /tmp; an open directory is still reachable after the mount.
exec 3<"$shims"
mount -t tmpfs mc-tmp /tmp
mkdir /tmp/shims
cp /proc/self/fd/3/* /tmp/shims/
chmod +x /tmp/shims/*
exec 3<&-
cd /mnt
export TERM=linux DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH="/tmp/shims:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
exec "$@"
