#!/bin/sh
# The vault of @SITE@: it sees patient data, and has no network. Start it as the vault's user.
# Made by `solblom node unit apptainer`; make it again when node.toml names other folders.
# An image is read-only for whoever runs it. Apptainer has no memory limit of its own here: see [vault] memory_gib.
umask 0077
ulimit -c 0
exec apptainer exec --containall --no-privs --net --network none \
    --env OMP_NUM_THREADS=1 \
@VAULT_BINDS@
    "${1:-solblom-node.sif}" solblom node vault --node @NODE_TOML@
