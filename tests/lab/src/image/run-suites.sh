# Runs the suites of `lab.suites=NAME:PLACE+…`, one after the other. What each leaves in /results goes
# to its place on the disk at once: should the machine be lost later, that is kept.
store() { # PLACE
    for console in /var/log/xen/console/*.log; do
        cp "$console" /results/ 2>/dev/null
    done
    # 128 MiB a place, in blocks of 64 KiB; what does not fit must not reach the next one.
    tar -cz -C /results . | head -c 134217728 | dd of=/dev/vda bs=64k seek=$(($1 * 2048)) conv=notrunc 2>/dev/null
    sync
}
for entry in $(sed -n 's/.*lab\.suites=\([^ ]*\).*/\1/p' /proc/cmdline | tr + ' '); do
    suite=${entry%:*}
    rm -rf /results && mkdir -p /results
    for domain in $domains; do
        xl domid $domain >/dev/null 2>&1 || start-domain $domain
    done
    echo "LAB: suite $suite begins"
    ( slow=$slow sh /lab/suites/$suite 2>&1; echo $? >/tmp/status ) </dev/null |
        # Not sed, which keeps the last line to itself: that may be the one after which a suite hangs.
        while IFS= read -r line; do echo "LAB| $line"; done
    echo "LAB: suite $suite ends: $(cat /tmp/status)"
    store ${entry#*:}
    echo "LAB: suite $suite is stored"
done
rm -rf /results && mkdir -p /results
