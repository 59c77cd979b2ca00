#!/usr/bin/env bash
# PID 1 of new namespaces: puts a throw-away layer over the file system, makes sure that no process but its
# own can be reached, and becomes systemd. Called by host.py alone: boot.sh FOLDER CGROUP PATH...; why it refused goes to
# FOLDER/refused. It never becomes systemd in a control group that it shares: such a manager would move every process
# of the machine about.
set -eu
folder=$1 cgroup=$2 root=$1/root
shift 2
refuse() { echo "$*" >"$folder/refused"; exit 1; }

if [ -z "${INSIDE-}" ]; then # still in the machine's tree of control groups: go to the leaf made for us, and make it the root
  [ "$$" = 1 ] || refuse "not the first process of a process namespace"
  echo 0 >"$cgroup/cgroup.procs" || refuse "cannot enter the control group $cgroup"
  INSIDE=1 exec unshare --cgroup --propagation private bash "$0" "$folder" "$cgroup" "$@"
fi

# ---- the file system: the machine's own below, everything written goes to memory

mkdir "$folder/layer" "$root"
mount -t tmpfs -o mode=755 layer "$folder/layer"
mkdir "$folder/layer/upper" "$folder/layer/work"
mount -t overlay over "$root" -o "lowerdir=/,upperdir=$folder/layer/upper,workdir=$folder/layer/work" || refuse "no overlayfs"
for path in "$@"; do # what the tests need and another file system holds
  [ "$(stat -c %d "$path")" = "$(stat -c %d /)" ] && continue
  mkdir -p "$root$path" && mount --bind "$path" "$root$path" && mount -o remount,bind,ro "$root$path"
done
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
for path in sys sysrq-trigger irq bus; do # what is the whole machine's may be read at most
  [ -e "$root/proc/$path" ] || continue
  mount --bind "$root/proc/$path" "$root/proc/$path"
  mount -o remount,bind,ro "$root/proc/$path" || refuse "/proc/$path cannot be kept from being written"
done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup" || refuse "no control groups, version 2"
mount -t tmpfs -o mode=755,nosuid dev "$root/dev"
for device in null zero full random urandom tty; do
  : >"$root/dev/$device" && mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t tmpfs -o mode=755,nosuid,nodev run "$root/run"

# ---- what is started: the journal, the message bus and logins; nothing that is the machine's

units=$root/usr/lib/systemd
rm -rf "$units"/system-generators/* "$root"/etc/systemd/system/*.wants "$root/var/log/journal"
rm -f "$units"/system/{sysinit,sockets,timers,local-fs,paths,multi-user}.target.wants/* "$root/etc/machine-id"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
: >"$root/etc/fstab"
mkdir -p "$root/run/systemd/system" "$root/run/systemd/journald.conf.d"
ln -s /dev/null "$root/run/systemd/system/systemd-journald-audit.socket"
printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nAudit=\n' >"$root/run/systemd/journald.conf.d/test.conf"
cat >"$root/run/systemd/system/test.target" <<'END'
[Unit]
Description=A machine for tests
Requires=basic.target
Wants=systemd-journald.service systemd-journald-dev-log.socket dbus.socket dbus.service systemd-logind.service
After=basic.target dbus.service systemd-logind.service
END

# ---- nothing foreign may be near

grep -q '^0::/$' "$root/proc/self/cgroup" || refuse "not at the root of a control group namespace"
[ -z "$(find "$root/sys/fs/cgroup" -mindepth 1 -type d -print -quit)" ] || refuse "the control group has children"
while read -r pid; do # a process of another process namespace reads as 0
  [ "$pid" -gt 0 ] || refuse "a foreign process is in the control group"
done <"$root/sys/fs/cgroup/cgroup.procs"

cd "$root"
pivot_root . mnt
umount -l /mnt
mount --make-rshared / # or LoadCredential= shows an empty folder
hostname testhost
exec </dev/null >/dev/null 2>&1
exec env -i container=test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
  setpriv --bounding-set=-sys_module,-sys_time,-sys_boot,-sys_rawio,-syslog,-mac_admin,-mac_override,-wake_alarm,-block_suspend \
  /usr/lib/systemd/systemd --system --unit=test.target --show-status=no
