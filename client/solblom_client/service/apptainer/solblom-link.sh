#!/bin/sh
# The link of @SITE@: it has a network, and can read no patient data. Start it as the link's user.
# Made by `solblom node unit apptainer`; make it again when node.toml names other folders.
umask 0077
ulimit -c 0
exec apptainer exec --containall --no-privs \
@LINK_BINDS@
    "${1:-solblom-node.sif}" solblom node link --node @NODE_TOML@
