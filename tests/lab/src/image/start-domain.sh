#!/bin/sh
# start-domain NAME: creates a domain, in place of one that is left, and waits for its supervisor.
name=$1
for try in 1 2 3; do
    xl destroy "$name" 2>/dev/null
    echo "LAB: starting domain $name"
    if xl create -q "/lab/$name.cfg" </dev/null && pv-stress on "$name" true; then
        exit 0
    fi
    echo "LAB: domain $name did not come up"
    # Why, as far as its own console, Xen and the toolstack know.
    tail -n 4 "/var/log/xen/console/guest-$name.log" 2>/dev/null | sed "s/^/LAB| $name said: /"
    xl dmesg | tail -n 3 | sed 's/^/LAB| Xen said: /'
    tail -n 4 "/var/log/xen/xl-$name.log" 2>/dev/null | sed 's/^/LAB| xl said: /'
done
echo "LAB: failed to start domain $name"
exit 2
