#!/bin/bash
# Installs what the tests marked `cluster` need, from Debian's packages: Open MPI, and
# Slurm with munge. Run again, it installs only what is missing.
#
# No daemon is left running: tests start a Slurm of their own on the loopback address
# (scripts/one_host_slurm.sh) and stop it. Prints NOT RUN and why where it cannot.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

not_run() { echo "install_test_tools: NOT RUN: $*" >&2; exit 1; }

packages=()
command -v mpirun > /dev/null || packages+=(openmpi-bin)
command -v munged > /dev/null || packages+=(munge)
for tool in slurmctld slurmd srun sbatch; do
  command -v $tool > /dev/null || { packages+=(slurm-wlm); break; }
done
if [ ${#packages[@]} = 0 ]; then
  echo "install_test_tools: all is there: $(mpirun --version | head -1)," \
    "$(slurmctld -V)"
  exit 0
fi

command -v apt-get > /dev/null || not_run "no apt-get here; install: ${packages[*]}"
[ "$(id -u)" = 0 ] || not_run "needs root, to install: ${packages[*]}"

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
