"""What stands in vault.proto, and that the committed code is what it makes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import solblom_client
from solblom_client.service import vault_pb2

FOLDER = Path(solblom_client.__file__).parent / "service"
NO_COMPILER = importlib.util.find_spec("grpc_tools") is None


@pytest.mark.skipif(NO_COMPILER, reason="grpcio-tools is not installed")
@pytest.mark.parametrize("name", ["vault_pb2.py", "vault_pb2.pyi"])
def test_the_committed_code_is_made_from_the_proto_file(tmp_path: Path, name: str) -> None:
    # To make it anew: the same command with --python_out and --pyi_out in client/solblom_client/service.
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER}"),
            *(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", "vault.proto"),
        ],
        check=True,
        timeout=60,
    )
    assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


def test_the_socket_has_two_calls_and_they_carry_nothing_but_sealed_bytes_and_a_description() -> (
    None
):
    service = vault_pb2.DESCRIPTOR.services_by_name["Vault"]
    assert service.full_name == "solblom.vault.v1.Vault"
    calls = {m.name: (m.input_type.name, m.output_type.name) for m in service.methods}
    assert calls == {
        "Process": ("SealedOrder", "SealedReply"),
        "Describe": ("DescribeRequest", "Description"),
    }
    fields = {
        name: {field.name for field in message.fields}
        for name, message in vault_pb2.DESCRIPTOR.message_types_by_name.items()
    }
    assert fields == {
        "SealedOrder": {"sealed"},
        "SealedReply": {"sealed"},
        "DescribeRequest": set(),
        "Description": {
            *("site", "recipient", "isolation_level", "isolation_notes", "working"),
        },
    }
