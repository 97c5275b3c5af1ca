#!/bin/sh
# Make each remote builder known to buildx, then start the server with them. BUILDKIT_HOSTS lists their addresses,
# separated by spaces: tcp://buildkit:1234
set -eu
# A folder of this start, so that the builders are always those of BUILDKIT_HOSTS.
BUILDX_CONFIG=$(mktemp -d)
export BUILDX_CONFIG
names=""
number=0
for address in ${BUILDKIT_HOSTS:-}; do
    name="builder-$number"
    # At the same time: buildx waits for what it can learn from each.
    docker buildx create --name "$name" --driver remote "$address" >/dev/null &
    names="${names:+$names,}$name"
    number=$((number + 1))
done
wait
[ -z "$names" ] || export BUILDER="$names"
exec runtime-build serve "$@"
