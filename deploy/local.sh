#!/usr/bin/env bash
# A Ray cluster of several nodes on this machine, each a process of its own, with a token:
#
#   deploy/local.sh up 2        a head, and two nodes of one CPU each (CPUS=n for more)
#   deploy/local.sh add         one more node, while it runs
#   deploy/local.sh env         what to export to reach it: eval "$(deploy/local.sh env)"
#   deploy/local.sh down        ends what `up` started, and nothing else
#
# CLUSTER names the folder that holds token, logs and process ids; PORT and DASHBOARD_PORT where the head listens.
set -euo pipefail

cluster=${CLUSTER:-/tmp/condinst-cluster}
port=${PORT:-6380}
dashboard=${DASHBOARD_PORT:-8266}
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$cluster/token RAY_USAGE_STATS_ENABLED=0

node() { # name, then what `ray start` gets; returns when the node has joined
  local name=$1 pid
  shift
  ray start "$@" --block --disable-usage-stats --object-store-memory=134217728 \
    >"$cluster/$name.log" 2>&1 &
  pid=$!
  echo "$pid" >"$cluster/$name.pid"
  for _ in $(seq 300); do
    grep -q "Ray runtime started" "$cluster/$name.log" && return
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.2
  done
  echo "$name did not start; $cluster/$name.log says:" >&2
  tail -n 5 "$cluster/$name.log" >&2
  exit 1
}

up() {
  if [[ -e $cluster ]]; then
    echo "$cluster is there already; end it first: $0 down" >&2
    exit 1
  fi
  mkdir -m 700 "$cluster"
  (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$cluster/token")
  # One CPU: the one that Ray Data needs beside its pool of workers.
  node head --head --node-ip-address=127.0.0.1 --port="$port" --num-cpus=1 --num-gpus=0 \
    --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" --temp-dir="$cluster/ray"
  for _ in $(seq "$1"); do add; done
}

add() {
  local number
  number=$(find "$cluster" -name 'node-*.pid' | wc -l)
  node "node-$((number + 1))" --address="127.0.0.1:$port" --node-ip-address=127.0.0.1 --num-cpus="${CPUS:-1}"
}

down() {
  local pid
  for pid in "$cluster"/node-*.pid "$cluster/head.pid"; do
    [[ -e $pid ]] && kill "$(cat "$pid")" 2>/dev/null || true
  done
  for pid in "$cluster"/*.pid; do
    [[ -e $pid ]] && while kill -0 "$(cat "$pid")" 2>/dev/null; do sleep 0.2; done
  done
  rm -rf "$cluster"
}

case ${1:-} in
up) up "${2:-2}" ;;
add) add ;;
env)
  echo "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$cluster/token"
  echo "export RAY_ADDRESS=127.0.0.1:$port RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard"
  ;;
down) down ;;
*)
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
