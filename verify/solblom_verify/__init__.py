"""Check a Solblom model artefact, offline.

Written to be read in one sitting, in this order: `canonical` (one byte string per value, digests),
`shape` (reading JSON by type), `envelope` (signatures), `trust` (whose signatures count), `log`
(checkpoints and proofs), `history` (signing time and stewards' decisions), `folder` (reading only
what is signed), `artefact` (the checks), `cli`.
"""
