#!/bin/sh
# Before packages are installed ($1 is the root): the initramfs gets the drivers of the lab's machines and no others,
# so that the kernel package's own run of update-initramfs makes the small one at once.
set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/etc/initramfs-tools/hooks"
printf 'MODULES=list\nRESUME=none\n' >"$1/etc/initramfs-tools/conf.d/lab"
cat >"$1/etc/initramfs-tools/hooks/lab" <<'END'
#!/bin/sh
[ "${1-}" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
# Those that a kernel has not are passed over.
manual_add_modules virtio_pci virtio_blk virtio_net nvme ahci sd_mod ext4
END
chmod +x "$1/etc/initramfs-tools/hooks/lab"
