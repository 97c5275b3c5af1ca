#!/bin/sh
# Installs what the tests with real engines and middleboxes need on a Debian machine; running it again changes nothing.
set -eu

packages="buildah busybox-static debootstrap docker-registry docker.io haproxy nginx-light podman socat tinyproxy"

# shellcheck disable=SC2086 # a list of names
if dpkg-query --show --showformat='${Status}\n' $packages 2>/dev/null | grep -c '^install ok installed$' |
    grep -qx "$(echo "$packages" | wc -w)"; then
    exit 0
fi

# No service of a package is started: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update -qq
# shellcheck disable=SC2086
apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends $packages
