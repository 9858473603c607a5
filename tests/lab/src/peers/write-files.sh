# Writes file after file to /mnt, each of them safe (fsync) before the next one, over and over, until
# /peers/stop is there. `written` says how many so far, `expected/FILE` which source it must equal.
# With keep_full=yes large writes beside them keep the ring full.
cd /peers
rm -rf sources expected stop failed done
mkdir sources expected
for source in 0 1 2 3 4 5 6; do
    dd if=/dev/urandom of=sources/$source bs=64k count=$((source + 2)) 2>/dev/null
done
(
    while [ "$keep_full" = yes ] && [ ! -e stop ]; do
        dd if=/dev/zero of=/mnt/large bs=64k count=64 conv=fsync 2>/dev/null || break
    done
) &
n=0
while [ ! -e stop ]; do
    file=$((n % 24)) source=$((n % 7))
    dd if=sources/$source of=/mnt/$file bs=64k conv=fsync 2>dd.err || { mv dd.err failed; exit 1; }
    echo $source >expected/$file
    n=$((n + 1))
    echo $n >written.new
    mv written.new written
done
wait
echo stopped >done
