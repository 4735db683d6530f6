#!/bin/sh
# The link of st-olavs: it has a network, and can read no patient data. Start it as the link's user.
# Made by `solblom node unit apptainer`; make it again when node.toml names other folders.
umask 0077
ulimit -c 0
exec apptainer exec --containall --no-privs \
    --bind /srv/solblom/node/node.toml:/srv/solblom/node/node.toml:ro \
    --bind /srv/solblom/node/coordinator-ca.pem:/srv/solblom/node/coordinator-ca.pem:ro \
    --bind /srv/solblom/node/vault:/srv/solblom/node/vault:ro \
    --bind /srv/solblom/node/link:/srv/solblom/node/link:rw \
    "${1:-solblom-node.sif}" solblom node link --node /srv/solblom/node/node.toml
