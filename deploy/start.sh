#!/bin/sh
# Make each remote builder known to buildx, then start the server with them. BUILDKIT_HOSTS lists their addresses,
# separated by spaces: tcp://buildkit:1234
set -eu
names=""
number=0
for address in ${BUILDKIT_HOSTS:-}; do
    name="builder-$number"
    docker buildx inspect "$name" >/dev/null 2>&1 || docker buildx create --name "$name" --driver remote "$address" >/dev/null
    names="${names:+$names,}$name"
    number=$((number + 1))
done
[ -z "$names" ] || export BUILDER="$names"
exec runtime-build serve "$@"
