
# On every worker, from launch.sh:
#   worker.sh start    trains in the background, unless it does or has
#   worker.sh status   one line: running, stopped, "exit CODE", or gone
#   worker.sh stop     SIGTERM: it saves and ends
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit

running() { [ -e pid ] && kill -0 "$(cat pid)" 2> /dev/null; }

status() {
  if running; then
    echo running
  elif [ -e stopped ]; then
    echo stopped
  elif [ -e exit ]; then
    echo "exit $(cat exit)"
  else
    echo gone
  fi
}

start() {
  running && return
  [ "$(cat exit 2> /dev/null)" = 0 ] && return
  rm -f exit stopped
  nohup setsid bash worker.sh train >> train.log 2>&1 < /dev/null &
  echo $! > pid
}

train() {
  local name value child
  code=0
  trap 'echo "$code" > exit.new; mv exit.new exit' EXIT
  for name in "${SECRETS[@]}"; do
    value=$(gcloud secrets versions access latest --secret="$name") \
      || { echo "launch: no secret $name for this machine"; code=2; exit; }
    export "$name=$value"
  done
  install "$ENVIRONMENT" "$REQUIREMENT" || { code=6; exit; }
  "$ENVIRONMENT/bin/vit-jax" "${COMMAND[@]}" &
  child=$!
  trap 'kill -TERM "$child"' TERM
  while :; do
    wait "$child"; code=$?
    kill -0 "$child" 2> /dev/null || break
  done
}

stop() {
  touch stopped
  running || return
  kill -TERM "$(cat pid)"
}

case ${1:-} in
  start | status | stop | train) "$1" ;;
  *) sed -n 's/^#   //p' worker.sh >&2; exit 2 ;;
esac
