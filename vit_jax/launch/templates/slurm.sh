
# Codes of vit-jax train: 0 done, 1 failed, 2 a mistake, 143 saved after SIGTERM; others
# (no progress, a host gone) are worth another start.

fail() { echo "launch: $*" >&2; exit 2; }
for name in "${SECRETS[@]}"; do
  [ -n "${!name:-}" ] || fail "$name is not set where sbatch was called"
done
if [ -n "$REQUIREMENT" ]; then
  install "$ENVIRONMENT" "$REQUIREMENT" || fail "could not install $REQUIREMENT"
fi

again() { scontrol requeue "$SLURM_JOB_ID"; }

# Before the time limit Slurm tells this shell alone, by SIGUSR1. scancel --signal tells
# the tasks; a signal to srun would make it kill them.
limit=
trap 'limit=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
# Preempted, requeued or cancelled: Slurm tells the tasks itself, and queues again itself
# where it should. A second SIGTERM to them would end them unsaved.
trap 'echo "launch: SIGTERM; the tasks have it too, and save"' TERM

srun --kill-on-bad-exit=0 "$ENVIRONMENT/bin/vit-jax" "${COMMAND[@]}" &
step=$!
code=0
while :; do
  wait "$step"; code=$?
  kill -0 "$step" 2> /dev/null || break  # it was a trap that ended the wait
done
echo "launch: ended with code $code"

case $code in
  0 | 1 | 2) exit "$code" ;;
esac
if [ -n "$limit" ]; then
  echo "launch: the time limit; queued again"
  again
  exit "$code"
fi
[ "$code" = 143 ] && exit 143
failures=$LAUNCH/failures-$SLURM_JOB_ID
echo "$code" >> "$failures"
count=$(wc -l < "$failures")
if [ "$count" -le "$RETRIES" ]; then
  echo "launch: failure $count of at most $RETRIES that start again; queued again"
  again
fi
exit "$code"
