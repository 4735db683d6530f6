#!/bin/sh
# The vault of st-olavs: it sees patient data, and has no network. Start it as the vault's user.
# Made by `solblom node unit apptainer`; make it again when node.toml names other folders.
# An image is read-only for whoever runs it. Apptainer has no memory limit of its own here: see [vault] memory_gib.
umask 0077
ulimit -c 0
exec apptainer exec --containall --no-privs --net --network none \
    --env OMP_NUM_THREADS=1 \
    --bind /srv/solblom/node:/srv/solblom/node:ro \
    --bind /data/ro:/data/ro:ro \
    --bind /srv/solblom/node/state:/srv/solblom/node/state:rw \
    --bind /srv/solblom/node/anchor:/srv/solblom/node/anchor:rw \
    --bind /srv/solblom/node/vault:/srv/solblom/node/vault:rw \
    "${1:-solblom-node.sif}" solblom node vault --node /srv/solblom/node/node.toml
