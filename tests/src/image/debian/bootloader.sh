#!/bin/sh
# Makes the system in partition 1 of a loop disk start by itself, with the system's own grub-install and update-grub.
# Runs in a mount namespace of its own. $1 is the loop disk, $2 an empty directory.
#
# The /dev that the system sees holds this disk and nothing else: grub-mkconfig asks /dev/disk/by-uuid whether to write
# root=UUID=, and no other disk of the host can be touched by mistake.
set -eu
disk=$1 root=$2
mount "${disk}p1" "$root"
mount -t tmpfs -o mode=755 mc-dev "$root/dev"
mkdir -p "$root/dev/disk/by-uuid"
cp -a /dev/null /dev/zero /dev/urandom "$disk" "${disk}p1" "${disk}p2" "$root/dev/"
uuid=$(blkid -s UUID -o value "${disk}p1")
ln -s "../../${disk##*/}p1" "$root/dev/disk/by-uuid/$uuid"
mount -t proc mc-proc "$root/proc"
mount -t sysfs mc-sys "$root/sys"
chroot "$root" grub-install --target=i386-pc --no-floppy "$disk"
chroot "$root" update-grub
umount "$root/sys" "$root/proc" "$root/dev" "$root"
