# install ENVIRONMENT REQUIREMENT: a virtual environment of Python 3.11 or newer, once.
# Where the machine's Python is older, or cannot make one, uv brings another.
install() {
  [ -e "$1/complete" ] && return
  rm -rf "$1"
  if ! { python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    && python3 -m venv "$1"; }; then
    rm -rf "$1"
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv \
      && python3 -m uv venv --quiet --seed --python 3.12 "$1" || return
  fi
  "$1/bin/pip" install --quiet --disable-pip-version-check "$2" || return
  touch "$1/complete"
}
