#!/bin/sh
# usage: agents.sh FOLDER PACKAGE@VERSION…
# Installs ACP agents from the npm registry into ACP_NODE_DIR, with the image's own Node if that is new enough, and
# otherwise with the one that was unpacked in FOLDER. The agents are started with this Node, whatever Node the PATH has.
set -eu
folder=$1
shift
is_usable() {
    "$1" -e 'process.exit(process.versions.node.split(".")[0] < 22 ? 1 : 0)' 2>/dev/null
}
mkdir -p "$ACP_NODE_DIR/bin" "$ACP_NODE_DIR/lib/node_modules"
node=$(command -v node || echo none)
npm=$(command -v npm || echo none)
if [ "$npm" = none ] || ! is_usable "$node"; then
    if ! is_usable "$folder/bin/node"; then
        echo "the ACP agents are left out: the Node of the Python registry does not run on this base image"
        rm -rf "$ACP_NODE_DIR"
        exit 0
    fi
    node=$ACP_NODE_DIR/bin/node
    npm=$ACP_NODE_DIR/lib/node_modules/npm/bin/npm-cli.js
    cp "$folder/bin/node" "$node"
    cp -R "$folder/lib/node_modules/npm" "$ACP_NODE_DIR/lib/node_modules/"
fi
export PATH="$(dirname "$node"):$PATH" npm_config_cache="$ACP_NODE_DIR/cache" NODE_DISABLE_COMPILE_CACHE=1
"$node" "$(readlink -f "$npm")" install --global --prefix "$ACP_NODE_DIR" --no-audit --no-fund "$@"
rm -rf "$npm_config_cache"
cd "$ACP_NODE_DIR/bin"
for name in *; do
    if [ "$name" != node ] && [ "$name" != npm ] && [ "$name" != npx ]; then
        printf '#!/bin/sh\nPATH="%s:$PATH" exec "%s" "$@"\n' "$(dirname "$node")" "$PWD/$name" >"/usr/local/bin/$name"
        chmod 0755 "/usr/local/bin/$name"
    fi
done
# Nobody is there to be asked for a permission.
mkdir -p /etc/claude-code
echo '{"permissions":{"allow":["Edit","Read","Bash"]}}' >/etc/claude-code/managed-settings.json
