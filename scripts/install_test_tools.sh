#!/bin/bash
# Installs what the tests marked `cluster` and `browser` need, from Debian's packages:
# Open MPI, Slurm with munge, Chromium with its driver. Run again, it installs only what
# is missing.
#
# No daemon is left running: tests start a Slurm of their own on the loopback address
# (scripts/one_host_slurm.sh) and stop it. Prints NOT RUN, which and why where it cannot,
# and ends with 1.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

# A command that the tests call, and the package that has it.
tools="
  mpirun=openmpi-bin
  munged=munge
  slurmctld=slurm-wlm
  slurmd=slurm-wlm
  srun=slurm-wlm
  sbatch=slurm-wlm
  chromium=chromium
  chromedriver=chromium-driver
"

missing=() packages=()
for pair in $tools; do
  command -v "${pair%=*}" > /dev/null && continue
  missing+=("${pair%=*}")
  [[ " ${packages[*]} " == *" ${pair#*=} "* ]] || packages+=("${pair#*=}")
done
if [ ${#packages[@]} = 0 ]; then
  echo "install_test_tools: all is there: $(mpirun --version | head -1)," \
    "$(slurmctld -V), $(chromium --version 2> /dev/null)"
  exit 0
fi

not_run() {
  echo "install_test_tools: NOT RUN: the tests that need ${missing[*]}: $*" >&2
  exit 1
}
command -v apt-get > /dev/null || not_run "no apt-get here; install ${packages[*]}"
[ "$(id -u)" = 0 ] || not_run "needs root, to install ${packages[*]}"

# Packages start their daemons where this file does not forbid it.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' > $policy
  chmod +x $policy
  trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || not_run "apt-get update failed: no network, or no mirror"
apt-get install -y -qq --no-install-recommends "${packages[@]}" > /dev/null \
  || not_run "apt-get install ${packages[*]} failed"
echo "install_test_tools: installed ${packages[*]}"
