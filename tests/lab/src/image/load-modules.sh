#!/bin/busybox sh
# load-modules NAME...: loads kernel modules that were brought along, each after what it needs, with
# the parameters that the image has for it.
for name; do
    needs=/lib/modules/needs/$(echo "$name" | tr - _)
    if [ ! -f "$needs" ]; then
        echo "load-modules: $name was not brought along; run: pv-stress lab --modules $name" >&2
        exit 2
    fi
    for module in $(cat "$needs"); do
        parameters=$(cat "/lib/modules/parameters/$module" 2>/dev/null)
        [ -d "/sys/module/$module" ] || insmod "/lib/modules/$module.ko" $parameters || exit 1
    done
done
