#!/usr/bin/env bash
# Builds docker/Dockerfile on a bare Debian root and runs what came out as a stranger would: read-only, without
# privileges, a clip through it, an orderly end. Needs no registry: debootstrap makes the base image.
# For root, with debootstrap, buildah, podman and runc (Debian's packages).
set -euo pipefail
cd "$(dirname "$0")/.."

work=out/image
name=resq-image-check
port="${PORT:-8123}"
mkdir -p "$work"
say() { printf '\n== %s\n' "$*"; }
fail() { echo "failed: $*" >&2; exit 1; }
for tool in debootstrap buildah podman runc; do
  command -v "$tool" >/dev/null || fail "$tool is not there: apt-get install debootstrap buildah podman runc"
done
[ "$(id -u)" = 0 ] || fail "this needs root, for debootstrap"

base="docker.io/library/$(awk '$1 == "FROM" { print $2; exit }' docker/Dockerfile)"
if ! buildah images -q "$base" >/dev/null 2>&1; then
  suite="${base##*:}"; suite="${suite%%-*}"
  say "a bare $suite as $base"
  rm -rf "$work/root"
  debootstrap --variant=minbase "$suite" "$work/root" >"$work/debootstrap.log"
  for part in "debian $suite" "debian $suite-updates" "debian-security $suite-security"; do
    echo "deb http://deb.debian.org/$part main"
  done >"$work/root/etc/apt/sources.list"
  container=$(buildah from scratch)
  buildah add -q "$container" "$work/root" / >/dev/null
  buildah config --cmd bash "$container"
  buildah commit -q --rm "$container" "$base" >/dev/null
  rm -rf "$work/root"
fi

say "docker/Dockerfile"
# what pip has here of its own: authorities, and wheels (then torch comes from among them)
arguments=(--secret "id=pip,src=$work/pip.conf")
echo "[global]" >"$work/pip.conf"
if [ -f "${PIP_CERT:-}" ]; then
  echo "cert = /authorities.pem" >>"$work/pip.conf"
  arguments+=(--volume "$(realpath "$PIP_CERT"):/authorities.pem:ro")
fi
if [ -d "${PIP_FIND_LINKS:-}" ]; then
  echo "find-links = /wheels" >>"$work/pip.conf"
  arguments+=(--volume "$(realpath "$PIP_FIND_LINKS"):/wheels:ro")
  arguments+=(--build-arg TORCH_INDEX=https://pypi.org/simple --build-arg TORCH=2.13.0+cpu)
fi
buildah build --isolation chroot --format docker --pull-never --layers "${arguments[@]}" \
  -f docker/Dockerfile -t "$name" .

say "as a stranger runs it"
run() { podman --log-level fatal --runtime runc "$@"; }
run rm -f "$name" >/dev/null 2>&1 || true
run run -d --name "$name" --pull never --read-only --cap-drop all --security-opt no-new-privileges \
  --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 --tmpfs /tmp --network host --env RESQ_HOST=127.0.0.1 --env "RESQ_PORT=$port" \
  --env RESQ_LOG_FORMAT=json "$name" >/dev/null
trap 'run logs "$name" 2>&1 | tail -n 20; run rm -f "$name" >/dev/null' EXIT
inside() { run exec "$name" "$@"; }

for _ in $(seq 60); do
  inside python3 -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$port/readyz')" 2>/dev/null && break
  sleep 1
done
run healthcheck run "$name" || fail "its health check"
[ "$(inside id -u)" = 10001 ] || fail "it runs as root"
! inside touch /opt/resq/x 2>/dev/null || fail "its root can be written"
! inside sh -c 'command -v g++ pip' || fail "tools of the build are in it"

url="http://127.0.0.1:$port"
inside resq world --out /tmp/world --frames 24 --json >/dev/null
inside resq stream /tmp/world/clip.mp4 --url "$url" --json >"$work/stream.json" 2>/dev/null
inside resq clips upload /tmp/world/clip.mp4 --follow --url "$url" --json >"$work/clip.json" 2>/dev/null
run stop -t 40 "$name" >/dev/null
run logs "$name" >"$work/server.log" 2>&1
grep -q '"message": "drained"' "$work/server.log" || fail "it did not drain"
grep -q 'backend native' "$work/server.log" || fail "it runs without the native backend"
code=$(run inspect --format '{{.State.ExitCode}}' "$name")
[ "$code" = 0 ] || fail "it ended with $code"
trap - EXIT
run rm -f "$name" >/dev/null
say "passed: an image of $(buildah images --format '{{.Size}}' "$name"); what the stream and the job gave:"
cat "$work/stream.json" "$work/clip.json"
