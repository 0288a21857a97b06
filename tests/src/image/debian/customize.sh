#!/bin/sh
# What an administrator would set up in a fresh minimal Debian, run by mmdebstrap with the system's root as $1.
set -eu
root=$1

echo labhost >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 labhost\n' >"$root/etc/hosts"
# Empty, so that every copy makes its own at its first start.
: >"$root/etc/machine-id"

cat >"$root/etc/systemd/network/20-wired.network" <<'END'
[Match]
Name=en* eth*

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
END
chroot "$root" systemctl --quiet enable systemd-networkd.service
# A login on the serial console, and no password: the machine lives in a namespace for a minute.
chroot "$root" passwd --quiet --delete root

cat >"$root/etc/default/grub" <<'END'
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_TERMINAL=console
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=ttyS0,115200"
END

# What a headless lab machine can do without; under software emulation each costs a few tenths of a second.
mask() {
    for unit; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
}
mask e2scrub_reap.service e2scrub_all.timer fstrim.timer apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer systemd-tmpfiles-clean.timer logrotate.timer
mask getty@tty1.service getty-static.service systemd-random-seed.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-sysusers.service systemd-pcrphase.service \
    systemd-pcrphase-sysinit.service systemd-journal-flush.service systemd-network-generator.service
mask dev-hugepages.mount dev-mqueue.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount systemd-binfmt.service
mask modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service \
    modprobe@fuse.service modprobe@loop.service

rm -rf "$root"/var/cache/apt/*.bin "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/*
