
# Where the resource is, and what runs on it, is asked each time: this script may be
# stopped and started again at any moment.
#   launch.sh          creates, ships, trains, watches; creates again after a preemption
#   launch.sh status   state of the resource, and of each worker
#   launch.sh log      follows the first worker's log
#   launch.sh stop     tells every worker to save and end
#   launch.sh delete   deletes the resource
# KEEP=1 keeps the machines at the end, POLL=60 is the seconds between two looks.
set -o pipefail  # not -u: older shells take empty arrays for unset ones
KEEP=${KEEP:-}
POLL=${POLL:-60}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
queued=(gcloud compute tpus queued-resources)
machine=(gcloud compute tpus tpu-vm)

say() { echo "launch: $(date +%H:%M:%S) $*"; }

# One word; nothing where there is no such resource. It fails where nobody answers.
resource_state() {
  "${queued[@]}" list "${WHERE[@]}" --filter="name~/$NAME\$" \
    --format='value(state.state)'
}

node_states() {
  "${machine[@]}" list "${WHERE[@]}" --filter="name~/$NAME(-[0-9]+)?\$" \
    --format='value(state)'
}

create() {
  say "asking for $NAME: ${ACCELERATOR[*]}"
  "${queued[@]}" create "$NAME" "${WHERE[@]}" "${ACCELERATOR[@]}" "${EXTRA[@]}" --quiet
}

delete() {
  say "deleting $NAME"
  "${queued[@]}" delete "$NAME" "${WHERE[@]}" --force --quiet
}

# on_workers COMMAND: on every worker of every slice, slices side by side.
on_workers() {
  local node pids=() failed=0 pid
  for node in "${NODES[@]}"; do
    "${machine[@]}" ssh "$node" "${WHERE[@]}" --worker=all --quiet \
      --command="$1" < /dev/null &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  return $failed
}

ship() {
  local node
  say "shipping ${FILES[*]} to every worker"
  on_workers "mkdir -p $NAME" || return
  for node in "${NODES[@]}"; do
    (cd "$here" && "${machine[@]}" scp "${FILES[@]}" "$node:$NAME/" "${WHERE[@]}" \
      --worker=all --quiet) || return
  done
}

workers() {
  on_workers "bash $NAME/worker.sh status 2> /dev/null || echo absent" 2> /dev/null \
    | grep -xE 'running|stopped|gone|absent|exit [0-9]+'
}

fetch_log() {
  "${machine[@]}" ssh "${NODES[0]}" "${WHERE[@]}" --worker=0 --quiet \
    --command="cat $NAME/train.log" > "$here/train.log" 2> /dev/null < /dev/null \
    && say "the first worker's log is in $here/train.log"
}

finish() {  # CODE MESSAGE
  say "$2"
  fetch_log
  if [ -n "$KEEP" ]; then
    say "$NAME is kept, and costs: bash $here/launch.sh delete"
  else
    delete
  fi
  exit "$1"
}

start() {
  on_workers "bash $NAME/worker.sh start" && say "training on every worker"
}

failures=0
failed() {  # CODE MESSAGE
  failures=$((failures + 1))
  [ "$failures" -le "$RETRIES" ] \
    || finish "$1" "$2; failure $failures, and $RETRIES start again"
  say "$2; starts again ($failures of $RETRIES)"
}

# What every worker says, one way: ships and starts where that is missing.
look() {
  local said code worst=0
  said=$(workers)
  if [ "$(grep -c . <<< "$said")" != "$HOSTS" ]; then
    say "of $HOSTS workers $(grep -c . <<< "$said") answer"
    return
  fi
  if grep -q absent <<< "$said"; then
    ship && start
    return
  fi
  grep -q running <<< "$said" && return
  grep -q stopped <<< "$said" && finish 143 "stopped; the same command goes on"
  grep -q gone <<< "$said" && { failed 1 "a worker started anew"; start; return; }
  while read -r _ code; do
    case $code in
      1 | 2) finish "$code" "vit-jax ended with code $code on a worker" ;;
      0 | 143) ;;
      *) worst=$code ;;
    esac
  done <<< "$said"
  [ "$worst" = 0 ] || { failed "$worst" "code $worst on a worker"; start; return; }
  grep -q 143 <<< "$said" && { say "saved after SIGTERM; goes on"; start; return; }
  finish 0 "done"
}

main() {
  local state before=-
  while :; do
    if state=$(resource_state); then
      [ "$state" = "$before" ] || say "$NAME: ${state:-not there}"
      before=$state
      case $state in
        "") create || failed 1 "it could not be asked for" ;;
        ACTIVE)
          if grep -qE 'PREEMPTED|TERMINATED|STOPPED' <<< "$(node_states)"; then
            say "preempted"
            delete
          else
            look
          fi ;;
        SUSPENDED) say "preempted"; delete ;;
        FAILED)
          "${queued[@]}" describe "$NAME" "${WHERE[@]}" --format='value(state)' >&2
          failed 1 "the resource failed"
          delete ;;
        *) ;;  # queued, being made, or being deleted
      esac
    else
      [ "$before" != - ] || {
        say "gcloud does not answer, see above: gcloud auth login? --project?"
        exit 2
      }
      say "gcloud does not answer"
    fi
    sleep "$POLL"
  done
}

case ${1:-} in
  "") main ;;
  status) resource_state; workers ;;
  log)
    "${machine[@]}" ssh "${NODES[0]}" "${WHERE[@]}" --worker=0 \
      --command="tail -n 50 -f $NAME/train.log" ;;
  stop) on_workers "bash $NAME/worker.sh stop" ;;
  delete) delete ;;
  *) sed -n 's/^#   //p' "$0" >&2; exit 2 ;;
esac
