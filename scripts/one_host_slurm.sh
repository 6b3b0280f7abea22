#!/bin/bash
# A Slurm of this host alone, on the loopback address: two nodes, several tasks each.
#
#   scripts/one_host_slurm.sh start DIR    prints what to export: eval "$(...)"
#   scripts/one_host_slurm.sh stop DIR     ends the daemons that it started
#
# NODES=8 starts so many nodes, GPUS=8 gives each so many GPUs, which are not there: for
# jobs that are only checked (sbatch --test-only), or that run on the CPUs.
# All of it (keys, logs, state, process ids) is in DIR. Slurm's daemons need root.
set -euo pipefail

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# = 2 ] || usage
verb=$1
NODES=${NODES:-2}
GPUS=${GPUS:-0}
mkdir -p "$2"
dir=$(cd "$2" && pwd)
export SLURM_CONF=$dir/slurm.conf
export PATH=$PATH:/usr/sbin:/sbin

missing() {
  for tool in munged slurmctld slurmd srun; do
    command -v $tool > /dev/null || { echo "$tool"; return; }
  done
}

stop() {
  for pidfile in "$dir"/*.pid; do
    [ -e "$pidfile" ] || continue
    pid=$(cat "$pidfile")
    # The process id may be another's by now.
    if tr '\0' ' ' < "/proc/$pid/cmdline" 2> /dev/null | grep -qF "$dir"; then
      kill "$pid" 2> /dev/null || true
      for _ in $(seq 50); do
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.1
      done
      kill -9 "$pid" 2> /dev/null || true
    fi
    rm -f "$pidfile"
  done
}

free_ports() {
  python3 - "$((NODES + 1))" <<'PYTHON'
import socket
import sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
PYTHON
}

# The first two are names that resolve here; a coordinator may be on them.
names() {
  hostname -s
  echo localhost
  for ((index = 2; index < NODES; index++)); do echo "more$index"; done
}

configure() {
  local control ports host gres="" index=0
  read -r control ports <<< "$(free_ports)"
  host=$(hostname -s)
  [ "$GPUS" = 0 ] || gres="Gres=gpu:h100:$GPUS"
  mkdir -p "$dir"/{state,munge}
  chmod 700 "$dir/munge"
  [ -e "$dir/munge/key" ] || head -c 1024 /dev/urandom > "$dir/munge/key"
  chmod 600 "$dir/munge/key"
  # Nodes are named by what resolves here: the coordinator of a run is a node's name.
  cat > "$SLURM_CONF" <<CONF
ClusterName=onehost
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=$control
SlurmctldPidFile=$dir/slurmctld.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmdLogFile=$dir/slurmd-%n.log
SlurmdSpoolDir=$dir/spool-%n
StateSaveLocation=$dir/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=30
InactiveLimit=0
GresTypes=gpu
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
  for name in $(names); do
    index=$((index + 1))
    echo "NodeName=$name NodeHostname=$host NodeAddr=127.0.0.1" \
      "Port=$(cut -d' ' -f$index <<< "$ports") CPUs=8 $gres State=UNKNOWN"
  done >> "$SLURM_CONF"
  : > "$dir/gres.conf"
  [ "$GPUS" = 0 ] && return
  for ((index = 0; index < GPUS; index++)); do
    : > "$dir/gpu$index"
    echo "Name=gpu Type=h100 File=$dir/gpu$index" >> "$dir/gres.conf"
  done
}

start() {
  local tool
  tool=$(missing)
  if [ -n "$tool" ]; then
    echo "one_host_slurm: $tool is not installed; scripts/install_test_tools.sh" >&2
    exit 1
  fi
  if [ "$(id -u)" != 0 ]; then
    echo "one_host_slurm: Slurm's daemons start tasks as their users: needs root" >&2
    exit 1
  fi
  stop
  configure
  munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" \
    --log-file="$dir/munge.log" --pid-file="$dir/munged.pid" \
    --seed-file="$dir/munge/seed" 2> "$dir/munged.out" \
    || { cat "$dir/munged.out" >&2; exit 1; }
  slurmctld -c -f "$SLURM_CONF" > "$dir/slurmctld.out" 2>&1
  for node in $(names); do
    mkdir -p "$dir/spool-$node"
    slurmd -c -N "$node" -f "$SLURM_CONF" > "$dir/slurmd-$node.out" 2>&1
  done
  for _ in $(seq 100); do
    if [ "$(sinfo --noheader --states=idle --format=%D 2> /dev/null)" = "$NODES" ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.2
  done
  echo "one_host_slurm: the nodes did not come up; logs are in $dir" >&2
  stop
  exit 1
}

case $verb in
  start) start ;;
  stop) stop ;;
  *) usage ;;
esac
