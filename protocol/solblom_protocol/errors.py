"""Every error of Solblom has a code, an exit status and a next step.

    SolblomError
    ├── ConfigurationError   SB-1xx  exit 3   a file or a setting is wrong
    ├── RefusedError         SB-2xx  exit 4   a hospital's rule said no
    ├── DataError            SB-3xx  exit 1   a hospital's data do not fit (seen inside only)
    ├── IntegrityError       SB-4xx  exit 5   a signature, digest or ledger does not hold
    └── RunError             SB-5xx  exit 1, 3, 4 or 6   a run could not go on

Messages never carry patient data, file names of slides or HPO terms. Across a hospital's boundary
only the code travels (`REFUSAL_CODES`); message and trace stay in the site's own log.
`docs/reference/errors.md` lists every code; a test compares the two.
"""

from solblom_protocol.error_code import ErrorCode
from solblom_protocol.model_errors import LOG_AND_MODEL_CODES

EXIT_DONE = 0
EXIT_CHECK_SAID_NO = 1
EXIT_USAGE = 2
EXIT_CONFIGURATION = 3
EXIT_REFUSED = 4
EXIT_INTEGRITY = 5
EXIT_UNREACHABLE = 6
EXIT_INTERRUPTED = 130


CODES: dict[str, ErrorCode] = {
    # Configuration
    "SB-101": ErrorCode("The file cannot be read", 3, "Check the path and that it is valid TOML"),
    "SB-102": ErrorCode("Unknown key", 3, "Correct the spelling or remove the key"),
    "SB-103": ErrorCode(
        "A setting is missing or has a wrong value", 3, "Correct the setting named in the message"
    ),
    "SB-104": ErrorCode(
        "The study's end date has passed", 3, "Agree on a new end date and sign the study again"
    ),
    "SB-105": ErrorCode(
        "Epsilon or delta is out of range",
        3,
        "Use an epsilon above 0 and a delta between 0 and 1, far below one over the patients",
    ),
    "SB-106": ErrorCode(
        "The data contract is not valid", 3, "Correct the variable named in the message"
    ),
    "SB-107": ErrorCode(
        "Unknown task or model", 3, "Install the task's package or choose one that is installed"
    ),
    "SB-108": ErrorCode(
        "The setting is not available in this version", 3, "Choose one that the message lists"
    ),
    "SB-109": ErrorCode(
        "A key file is missing or unreadable", 3, "Check the path and the file's permissions"
    ),
    "SB-110": ErrorCode(
        "The signed study does not belong to the study file", 3, "Sign the study file again"
    ),
    "SB-111": ErrorCode(
        "No Solblom folder here",
        3,
        "Go to the coordinator's folder, give --home or set SOLBLOM_HOME; `solblom demo` makes one to try",
    ),
    "SB-112": ErrorCode(
        "No trust file", 3, "Give --trust with the trust file that you got from the steward"
    ),
    "SB-113": ErrorCode("The target exists already", 3, "Choose another name or remove it"),
    "SB-114": ErrorCode(
        "The installed code cannot be identified",
        3,
        "Install the package as a folder of plain files or as one module, not as an archive",
    ),
    "SB-115": ErrorCode(
        "The ontology cannot be used", 3, "Get hp.obo of the release that the study names again"
    ),
    "SB-116": ErrorCode(
        "A public file is not the one that the study pins",
        3,
        "Get the release that the study names; all hospitals must hold the same file",
    ),
    "SB-117": ErrorCode(
        "The annotations of diseases cannot be used",
        3,
        "Get phenotype.hpoa of the release that the study names again",
    ),
    "SB-118": ErrorCode(
        "An optional package is not installed", 3, "Install the package that the message names"
    ),
    "SB-119": ErrorCode(
        "The encoder of tiles cannot be used",
        3,
        "List the encoder's file in node.toml under [[encoder]], with its digest",
    ),
    "SB-120": ErrorCode(
        "The offline bundle cannot be made",
        3,
        "Correct what pip says; it asks what it is set up to ask on this machine",
    ),
    # Refusals
    "SB-201": ErrorCode(
        "The order is not signed by the pinned coordinator",
        5,
        "Compare the coordinator's key fingerprint by phone; do not replace the pinned key",
    ),
    "SB-202": ErrorCode(
        "The order is malformed or meant for somebody else", 4, "Update both sides to one version"
    ),
    "SB-203": ErrorCode(
        "The study is not approved at this hospital",
        4,
        "Read the study and run `solblom node approve STUDY`",
    ),
    "SB-204": ErrorCode(
        "The privacy budget does not allow it",
        4,
        "Ask for fewer rounds, or raise the budget in node.toml after approval",
    ),
    "SB-205": ErrorCode(
        "The hospital's policy does not allow it", 4, "Compare the study with [policy] in node.toml"
    ),
    "SB-206": ErrorCode(
        "The study has ended or the order has expired", 4, "Check the clock and the study's dates"
    ),
    "SB-207": ErrorCode(
        "The order is out of sequence or was replayed", 4, "Look at the coordinator's run log"
    ),
    "SB-208": ErrorCode(
        "The order names a receipt that this node does not know",
        4,
        "The node's state was rolled back: restore the newest state before going on",
    ),
    "SB-209": ErrorCode(
        "The hospital's data do not allow it", 4, "The hospital's own log says why"
    ),
    "SB-210": ErrorCode(
        "The study is stopped here until a person has looked",
        4,
        "Read the site log, then approve the study again",
    ),
    "SB-211": ErrorCode(
        "The installed code is not the approved code", 4, "Approve the study again after the update"
    ),
    "SB-212": ErrorCode(
        "The model in the order is not usable", 4, "The coordinator must send finite weights"
    ),
    "SB-213": ErrorCode(
        "The update did not pass the export gate", 4, "The hospital's own log says why"
    ),
    "SB-214": ErrorCode(
        "The node failed inside", 4, "The hospital's own log has the trace; nothing left the node"
    ),
    "SB-215": ErrorCode(
        "The study is not signed by a researcher whom this hospital knows",
        5,
        "Compare the key's fingerprint by phone, then add it to study_signers in node.toml",
    ),
    "SB-216": ErrorCode(
        "The secure sum is not the one that was approved",
        5,
        "Compare the roster's fingerprints by phone; somebody may have swapped a key or added a hospital",
    ),
    "SB-217": ErrorCode(
        "The permit is missing, not valid, or does not cover this",
        4,
        "Ask the permit's issuer for one that covers the study; of a refused order, the hospital's own log says why",
    ),
    "SB-218": ErrorCode(
        "The permit is revoked, or the revocation list proves nothing today",
        4,
        "Get the issuer's newest revocation list; the hospital's own log says what is wrong with it",
    ),
    "SB-219": ErrorCode(
        "The hospital has not said yes or no yet",
        4,
        "A person there releases the answer, or its hours begin; the coordinator asks again by itself",
    ),
    "SB-220": ErrorCode(
        "A person at the hospital decided not to release the answer",
        4,
        "Ask the hospital; the charge stays",
    ),
    "SB-221": ErrorCode(
        "The coordinator's log is not the one that this hospital has seen",
        5,
        "Compare log/checkpoint.txt of the models with other hospitals; the hospital's own log says why",
    ),
    # Data, inside the hospital
    "SB-301": ErrorCode("A column is missing", 1, "Compare the table's header with the contract"),
    "SB-302": ErrorCode("A value has the wrong type", 1, "Correct it or declare a missing code"),
    "SB-303": ErrorCode(
        "A value is out of the contract's range", 1, "Correct the value, the unit or the contract"
    ),
    "SB-304": ErrorCode("A patient appears twice", 1, "Keep one row per patient for this task"),
    "SB-305": ErrorCode(
        "All patients have the same label", 1, "Training needs both classes at a hospital"
    ),
    "SB-306": ErrorCode(
        "Too few patients", 1, "Join with more patients or lower min_patients after approval"
    ),
    "SB-307": ErrorCode("The data set cannot be read", 1, "Check the path and the permissions"),
    "SB-308": ErrorCode(
        "The consent source is unreadable, stale or unclear", 1, "Refresh the consent source"
    ),
    "SB-309": ErrorCode(
        "The task lets one patient change another's gradient",
        1,
        "Report it to the task's author: such a task cannot be trained with patient-level privacy",
    ),
    "SB-310": ErrorCode(
        "The split would separate patients who belong together",
        1,
        "Split by the group named in the message",
    ),
    "SB-312": ErrorCode(
        "Too much of a sample's expression is missing",
        1,
        "Leave the sample out, or agree on genes that all hospitals measure",
    ),
    "SB-313": ErrorCode(
        "A unit or a code does not fit the contract",
        1,
        "Correct units or maps of the data set in node.toml; see `solblom node check --study FILE`",
    ),
    "SB-314": ErrorCode(
        "Who belongs to which family is not clear, or has changed",
        1,
        "Give each patient one family, and keep it while a study by family runs",
    ),
    # Integrity
    "SB-401": ErrorCode(
        "The model artefact does not verify", 5, "Do not use it; ask for the original"
    ),
    "SB-402": ErrorCode(
        "The privacy ledger cannot be trusted", 5, "Stop the node and restore the newest ledger"
    ),
    "SB-403": ErrorCode(
        "A reply does not carry the hospital's signature", 5, "Look for a middleman"
    ),
    "SB-404": ErrorCode(
        "A reply does not fit the order it answers", 5, "Update both sides to one version"
    ),
    "SB-405": ErrorCode("A signature or digest does not hold", 5, "Ask for the original file"),
    "SB-406": ErrorCode(
        "The log of decisions cannot be trusted",
        5,
        "Stop the node, run `solblom node log verify`, and find out who changed the log",
    ),
    "SB-407": ErrorCode(
        "The record of a cohort does not hold",
        5,
        "Restore the node's state folder; without the manifest the cohort cannot be named again",
    ),
    **LOG_AND_MODEL_CODES,
    # Runs
    "SB-501": ErrorCode(
        "Too few hospitals answered", 6, "Run `solblom run resume RUN` when they are back"
    ),
    "SB-502": ErrorCode("No such run", 3, "See `solblom run list`"),
    "SB-503": ErrorCode("No such model", 3, "See `solblom model list`"),
    "SB-504": ErrorCode("The run has ended", 1, "See `solblom run show RUN`"),
    "SB-505": ErrorCode(
        "The transport is not installed", 3, "Install the part that offers it, or choose another"
    ),
    "SB-506": ErrorCode(
        "The input does not fit the model", 3, "Compare it with the model's data contract"
    ),
    "SB-507": ErrorCode(
        "Too many hospitals refused",
        4,
        "Ask the hospitals that the message names, then run `solblom run resume RUN`",
    ),
    "SB-508": ErrorCode(
        "The coordinator failed inside", 1, "Report it with the trace that the message names"
    ),
    "SB-509": ErrorCode("The run was stopped by a person", 1, "To go on: `solblom run resume RUN`"),
    # Exchange and enrolment
    "SB-601": ErrorCode(
        "An exchange folder cannot be used",
        3,
        "Check that it exists, and who may read and write it",
    ),
    "SB-602": ErrorCode(
        "The carrier's command failed", 6, "Run it by hand, then run the exchange again"
    ),
    "SB-603": ErrorCode(
        "An invitation or an answer to one does not hold", 5, "Ask for a new invitation"
    ),
    # The vault's process
    "SB-610": ErrorCode(
        "The vault's socket cannot be used", 3, "Correct vault.socket in node.toml"
    ),
    "SB-611": ErrorCode(
        "The vault does not answer",
        6,
        "See `solblom node status`; `solblom node start` starts it again by itself",
    ),
    "SB-612": ErrorCode(
        "The vault's process is not cut off from the network",
        3,
        "Run it under systemd with PrivateNetwork=yes, or in a container without a network; or set "
        'vault.isolation = "best-effort" in node.toml once the security officer agrees',
    ),
    "SB-613": ErrorCode(
        "A vault runs on this socket already", 3, "Stop that one first: a node has one vault"
    ),
    "SB-614": ErrorCode(
        "The message is larger than the vault's socket carries", 3, "Use a smaller model"
    ),
    # Network
    "SB-620": ErrorCode(
        "The other side cannot be reached",
        6,
        "Check the address, the port and the firewall; the node tries again by itself",
    ),
    "SB-621": ErrorCode(
        "The coordinator's certificate is not trusted",
        5,
        "Compare coordinator.ca_file with the coordinator's operator; a proxy that inspects TLS needs its own "
        "authority in that file",
    ),
    "SB-622": ErrorCode(
        "The coordinator's certificate is out of date",
        5,
        "Check this machine's clock first, then ask the coordinator's operator",
    ),
    "SB-623": ErrorCode(
        "The proxy does not let the node through",
        6,
        "Correct coordinator.proxy in node.toml (http://name:password@host:port), or ask for an exception",
    ),
    "SB-624": ErrorCode(
        "The clocks differ", 3, "Set this machine's clock (NTP); the coordinator allows 5 minutes"
    ),
    "SB-625": ErrorCode(
        "The coordinator does not know this node",
        3,
        "Ask the operator whether the node is enrolled, or was removed",
    ),
    "SB-626": ErrorCode(
        "The run names another code bundle",
        5,
        "Update both sides to one version; a node runs no code that arrives",
    ),
    "SB-627": ErrorCode(
        "The answer is not a coordinator's",
        6,
        "Check coordinator.url; a proxy or a portal may answer in its place",
    ),
    "SB-628": ErrorCode(
        "The node has left or is not set up for a network",
        3,
        "Run `solblom node join INVITE` with an invitation that names an address",
    ),
    "SB-629": ErrorCode("The run has ended meanwhile", 6, "Nothing needs to be done"),
    "SB-630": ErrorCode(
        "The coordinator's service does not run",
        6,
        "Run `solblom coordinator start` on the coordinator's machine",
    ),
    "SB-631": ErrorCode(
        "The service runs already, or its port is taken",
        3,
        "See `solblom coordinator status`, or choose another --port",
    ),
    "SB-632": ErrorCode(
        "Flower's SuperLink does not start",
        6,
        "Its own words stand in log/superlink.txt of the Solblom folder",
    ),
}

REFUSAL_CODES = frozenset(code for code in CODES if code.startswith("SB-2"))
"""The only words of a refusal that may cross a hospital's boundary."""


class SolblomError(Exception):
    """An error that a person can act on."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint if hint is not None else CODES[code].hint

    @property
    def exit_status(self) -> int:
        """The process exit status that belongs to the code."""
        return CODES[self.code].exit_status


class ConfigurationError(SolblomError):
    """A file or a setting is wrong."""


class RefusedError(SolblomError):
    """A hospital's rule said no. Only `code` leaves the hospital."""


class DataError(SolblomError):
    """A hospital's data do not fit. Shown inside the hospital only; outside it is SB-209."""


class IntegrityError(SolblomError):
    """A signature, digest or ledger does not hold."""


class RunError(SolblomError):
    """A run could not go on."""
