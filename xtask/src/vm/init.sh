#!/bin/sh
# /init of the test machine: mounts, loads the modules, runs the job found in
# /job, hands back what it wrote, switches off. Nothing here may hang: the
# host's timeout is the last resort, not the plan.
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
export TERM="${TERM:-linux}"
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /sys/fs/bpf
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=0755 run /run
mkdir -p /run/netns /run/lock
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
ln -sf /proc/self/fd /dev/fd
hostname n3iwf-vm
/usr/sbin/ip link set lo up

modprobe -a virtio_pci virtio_console
# Each port has its name from a message of QEMU's, which may come after the module is there.
port() {
    tries=0
    while [ $tries -lt 200 ]; do
        for p in /sys/class/virtio-ports/*; do
            [ "$(cat "$p/name" 2>/dev/null)" = "$1" ] && { echo "/dev/${p##*/}"; return; }
        done
        tries=$((tries + 1))
        sleep 0.1
    done
    echo "init: no port has the name $1" >&2
    echo /dev/console
}
exec 9>"$(port status)"
echo booted >&9
modprobe -a $(cat /etc/modules) || echo "init: some modules did not load"
echo 1 >/proc/sys/kernel/sysrq
echo 0 >/proc/sys/kernel/printk_ratelimit
sysctl -q -w kernel.panic=-1 kernel.panic_on_oops=1

code=127
mkdir -p /results /root
cd /root
[ -r /job/env ] && . /job/env
case "$(cat /job/console 2>/dev/null)" in
interactive)
    # A session of its own on the virtio console, so that job control works.
    setsid sh -c 'exec /bin/bash -i </dev/hvc0 >/dev/hvc0 2>&1' 9>&-
    code=$? ;;
keep)
    /bin/sh /job/run >"$(port stdout)" 2>"$(port stderr)" </dev/null 9>&-
    code=$?
    if [ "$code" = 0 ]; then
        echo "kept $code" >&9
        while true; do
            setsid sh -c 'exec /bin/bash -i </dev/hvc0 >/dev/hvc0 2>&1' 9>&-
        done
    fi ;;
*)
    /bin/sh /job/run >"$(port stdout)" 2>"$(port stderr)" </dev/null 9>&-
    code=$? ;;
esac
if [ -n "$(ls -A /results)" ]; then
    tar -C /results -cf "$(port results)" .
fi
echo "exit $code" >&9
reboot -f
