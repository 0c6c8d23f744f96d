#!/bin/busybox sh
# First program of every guest: load drivers, mount the agent's image, become the agent. Nothing else runs from here.
B=/bin/busybox
R=/run/pyro/runtime
$B mount -t proc -o nosuid,nodev,noexec proc /proc
$B mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
$B mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev
fail() { echo "pyro-init: $1" > /dev/kmsg; echo "pyro-init: $1"; $B sleep 1; $B poweroff -f; }
for module in $($B cat /modules/order); do
    $B insmod "/modules/$module" || fail "cannot load $module"
done
# Disks answer to their serial number; the order in which they appear means nothing.
tries=0
while :; do
    for block in /sys/block/vd*; do
        [ "$($B cat "$block/serial" 2> /dev/null)" = runtime ] && break 2
    done
    tries=$((tries + 1))
    [ $tries -lt 100 ] || fail "cannot find the disk 'runtime'"
    $B sleep 0.05
done
$B mkdir -p $R
$B mount -t erofs -o ro "/dev/${block##*/}" $R || fail "cannot mount the runtime image"
exec $R/lib/ld.so --inhibit-cache --library-path $R/lib --argv0 $R/bin/python3 $R/bin/python3 \
    -I -S -X utf8 $R/agent/main.py
