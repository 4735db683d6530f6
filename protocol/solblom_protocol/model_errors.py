"""Errors of the log and of models, those from SB-410 on. `errors.py` joins them to the others."""

from solblom_protocol.error_code import ErrorCode

LOG_AND_MODEL_CODES: dict[str, ErrorCode] = {
    "SB-410": ErrorCode(
        "The coordinator's log cannot be trusted",
        5,
        "Run `solblom audit log`, and restore the newest log: hospitals refuse one that went back",
    ),
    "SB-411": ErrorCode(
        "The coordinator's log has two histories",
        5,
        "Keep both checkpoints and tell the other hospitals: they prove that the coordinator signed both",
    ),
    "SB-412": ErrorCode(
        "The coordinator's log went back",
        5,
        "Once: an order may have been overtaken by a newer one. Again: ask the coordinator's operator",
    ),
    "SB-413": ErrorCode(
        "The coordinator does not prove that its log only grew",
        5,
        "Ask the coordinator's operator; `solblom audit log` there shows the log",
    ),
    "SB-414": ErrorCode(
        "The order shows no checkpoint of the coordinator's log",
        5,
        "An older coordinator, or one that hides its log: ask its operator",
    ),
    "SB-415": ErrorCode(
        "A checkpoint of the coordinator's log does not hold",
        5,
        "Compare the coordinator's key fingerprint by phone",
    ),
    # Life cycle
    "SB-420": ErrorCode(
        "The model was withdrawn", 4, "Use another version; `solblom model status REF` says why"
    ),
    "SB-421": ErrorCode(
        "The model is not released",
        4,
        "Leave out --clinical for research, or ask the steward to release the model",
    ),
    "SB-422": ErrorCode(
        "The model's status does not allow this step",
        4,
        "A model is validated, then released; see `solblom model status REF`",
    ),
    "SB-423": ErrorCode(
        "The key is no steward's",
        4,
        "Add it with `solblom coordinator trust add-key`, and give out the new trust file",
    ),
    "SB-424": ErrorCode(
        "The trust file is older than the coordinator's own",
        3,
        "Get the newest trust file from the steward",
    ),
    # Replay
    "SB-431": ErrorCode(
        "The model has no ONNX file", 1, "The message says why; the weights are in the artefact"
    ),
    "SB-440": ErrorCode(
        "What a run keeps for replay could not be written",
        3,
        "Free disk space at the coordinator, then run `solblom run resume RUN`",
    ),
    "SB-441": ErrorCode(
        "The model keeps nothing that could be replayed",
        1,
        "Verify it with `solblom model verify`; the model's study says what is kept",
    ),
    "SB-442": ErrorCode(
        "The replay leads to something else than the model says",
        5,
        "Do not use the model; ask its coordinator what happened in the round that the message names",
    ),
    "SB-443": ErrorCode(
        "The round's patients or their consent are no longer the same",
        4,
        "Nothing can be done, and nothing should: a withdrawal holds for replays too",
    ),
    "SB-444": ErrorCode(
        "The study's noise root is gone",
        4,
        "Nothing can be done: the root is destroyed at the permit's date, or when an approval is revoked",
    ),
    "SB-445": ErrorCode(
        "A masked round cannot be worked on again",
        4,
        "Run `solblom model replay REF`: it adds up the opened sums",
    ),
    "SB-446": ErrorCode(
        "Code, approval or data set are not those of the round",
        4,
        "Install the version that the model's receipts name, and approve the study with it",
    ),
    "SB-447": ErrorCode(
        "The round worked on again gives another update",
        5,
        "Do not let the study go on here; compare code/environment.json of the model with this machine's",
    ),
    "SB-448": ErrorCode(
        "The noise in the update is not what the study promises",
        5,
        "Stop the node and report it: patients may have less protection than they were promised",
    ),
    "SB-449": ErrorCode(
        "This hospital has no update in the round", 3, "See `solblom model show REF`"
    ),
    "SB-451": ErrorCode(
        "A comparison made again differs from its record",
        5,
        "Look at what the message names: other models, another input, or a record that was changed",
    ),
    # The steward's page
    "SB-461": ErrorCode(
        "The page's port cannot be used", 3, "Choose another --port; 0 takes any free one"
    ),
    "SB-462": ErrorCode(
        "The file is no record of a comparison",
        3,
        "Give what `solblom model compare … --out FILE` wrote",
    ),
    "SB-463": ErrorCode(
        "The model does not stand in this Solblom folder",
        3,
        "Name a version of the folder's registry, or check a single folder with `solblom-verify`",
    ),
}
