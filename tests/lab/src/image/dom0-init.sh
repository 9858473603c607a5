#!/bin/busybox sh
# dom0: what a Debian does at boot for Xen, and no more. Then the job, the results, power off.
/bin/busybox --install -s /bin
export PATH=$(echo /usr/lib/xen-*/bin):/lab/bin:/usr/bin:/bin LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu HOME=/
. /lib/mounts.sh
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
echo "LAB: booted Linux $(uname -r) as a $(cat /sys/hypervisor/guest_type) domain"
for module in $(cat /lib/modules/order); do
    insmod "/lib/modules/$module.ko" || echo "LAB: failed to load $module"
done
mount -t xenfs xenfs /proc/xen
ip link set lo up
sh /lab/xenstored || echo "LAB: failed to start xenstored"
# Without the daemon everything after this would wait for ever.
tries=0
until [ -S /run/xenstored/socket ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { echo "LAB: failed to reach xenstored"; break; }
    sleep 0.1
done
timeout 20 xen-init-dom0 >/dev/null || {
    # What the daemon does instead of answering.
    for daemon in $(pidof xenstored oxenstored); do cat /proc/$daemon/stack; done
    cat /var/log/xen/*xenstored* 2>/dev/null
    echo "LAB: failed to initialise dom0's nodes"
}
xenconsoled --log=guest --log-dir=/var/log/xen/console || echo "LAB: failed to start xenconsoled"
echo "LAB: dom0 ready"
. /lab/job
dmesg > /results/dom0.kernel.log
xl dmesg > /results/xen.log
cp /var/log/xen/*.log /var/log/xen/console/*.log /results/ 2>/dev/null
tar -cz -C /results . | dd of=/dev/vda bs=64k conv=notrunc 2>/dev/null
sync
echo "LAB: all done"
poweroff -f
