#!/usr/bin/env bash
# Separate hosts on one Linux machine: each has its own network, host name, process ids, IPC and mounts (/tmp, home, /mnt,
# /dev/shm). All see this checkout and its environment; those in SHARED see $ROOT/shared as /mnt/shared.
#   hosts.sh up                   makes a switch and the hosts;   hosts.sh down   ends them and all that runs in them
#   hosts.sh at HOST COMMAND...   runs a command there, as root, in the checkout
#   hosts.sh cut A [B] | deaf A | slow MS PERCENT | heal   partitions, at the switch: nobody gets an error, only silence
# Needs root, iproute2, nftables and util-linux.
set -euo pipefail
: "${ROOT:?a folder for all that is written}" "${CLONE:?the checkout}" "${VENV:?its environment}" "${PYTHON:?the prefix of its interpreter}"
HOSTS=${HOSTS:-head w1 w2 db web cli} # addresses NET.1, NET.2, ...
SHARED=${SHARED:-head w1 w2}
NET=${NET:-10.77.0}
TAG=${TAG:-es} # of the names of the network namespaces
SWITCH=$TAG-switch
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

address() { local n=0 h; for h in $HOSTS; do n=$((n + 1)); [ "$h" != "$1" ] || { echo "$NET.$n"; return; }; done; return 1; }

show() { # PATH: stays visible in a host, whose /tmp and home are its own
    local target
    case $1 in
        /tmp/*) target=$dir/tmp${1#/tmp} ;;
        /root/*) target=$dir/home${1#/root} ;;
        *) return 0 ;;
    esac
    mkdir -p "$target"
    mount --rbind -o ro "$1" "$target"
}

init() { # HOST: its first process, in its new namespaces
    dir=$ROOT/$1
    mount --make-rprivate /
    hostname "$1"
    for path in "$CLONE" "$VENV" "$PYTHON"; do show "$path"; done
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/shared /mnt/own /mnt/bin
    mount --bind "$ROOT/bin" /mnt/bin
    case " $SHARED " in *" $1 "*) mount --bind "$ROOT/shared" /mnt/shared ;; esac
    mount --bind "$dir/own" /mnt/own # seen from outside as $ROOT/HOST/own
    mount --bind "$ROOT/hosts" /etc/hosts
    mount --bind "$ROOT/resolv.conf" /etc/resolv.conf
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    mount --rbind "$dir/home" /root
    mount --rbind "$dir/tmp" /tmp
    mount -t proc proc /proc
    touch /mnt/own/up
    trap : TERM INT
    while :; do sleep 3600 & wait $! || true; done
}

up() {
    mkdir -p "$ROOT/shared" "$ROOT/bin"
    # The command of this checkout, wherever the environment's own is from.
    printf '#!/bin/sh\nPYTHONPATH=%s exec python -P -m sweep "$@"\n' "$CLONE" >"$ROOT/bin/sweep"
    chmod +x "$ROOT/bin/sweep"
    echo "127.0.0.1 localhost" >"$ROOT/hosts"
    for h in $HOSTS; do echo "$(address "$h") $h" >>"$ROOT/hosts"; done
    echo "options timeout:1 attempts:1" >"$ROOT/resolv.conf" # nobody answers
    ip netns add "$SWITCH"
    ip -n "$SWITCH" link add br0 type bridge
    ip -n "$SWITCH" addr add "$NET.254/24" dev br0
    ip -n "$SWITCH" link set br0 up
    ip netns exec "$SWITCH" nft add table bridge faults
    ip netns exec "$SWITCH" nft 'add chain bridge faults forward { type filter hook forward priority 0; }'
    for h in $HOSTS; do
        mkdir -p "$ROOT/$h"/{home,tmp,own}
        chmod 1777 "$ROOT/$h/tmp"
        ip netns add "$TAG-$h"
        ip link add "p-$h" netns "$SWITCH" type veth peer name eth0 netns "$TAG-$h"
        ip -n "$SWITCH" link set "p-$h" master br0 up
        ip -n "$TAG-$h" link set lo up
        ip -n "$TAG-$h" addr add "$(address "$h")/24" dev eth0
        ip -n "$TAG-$h" link set eth0 up
        ip -n "$TAG-$h" route add default via "$NET.254" # leads nowhere; by it a host finds its own address
        setsid nsenter --net="/run/netns/$TAG-$h" unshare --mount --uts --ipc --pid --fork --kill-child "$0" init "$h" \
            >"$ROOT/$h/init.log" 2>&1 </dev/null &
        until [ -e "$ROOT/$h/own/up" ]; do sleep 0.1; kill -0 $!; done
        tr -d ' ' <"/proc/$!/task/$!/children" >"$ROOT/$h/pid"
    done
}

at() { # HOST COMMAND...
    local pid
    pid=$(cat "$ROOT/$1/pid")
    shift
    # Ray's workers, by default of niceness 15, would get a twentieth of a machine where others work too.
    exec nsenter -t "$pid" -m -u -i -n -p env -i HOME=/root TERM=dumb LANG=C.UTF-8 LOGNAME=root USER=root COLUMNS=200 \
        PATH="/mnt/bin:$VENV/bin:$PATH" PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 RAY_worker_niceness=0 \
        sh -c 'cd "$0" && exec "$@"' "$CLONE" "$@"
}

rule() { ip netns exec "$SWITCH" nft add rule bridge faults forward "$@" drop; }
cut() { # HOST [OTHER]: between a host and all others, or one other, in both directions
    if [ $# -eq 1 ]; then rule iifname "p-$1"; rule oifname "p-$1"
    else rule iifname "p-$1" oifname "p-$2"; rule iifname "p-$2" oifname "p-$1"; fi
}
deaf() { rule oifname "p-$1"; } # it sends, and hears nothing
slow() { # MILLISECONDS PERCENT: each frame takes so long, and some are lost; for kernels without sch_netem
    cc -O2 -o "$ROOT/slowswitch" "$(dirname "$0")/slowswitch.c"
    for h in $HOSTS; do ip -n "$SWITCH" link set "p-$h" nomaster; done
    setsid ip netns exec "$SWITCH" "$ROOT/slowswitch" "$@" $(printf 'p-%s ' $HOSTS) >/dev/null 2>&1 </dev/null &
    echo $! >"$ROOT/slowswitch.pid"
}
heal() {
    ip netns exec "$SWITCH" nft flush chain bridge faults forward
    [ -e "$ROOT/slowswitch.pid" ] || return 0
    kill "$(cat "$ROOT/slowswitch.pid")"
    rm "$ROOT/slowswitch.pid"
    for h in $HOSTS; do ip -n "$SWITCH" link set "p-$h" master br0; done
}

down() {
    [ ! -e "$ROOT/slowswitch.pid" ] || kill "$(cat "$ROOT/slowswitch.pid")" 2>/dev/null || true
    for h in $HOSTS; do
        [ ! -s "$ROOT/$h/pid" ] || kill -9 "$(cat "$ROOT/$h/pid")" 2>/dev/null || true # the end of pid 1 ends the host
        ip netns del "$TAG-$h" 2>/dev/null || true
    done
    ip netns del "$SWITCH" 2>/dev/null || true
}

export ROOT CLONE VENV PYTHON HOSTS SHARED NET TAG
"$@"
