#!/bin/sh
# Copies programs, libraries and what else lies in this machine's /usr into the filesystem on $1, up to $3 bytes; $2 is an
# empty directory to mount it at. Runs in a mount namespace of its own. Files in alphabetical order, none larger than 32 MiB.
set -eu
export LC_ALL=C
mount "$1" "$2"
mkdir "$2/srv/usr"
find /usr -xdev -type f -size -33M ! -name '*
*' -printf '%s %P\n' | sort -k 2 | awk -v left="$3" '
    { left -= $1 }
    left < 0 { exit }
    { sub(/^[0-9]+ /, ""); print }' >"$2.list"
tar --directory=/usr --no-recursion --create --files-from="$2.list" | tar --directory="$2/srv/usr" --extract
rm "$2.list"
umount "$2"
